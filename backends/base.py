"""The few types that all of the backup speaks of: where a log ends, who wrote it, what a snapshot is made of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from backends.text import process_in_words

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
class Position:
    """Where the log ends: what the next call is compared with."""

    data_version: int
    sequence: int
    checksum: int
    time: int = 0
    """When the last record was written, seconds since 1970."""


Announce = Callable[[Position], object]
"""Called with the place where a new generation begins, when all that is left to do is to publish it."""


@dataclass(frozen=True, slots=True)
class LastWriter:
    """Who wrote a backup last, as the session marker in it tells."""

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
