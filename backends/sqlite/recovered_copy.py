"""A stopped node's database as it will be when the node starts, without touching it.

What lightningd's last crash left beside it, a hot journal or a WAL, is part of the database until SQLite has dealt with
it; that changes the file, so it is done to a copy.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackupError
from backends.sqlite.connection import READ_WRITE, corrupt, names_super_journal, opened, run
from backends.sqlite.error_text import FOREIGN_JOURNAL
from backends.system.scratch import scratch_directory, scratch_place

_SUFFIXES = ("-journal", "-wal")


@contextmanager
def recovered_copy(path: Path) -> Iterator[Path]:
    """A file to open read-only: `path` itself, or a recovered copy in a private temporary directory.

    Nobody may write to it meanwhile, and nothing in this process may have it open. Raises Corrupt or BackupError.
    """
    path = path.resolve()  # SQLite looks for the others beside the real file too
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
                f"{path} has to be copied to {directory} to be read, and that failed: {error.strerror}; "
                "it is as it was. Set TMPDIR to a directory with room for it, then try again"
            ) from error
        with opened(copy, READ_WRITE, path) as connection:
            run(connection, "PRAGMA journal_mode = DELETE")
            run(connection, "SELECT count(*) FROM sqlite_schema")
        yield copy


def _in_wal_mode(path: Path) -> bool:
    """Whether SQLite would make files beside it even to read it."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:] == b"\2\2"
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}; check the path and try again") from error
