"""Whoever reads or opens a hostile backup, and how much time and memory that may take."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends.errors import BackupError
from tests.log.corruption import Files, backup_of
from tests.log.histories import silent

MEMORY = 24 << 20


@contextmanager
def within(size: int) -> Iterator[None]:
    """No more than so many bytes of memory are taken by what is done here."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def read(files: Files) -> list[int]:
    """The versions, of a backup that is read to the end, statement by statement."""
    found = []
    with backup_of(files).read() as generation:
        for _ in generation.snapshot:
            pass
        for change in generation.changes():
            for _ in change.statements:
                pass
            found.append(change.data_version)
    return found


def refused(files: Files) -> BackupError:
    """What reading says; opening may succeed or be refused."""
    with within(MEMORY), pytest.raises(BackupError) as caught:
        read(files)
    try:
        writer = backup_of(files).open(silent, "victim")
    except BackupError:
        pass
    else:
        writer.close()
    return caught.value
