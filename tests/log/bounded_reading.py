"""Reading and opening a hostile backup within bounds of memory."""

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
    """Fail if the code in the `with` block takes `size` bytes of memory or more."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def read(files: Files) -> list[int]:
    """Read a backup to its end, statement by statement; returns the versions of its changes."""
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
    """The error of reading these files; opening them for writing may succeed or be refused."""
    with within(MEMORY), pytest.raises(BackupError) as caught:
        read(files)
    try:
        writer = backup_of(files).open(silent, "victim")
    except BackupError:
        pass
    else:
        writer.close()
    return caught.value
