"""A generation as it is read back: the snapshot, then every change after it, up to the last one that was saved.

Needs no lock. What is read was opened at one moment, so a writer beside it that goes on, or switches the generation,
takes nothing away: the reader sees a whole backup at some version.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from backends.base import Position
from backends.errors import Damaged
from backends.log.format.documents import MANIFEST, SESSION, Kept, Manifest, Session
from backends.log.format.records import segment_name
from backends.log.reader.passes import Changes, Log, Scan
from backends.log.reader.snapshot import SnapshotReader


@dataclass(frozen=True, slots=True)
class Reader:
    """An open generation. Use it as a context manager; each part of it can be read as often as one likes."""

    log: Log
    snapshot: SnapshotReader
    files: ExitStack
    """What is open, and closed with it."""
    session: Session | None = None
    """The session marker: it tells how far the log was once saved."""
    session_damage: Damaged | None = None
    """Why that cannot be read."""
    kept: Kept | None = None
    """For the generation that is kept beside the current one: where its log ended, which no session marker tells."""
    misnamed: Callable[[], str] = str
    """A sentence for files that may be ones that are missing; asked for only once something is."""

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.close()

    @property
    def manifest(self) -> Manifest:
        """The generation's."""
        return self.log.manifest

    def stored_bytes(self) -> int:
        """Bytes of the snapshot and the segments, as they lie in their files."""
        return self.snapshot.size() + self.log.stored_bytes()

    def changes(self) -> Changes:
        """A pass over every change after the snapshot."""
        return Changes(self.log, self._check_saved)

    @property
    def node_id(self) -> str | None:
        """The public key (hex) of the node whose backup this is, once it was known."""
        return self.manifest.node_id or (None if self.session is None else self.session.node_id)

    def scan(self) -> Scan:
        """A pass over the headers of the changes' records, which costs no more than reading them."""
        return Scan(self.log, self._check_saved)

    def _check_saved(self, end: Position) -> str | None:
        """Raises Damaged when more was once saved than the log holds, or the session marker cannot be read.

        Else says in words why nothing tells whether the end of the log is missing; None when something does.
        """
        session = self.session
        if self.kept is not None:
            self._check_kept(end, self.kept.data_version)
            return None
        if self.session_damage is not None:
            raise Damaged(
                f"the session marker cannot be read ({self.session_damage.what}), and nothing else tells whether the "
                "end of the log is missing,",
                SESSION,
                0,
                end.data_version,
            )
        if session is None:  # whoever removes it can empty the log as well, so an empty log tells nothing either
            return MISSING_SESSION
        if self.manifest.generation < session.generation:
            raise old_manifest(self.manifest, session, end.data_version)
        if end.sequence < session.sequence:
            raise self._end_missing(
                f"the log ends with record {end.sequence}, and record {session.sequence} (version "
                f"{session.data_version}) was once saved: the end of the log is missing",
                end,
                self.misnamed(),
            )
        return None

    def _check_kept(self, end: Position, version: int) -> None:
        """Raises Damaged unless the log of a kept generation leads to the version that it once led to."""
        if end.data_version != version:
            what = f"the log ends at version {end.data_version}, and version {version} was once saved: its end is gone"
            raise self._end_missing(what, end)

    def _end_missing(self, what: str, end: Position, beside: str = "") -> Damaged:
        index, handle = self.log.segments[-1]
        return Damaged(what, segment_name(index), handle.size(), end.data_version, beside)


MISSING_SESSION = (
    f"the file `{SESSION}` is missing, and nothing else tells whether the end of the log is, too: compare the time of "
    "the last change with what you know (only a backup of an earlier release has no such file before its node first "
    "starts)"
)


def old_manifest(manifest: Manifest, session: Session, last_good: int) -> Damaged:
    """The error for a manifest of a generation that was replaced since: files of different times were mixed."""
    return Damaged(
        f"it names generation {manifest.generation}, and generation {session.generation} was begun since: it is an old "
        "copy of itself",
        MANIFEST,
        0,
        last_good,
    )
