"""A snapshot taken from a node's database: copied aside by SQLite's backup API, checked, then streamed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from backends.base import SnapshotSource
from backends.errors import BackupError
from backends.log.reader.snapshot import PIECE
from backends.mounts.table import mount_of
from backends.sqlite.source import copy_database
from backends.system.scratch import scratch_directory
from backends.text import printable, shell_line

PagesDone = Callable[[int, int], None]
"""Called with pages copied so far, and all of them."""

BytesDone = Callable[[int, int], None]
"""Called with bytes taken so far, and all of them."""

SPARE = 1 << 20
"""Bytes that stay free beside a copy of the database."""

_COMPRESSING = frozenset({"btrfs", "zfs", "bcachefs", "f2fs", "fuse.zfs"})
"""Filesystems on which a copy may take less than its size: there, only trying tells."""


class NoRoom(BackupError):
    """The disk that a copy of the database should lie on for a while is too full for it. Nothing was begun."""


@contextmanager
def consistent_copy(
    database: Path, scratch: Path, *, writable: bool, progress: PagesDone | None = None, instead: str | None = None
) -> Iterator[SnapshotSource]:
    """The database as of now, as a source for a new generation.

    The copy lies in `scratch` while it is streamed (as large as the database, mode 0600) and is gone afterwards.
    `writable` lets SQLite roll back a hot journal first, as lightningd itself would: only for a stopped node. `instead`
    is how another place for the copy is chosen, in words that follow "Make room there; or". Raises NoRoom and what
    `copy_database` raises.
    """
    _demand_room(database, scratch, instead)
    with scratch_directory(scratch) as directory:
        copy = directory / "copy.sqlite3"
        state = copy_database(database, copy, writable=writable, progress=progress)
        yield SnapshotSource(file_pieces(copy), state.data_version or 0, state.node_id, size=copy.stat().st_size)


def _demand_room(database: Path, scratch: Path, instead: str | None) -> None:
    """Before it is tried: a disk that was filled to the last byte would stop whatever else writes to it."""
    needed = free = 0
    with suppress(OSError):  # then trying tells
        if mount_of(scratch).kind in _COMPRESSING:
            return
        needed, free = database.stat().st_size + SPARE, shutil.disk_usage(scratch).free
    if free < needed:
        resync = shell_line("backup-cli", "resync", "--lightning-dir", database.parent, "--scratch")
        instead = instead or (
            "have the copy made on another disk, with the node stopped, and start it then (DIR is a directory of yours "
            f"there): {resync} DIR"
        )
        raise NoRoom(
            f"for a new snapshot the database is copied first, which takes {_mib(needed)} MiB in {printable(scratch)} "
            f"for a while; only {free >> 20} MiB are free on that disk. Nothing was changed. Make room there; or "
            f"{instead}"
        )


def _mib(count: int) -> int:
    return -(-count >> 20)


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
