"""The last changes of a log, read without reading the rest of it."""

from pathlib import Path

import pytest

from backends.base import MAX_ROLL_FORWARD
from backends.change import Change
from backends.errors import Damaged
from backends.log.reader import last_changes
from backends.log.reader.generation import Reader
from backends.log.reader.last_changes import read_end, statements_of
from backends.log.reader.records import RecordReader
from backends.log.writer.options import LogOptions
from backends.storage.local import LocalStorage
from tests.fake_lightningd import History
from tests.log.destinations import Maker
from tests.log.histories import backup_in, change, changes, silent, source


def test_new_backup_has_no_last_changes(make: Maker) -> None:
    position = make().create(source())
    with make().read() as generation:
        end = read_end(generation)
    assert (end.sequence, end.checksum, end.data_version) == (0, position.checksum, 0)
    assert (end.changes, end.whole) == ((), True)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [1, 15, 16, 17, 120])
def test_last_changes_equal_those_read_from_the_whole_log(make: Maker, count: int) -> None:
    """Across segments of every kind, restarts, and lone PRAGMAs."""
    history, sent = History(), list[Change]()
    make().create(source())
    for number, one in enumerate(changes(count, size=300)):
        if number % 40 == 0:
            writer = make().open(silent, f"session {number}")
        history.version = one.data_version
        extra = [change(history.foreign_keys(on=number % 2 == 0))] if number % 5 == 0 else []
        for each in (one, *extra):
            writer.append(each)
            sent.append(each)
        writer.maintain()
        position = writer.position
        if number % 40 == 39:
            writer.close()
    writer.close()
    with make().read() as generation:
        end = read_end(generation)
        read = [list(statements) for statements in statements_of(generation, end.changes)]
    with make().read() as generation:
        every = [list(stored.statements) for stored in generation.changes()]
    assert (end.sequence, end.checksum, end.data_version) == (
        position.sequence, position.checksum, position.data_version,
    )  # fmt: skip
    assert sum(one.advances for one in end.changes) == min(count, MAX_ROLL_FORWARD)
    assert read == every[-len(read) :]
    assert end.whole == (len(read) == len(sent))


def test_foreign_keys_setting_is_given_for_each_last_change(make: Maker) -> None:
    make().create(source())
    history = History()
    writer = make().open(silent, "one")
    for call in [
        history.note(),
        history.foreign_keys(on=False),
        history.note(),
        history.foreign_keys(on=True),
        history.note(),
        history.foreign_keys(on=False),
    ]:
        writer.append(change(call))
    writer.close()
    writer = make().open(silent, "two")
    writer.append(change(history.note()))
    writer.close()
    with make().read() as generation:
        told = [one.foreign_keys for one in read_end(generation).changes]
    assert told == [True, True, False, False, True, True, True]


def test_end_of_long_log_is_read_from_last_segments_only(
    tmp_path: Path, small: LogOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log with more than ten segments, at most three are opened."""
    backup = backup_in(LocalStorage(tmp_path / "lightning.bkp"), small)
    backup.create(source())
    writer = backup.open(silent, "one")
    for one in changes(400, size=300):
        writer.append(one)
        writer.maintain()
    writer.close()
    opened: list[int] = []
    records = last_changes._records

    def noting(reader: Reader, number: int) -> RecordReader:
        opened.append(number)
        return records(reader, number)

    monkeypatch.setattr(last_changes, "_records", noting)
    with backup.read() as reader:
        read_end(reader)
        assert len(reader.log.segments) > 10
    assert len(opened) <= 3


def test_missing_end_of_saved_log_is_damage(tmp_path: Path) -> None:
    backup = backup_in(LocalStorage(tmp_path / "lightning.bkp"))
    backup.create(source())
    writer = backup.open(silent, "one")
    for one in changes(5):
        writer.append(one)
    writer.close()
    segment = max((tmp_path / "lightning.bkp").glob("segment-*"))
    segment.chmod(0o600)
    content = segment.read_bytes()
    segment.write_bytes(content[:200] + bytes(len(content) - 200))
    with backup.read() as generation, pytest.raises(Damaged):
        read_end(generation)
