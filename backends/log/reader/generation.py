"""Reading a generation: the snapshot, then every change after it, up to the last one that was saved.

A reader needs no lock. It opens all files at one moment, so a writer that goes on, or begins another generation, takes
nothing away from it: the reader sees a whole backup at some version.
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
    """An open generation. Use it as a context manager. Snapshot and log can each be read any number of times."""

    log: Log
    snapshot: SnapshotReader
    files: ExitStack
    """The open files, which are closed with the Reader."""
    session: Session | None = None
    """The session marker, which says up to where the log was once saved; None if there is none."""
    session_damage: Damaged | None = None
    """Why the session marker cannot be read; None if it can."""
    kept: Kept | None = None
    """For a kept generation, where its log ended: the session marker does not say that. None for the current one."""
    misnamed: Callable[[], str] = str
    """Returns a sentence about files that may be the missing ones; called only when the end of the log is missing."""

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.close()

    @property
    def manifest(self) -> Manifest:
        """The manifest of this generation."""
        return self.log.manifest

    def stored_bytes(self) -> int:
        """Bytes of the files of the snapshot and the segments."""
        return self.snapshot.size() + self.log.stored_bytes()

    def own_bytes(self) -> int:
        """The same without a last segment that the next generation needs, too, as after a compaction."""
        shared = self.kept is not None and self.kept.last_sequence is not None
        return self.stored_bytes() - (self.log.segments[-1][1].size() if shared else 0)

    def changes(self) -> Changes:
        """A pass over every change after the snapshot."""
        return Changes(self.log, self.check_saved)

    @property
    def node_id(self) -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet."""
        return self.manifest.node_of(self.session)

    def scan(self) -> Scan:
        """A pass over the record headers of every change after the snapshot: unpacks nothing."""
        return Scan(self.log, self.check_saved)

    def check_saved(self, end: Position) -> str | None:
        """Raise Damaged if more was once saved than the log holds, or if the session marker cannot be read.

        Otherwise returns None if the end of the log is verified, or a sentence that says why it could not be.
        """
        session = self.session
        if self.kept is not None:
            self._check_kept(end, self.kept)
            return None
        if self.session_damage is not None:
            raise Damaged(
                f"the session marker cannot be read ({self.session_damage.what}), and nothing else shows whether the "
                "end of the log is missing,",
                SESSION,
                0,
                end.data_version,
            )
        if session is None:  # whatever removed it may have emptied the log as well, so an empty log proves nothing
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

    def _check_kept(self, end: Position, kept: Kept) -> None:
        """Raise Damaged unless the log of a kept generation ends where it once ended."""
        version = kept.data_version
        if end.data_version != version or kept.last_sequence not in (None, end.sequence):
            what = f"the log ends at version {end.data_version}, and version {version} was once saved: its end is gone"
            raise self._end_missing(what, end)

    def _end_missing(self, what: str, end: Position, hint: str = "") -> Damaged:
        index, handle = self.log.segments[-1]
        return Damaged(what, segment_name(index), handle.size(), end.data_version, hint)


MISSING_SESSION = (
    f"the file `{SESSION}` is missing, and nothing else shows whether the end of the log is missing, too: compare the "
    "time of the last change with what you know (only a backup made by an earlier release has no such file before its "
    "node first starts)"
)


def old_manifest(manifest: Manifest, session: Session, last_good: int) -> Damaged:
    """The error for a manifest that names a generation replaced since: files of different times were mixed."""
    return Damaged(
        f"the manifest names generation {manifest.generation}, but generation {session.generation} was begun since: it "
        "is an old copy of itself",
        MANIFEST,
        0,
        last_good,
    )
