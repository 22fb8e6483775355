"""The few types that the whole program shares: where a log ends, who wrote it, what a snapshot is made of."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from backends.text import process_in_words

MAX_ROLL_FORWARD = 16
"""The most changes by which a node's database may be behind its backup and still be rolled forward by the plugin.

A power cut on the node's machine takes back one or two commits. A compaction leaves this many changes in the log and
moves everything before them into the snapshot.
"""

Report = Callable[[str, str], None]
"""Called with a lightningd log level (info, unusual, broken) and one line for the node's log."""


class Pieces:
    """The pieces of a database, which can be read more than once: `read` begins from the start."""

    def __init__(self, read: Callable[[], Iterator[bytes]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[bytes]:
        return self._read()


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """A whole database at one version, to be streamed into a new generation."""

    pieces: Iterable[bytes]
    """An iterator can be read only once: if it does not fit, nothing is given up for it and tried again."""
    data_version: int
    node_id: str | None
    foreign_keys: bool = True
    size: int = 0
    """Bytes of all pieces together; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log ends: what the next `db_write` call is compared with."""

    data_version: int
    sequence: int
    checksum: int
    time: int = 0
    """When the last record was written, seconds since 1970."""


Announce = Callable[[Position], object]
"""Called with the position where a new generation begins, right before the generation is published."""


@dataclass(frozen=True, slots=True)
class LastWriter:
    """Who wrote a backup last, according to the session marker in it."""

    session_id: str
    host: str
    pid: int  # 0: unknown
    started: int  # seconds since 1970, or UNKNOWN_TIME
    closed: bool  # the session ended cleanly

    @property
    def process(self) -> str:
        """The writer's process, in words for the middle of a sentence."""
        return process_in_words(self.pid)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes stored at the destination, and the number of records since the snapshot."""

    snapshot: int
    segments: int
    records: int
    kept: int = 0
    """How many generations are kept for their history."""
    kept_bytes: int = 0
    """What they take."""
    kept_oldest: int = 0
    """When the oldest of them was begun, in seconds since 1970; UNKNOWN_TIME if none is kept."""
