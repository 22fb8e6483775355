"""A snapshot of a node's database: copied to scratch space with SQLite's backup API, checked, then streamed."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from backends.base import Pieces, SnapshotSource
from backends.errors import BackupError
from backends.log.reader.snapshot import PIECE
from backends.mounts.table import mount_of
from backends.sqlite.source import copy_database
from backends.sqlite.sparing import forgetful
from backends.system.scratch import scratch_directory
from backends.text import printable, shell_line

PagesDone = Callable[[int, int], None]
"""Called with the pages copied so far, and their total."""

BytesDone = Callable[[int, int], None]
"""Called with the bytes read so far, and their total."""

SPARE = 1 << 20
"""Bytes that must stay free on the disk that holds a copy of the database."""

_COMPRESSING = frozenset({"btrfs", "zfs", "bcachefs", "f2fs", "fuse.zfs"})
"""Filesystems on which a copy may take less space than its size: there, only trying shows whether it fits."""


class NoRoom(BackupError):
    """The disk for a temporary copy of the database has too little free space. Nothing was begun."""


@contextmanager
def consistent_copy(
    database: Path, scratch: Path, *, writable: bool, progress: PagesDone | None = None, instead: str | None = None
) -> Iterator[SnapshotSource]:
    """The database as of now, as a source for a new generation.

    While it is streamed, the copy is in `scratch` (as large as the database, mode 0600); it is removed at the end.
    `writable` lets SQLite roll back a hot journal first, as lightningd itself would: only for a stopped node. `instead`
    tells the user how to choose another place for the copy: it follows "Free some space there; or" in the message of
    NoRoom. Raises NoRoom and what `copy_database` raises.
    """
    _require_space(database, scratch, instead)
    with scratch_directory(scratch) as directory:
        copy = directory / "copy.sqlite3"
        state = copy_database(database, copy, writable=writable, progress=progress)
        yield SnapshotSource(
            Pieces(partial(file_pieces, copy)), state.data_version or 0, state.node_id, size=copy.stat().st_size
        )


def _require_space(database: Path, scratch: Path, instead: str | None) -> None:
    """Raise NoRoom before a copy is tried: one that filled the disk would stop everything else that writes to it."""
    needed = free = 0
    with suppress(OSError):  # unknown: then only trying shows whether it fits
        if mount_of(scratch).kind in _COMPRESSING:
            return
        needed, free = database.stat().st_size + SPARE, shutil.disk_usage(scratch).free
    if free < needed:
        resync = shell_line("backup-cli", "resync", "--lightning-dir", database.parent, "--scratch")
        instead = instead or (
            "stop the node, make the copy on another disk (DIR is a directory of yours there) with the following "
            f"command, then start the node: {resync} DIR"
        )
        raise NoRoom(
            f"for a new snapshot the database is copied first, which takes {_mib(needed)} MiB in {printable(scratch)} "
            f"for a while; only {free >> 20} MiB are free on that disk. Nothing was changed. Free some space there; or "
            f"{instead}"
        )


def _mib(count: int) -> int:
    return -(-count >> 20)


def nothing() -> SnapshotSource:
    """The source for a node that has never started: an empty database."""
    return SnapshotSource((), 0, None)


def watched(source: SnapshotSource, progress: BytesDone) -> SnapshotSource:
    """`source`, which also calls `progress` as its pieces are read."""

    def pieces() -> Iterator[bytes]:
        done = 0
        for piece in source.pieces:
            yield piece
            done += len(piece)
            progress(done, source.size)

    # What can be read only once must not look as if it could be read again.
    return replace(source, pieces=pieces() if isinstance(source.pieces, Iterator) else Pieces(pieces))


def of_our_file(pieces: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """The pieces of a file that this program has made. Whoever writes them would take an OSError for one of the
    destination, so this raises BackupError."""
    try:
        yield from pieces
    except OSError as error:
        raise BackupError(
            f"{path} could not be read: {error.strerror}; nothing was replaced. Check its disk, then try again"
        ) from error


def file_pieces(path: Path) -> Iterator[bytes]:
    """The file's contents, in pieces of PIECE bytes as a snapshot is written."""
    with path.open("rb", buffering=0) as file:
        forget = forgetful(file.fileno(), os.fstat(file.fileno()).st_size)
        while piece := file.read(PIECE):
            yield piece
            forget(file.tell())
