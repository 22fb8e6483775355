"""What a destination does for a node. A new kind of destination is one module with a class of this kind.

Where files lie on some kind of filesystem, `backends.log.backend.LogBackend` does all of it over a `Storage`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.change import Change
from backends.log.documents import Kept
from backends.log.known_damage import KnownDamage
from backends.status import Status
from backends.storage.base import Closed, Space
from backends.words import process_in_words

if TYPE_CHECKING:
    from backends.log.generation import Reader

MAX_ROLL_FORWARD = 16
"""Changes by which a node's database may be behind its backup and still be brought forward by the plugin itself.

A power cut on the node's machine takes back one or two commits. As many stay in the log when all before them is
compacted into a snapshot.
"""

Report = Callable[[str, str], None]
"""Called with a level of lightningd's (info, unusual, broken) and one line for the node's log."""


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """A whole database at one version, to be streamed into a new generation."""

    pieces: Iterable[bytes]
    data_version: int
    node_id: str | None
    foreign_keys: bool = True
    size: int = 0
    """Bytes of all pieces; 0: nobody has said."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the log ends: what the next call is compared with."""

    data_version: int
    sequence: int
    checksum: int
    time: int = 0
    """When the last record was written, seconds since 1970."""


Announce = Callable[[Standing], object]
"""Called with the place where a new generation begins, when all that is left to do is to publish it."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer, as its session marker in the backup tells."""

    session_id: str
    host: str
    pid: int  # 0: unknown
    started: int  # seconds since 1970; UNKNOWN_TIME, too
    closed: bool  # ended in order

    @property
    def process(self) -> str:
        """Its process, in the middle of a sentence."""
        return process_in_words(self.pid)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes as they lie at the destination, and records since the snapshot."""

    snapshot: int
    segments: int
    records: int


class Backend(ABC):
    """One backup at one destination.

    `create`, or `open` and then `append`, `take_snapshot`: by the one writer only. `read` and `peek` by anyone, at any
    time. Whatever fails raises BackupError; after a failed append or snapshot the backend refuses all further ones
    until it is opened anew.
    """

    @abstractmethod
    def describe(self) -> str:
        """The destination as a person would say it."""

    @abstractmethod
    def identify(self) -> str:
        """The backup's random id in hex; needs no `open`. Raises NotABackup, FromTheFuture, Damaged or Unreachable."""

    @abstractmethod
    def inside(self) -> list[str]:
        """The names of the backups in the place that the URL names, when it is not one itself."""

    def closed(self) -> list[Closed]:
        """What keeps this user from a backup in the place that the URL names, because it is other users'."""
        return []

    @abstractmethod
    def check_new(self) -> None:
        """Refuse unless a new backup can be made here; leaves nothing behind."""

    @abstractmethod
    def warnings(self, node_directory: Path) -> list[str]:
        """What a person should know about this destination for that node, a sentence each."""

    def unwritable(self) -> str | None:
        """Why this user could save nothing here, asked without writing; None when nothing is known against it."""
        return None

    def lasting_url(self, url: str) -> str:
        """What backup.lock should name: `url`, with what tells this destination from another in its place."""
        return url

    @abstractmethod
    def found(self) -> list[str]:
        """What this destination is, a short line each: filesystem, mount, server. After `create`."""

    @abstractmethod
    def commit_latency(self) -> float:
        """Seconds that a durable write takes here, the median of a few. After `create`."""

    created = False
    """Whether `create` has made this backup, here and now."""

    @abstractmethod
    def create(self, source: SnapshotSource) -> Standing:
        """A new backup that holds this database; all of it is removed again when that fails."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the whole backup: for a rehearsal's own one. Raises nothing when it is not there."""

    @abstractmethod
    def last_writer(self) -> Writer | None:
        """Who wrote this backup last; None when nobody has yet. Needs no `open`."""

    @abstractmethod
    def peek(self) -> Standing:
        """Where the log ends, by reading only: nothing is changed, and no writer is disturbed. Needs no `open`."""

    def room_to_open(self, snapshot: int | None = None) -> int:
        """Bytes that must be free at the destination so that `open` surely finds room, by reading only.

        With the size of a database, so that a snapshot of that finds room as well. Needs no `open`.
        """
        return 0

    @abstractmethod
    def open(self, report: Report, session_id: str | None = None) -> Standing:
        """Become the writer: keep out the one before, then read the end of the log and repair it.

        The log may end elsewhere than `peek` said: another writer may have gone on until now.
        `session_id` is the node's session; without one it goes on under the last one's (for offline work).
        """

    @property
    @abstractmethod
    def standing(self) -> Standing:
        """Where the log ends now. After `open`."""

    @abstractmethod
    def node_id(self) -> str | None:
        """The public key (hex) of the node whose backup this is, once it was known. Needs no `open`."""

    @abstractmethod
    def open_anew(self, session_id: str) -> None:
        """Become the writer of a backup whose log is damaged; only `take_snapshot` may follow."""

    @abstractmethod
    def append(self, change: Change) -> None:
        """Durable when it returns."""

    @abstractmethod
    def take_snapshot(self, source: SnapshotSource, reason: str, announce: Announce | None = None) -> None:
        """A new generation that begins with this database. `announce` is called right before it is published.

        The old one is kept beside it for KEEP_FOR seconds, or until the next one is replaced in this way.
        """

    @abstractmethod
    def read(self) -> "Reader":
        """The current generation, to be streamed back. Needs no `open`."""

    @abstractmethod
    def read_kept(self) -> "Reader | None":
        """The generation that is kept beside the current one, to be streamed back; None when there is none."""

    @abstractmethod
    def kept(self) -> Kept | None:
        """Which generation is kept; None when there is none."""

    @abstractmethod
    def sizes(self) -> Sizes:
        """What the current generation takes. After `open`; costs no I/O."""

    @abstractmethod
    def space(self) -> Space:
        """Room at the destination."""

    @abstractmethod
    def learn_node_id(self, node_id: str) -> None:
        """Remember whose backup this is; a fresh node's database says so only later."""

    @abstractmethod
    def tell_trouble(self, trouble: str | None) -> None:
        """Leave a sentence for whoever looks at the backup; None when all is well again."""

    @abstractmethod
    def known_damage(self) -> KnownDamage | None:
        """What was once found to be wrong with the current generation, read anew; needs no `open`.

        The writer remembers it for `status`.
        """

    @abstractmethod
    def note_damage(self, damage: KnownDamage) -> bool:
        """Leave what was found for all who look at the backup; needs no `open`. False: that generation is over."""

    @abstractmethod
    def status(self, url: str) -> Status:
        """What there is to know. The writer answers from memory; anyone else reads the log's records."""

    @abstractmethod
    def upkeep(self) -> None:
        """What must be done now and then, off the commit path: make room ahead, look at the session marker."""

    @abstractmethod
    def close(self) -> None:
        """End the session, trim what was allocated ahead. Never raises for a failed destination."""
