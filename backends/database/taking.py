"""A snapshot taken from a node's database: copied aside by SQLite's backup API, checked, then streamed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backends.base import SnapshotSource
from backends.database.source import copy_database
from backends.log.snapshot import PIECE
from backends.scratch import scratch_directory

PagesDone = Callable[[int, int], None]
"""Called with pages copied so far, and all of them."""

BytesDone = Callable[[int, int], None]
"""Called with bytes taken so far, and all of them."""


@contextmanager
def taken(
    database: Path, scratch: Path, *, writable: bool, progress: PagesDone | None = None
) -> Iterator[SnapshotSource]:
    """The database as of now, as a source for a new generation.

    The copy lies in `scratch` while it is streamed (as large as the database, mode 0600) and is gone afterwards.
    `writable` lets SQLite roll back a hot journal first, as lightningd itself would: only for a stopped node.
    """
    with scratch_directory(scratch) as directory:
        copy = directory / "copy.sqlite3"
        state = copy_database(database, copy, writable=writable, progress=progress)
        yield SnapshotSource(file_pieces(copy), state.data_version or 0, state.node_id, size=copy.stat().st_size)


def nothing() -> SnapshotSource:
    """The database of a node that has never started."""
    return SnapshotSource((), 0, None)


def watched(source: SnapshotSource, progress: BytesDone) -> SnapshotSource:
    """The same, telling how much of it has been taken."""

    def pieces() -> Iterator[bytes]:
        done = 0
        for piece in source.pieces:
            yield piece
            done += len(piece)
            progress(done, source.size)

    return replace(source, pieces=pieces())


def file_pieces(path: Path) -> Iterator[bytes]:
    """The file, in pieces of a snapshot's size."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
