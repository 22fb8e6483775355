"""A stopped node's database as it will be when the node starts, read without touching it.

A hot journal or a WAL that a crash of lightningd left beside the database is part of it until SQLite has recovered it.
Recovery changes the file, so it is done on a copy.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackupError
from backends.sqlite.connection import READ_WRITE, corrupt, names_super_journal, opened, run
from backends.sqlite.error_text import FOREIGN_JOURNAL
from backends.sqlite_header import FILE_FORMAT, in_wal_mode
from backends.system.scratch import scratch_directory, scratch_place

_SUFFIXES = ("-journal", "-wal")


@contextmanager
def recovered_copy(path: Path) -> Iterator[Path]:
    """Yield a file to open read-only: `path` itself, or a recovered copy of it in a private temporary directory.

    Until the end, nobody may write to `path`, and this process may not have it open. Raises Corrupt or BackupError.
    """
    path = path.resolve()  # SQLite, too, looks for journal and WAL beside the real file
    others = [suffix for suffix in _SUFFIXES if path.with_name(path.name + suffix).exists()]
    if not others and not _in_wal_mode(path):
        yield path
        return
    if names_super_journal(path):
        raise corrupt(path, FOREIGN_JOURNAL)
    with scratch_directory(scratch_place()) as directory:
        copy = directory / path.name
        try:
            for suffix in ("", *others):
                shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
        except OSError as error:
            raise BackupError(
                f"to be read, {path} must first be copied to {directory}, and that failed: {error.strerror}; "
                "the database is unchanged. Set TMPDIR to a directory with enough free space, then try again"
            ) from error
        with opened(copy, READ_WRITE, path) as connection:
            run(connection, "PRAGMA journal_mode = DELETE")
            run(connection, "SELECT count(*) FROM sqlite_schema")
        yield copy


def _in_wal_mode(path: Path) -> bool:
    """Whether the database is in WAL mode: then SQLite creates files beside it even to read it."""
    try:
        with path.open("rb") as file:
            return in_wal_mode(file.read(FILE_FORMAT.stop))
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}; check the path and try again") from error
