"""Logs that another process reads, and everything that a pass over them tells."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from backends.change import Change
from backends.errors import Damaged
from backends.log.backup import Backup
from backends.log.reader.passes import EndOfLog
from backends.log.writer.options import LogOptions
from backends.sqlite.read_ahead import ChangesAhead, ReadLog, reading
from backends.storage.local import LocalStorage
from tests.fake_lightningd.calls import bump
from tests.log.histories import backup_in, silent, source

SMALL_SEGMENTS = LogOptions(segment_size=10_000, preallocate_min=1024, preallocate_max=1024)
LARGE = "x" * 100_000
"""More than a change may have to be kept in memory."""

Outcome = tuple[list[tuple[object, ...]], EndOfLog | str, int]


def stored(path: Path, changes: Sequence[Sequence[str]], *, encrypted: bool = False) -> Backup:
    """A backup in two sessions, whose log is these changes."""
    backup = backup_in(LocalStorage(path), SMALL_SEGMENTS)
    backup.create(source(b"", 0), encrypt=(lambda key: None) if encrypted else None)
    half = len(changes) // 2
    for name, part in (("one", changes[:half]), ("two", changes[half:])):
        with closing(backup.open(silent, name)) as writer:
            for number, statements in enumerate(part):
                version = writer.position.data_version + 1
                writer.append(Change(version, [*statements, bump(version)]))
                if number % 20 == 0:
                    writer.maintain()  # makes the next segment
    return backup


def many(count: int = 400) -> list[list[str]]:
    return [[f"INSERT INTO t VALUES ({number}, '{os.urandom(60).hex()}')"] for number in range(count)]


def listed(changes: ReadLog, after: Callable[[int], None] = lambda number: None) -> Outcome:
    """Everything that a pass tells; `after` is called with the number of changes so far, after each."""
    found: list[tuple[object, ...]] = []
    try:
        for change in changes:
            found.append((*change[:3], list(change.statements), *change[4:], changes.segment))
            after(len(found))
        return found, changes.end(), changes.base_time
    except Damaged as error:
        return found, str(error), changes.base_time


def plain(backup: Backup) -> Outcome:
    with backup.read() as reader:
        return listed(reader.changes())


def helped(backup: Backup, after: Callable[[int], None] = lambda number: None) -> Outcome:
    with backup.read() as reader, reading(reader, 0) as changes:
        assert isinstance(changes, ChangesAhead)
        return listed(changes, after)
