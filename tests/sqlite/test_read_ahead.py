"""A log that another process reads: the same changes, the same end and the same errors, whatever happens to it."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.change import Change
from backends.log.backup import Backup
from backends.log.reader.passes import EndOfLog
from backends.sqlite import read_ahead
from backends.sqlite.read_ahead import ChangesAhead, reading
from backends.sqlite.rebuild import rebuild
from backends.storage.local import LocalStorage
from backends.system import overlap
from tests.log.corruption import record_bounds
from tests.log.histories import backup_in, silent, source
from tests.sqlite.ahead import LARGE, helped, many, plain, stored
from tests.sqlite.conftest import Recording

pytestmark = [
    pytest.mark.usefixtures("free_processor", "quick_disk"),
    pytest.mark.skipif(read_ahead._processors() < 2, reason="with one processor, nothing is read ahead"),
]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_log_read_ahead_is_the_same(tmp_path: Path, own_reading: list[int], encrypted: bool) -> None:
    backup = stored(tmp_path / "backup", many(), encrypted=encrypted)
    found = helped(backup)
    assert found == plain(backup)
    assert len(found[0]) == 400 and len({change[-1] for change in found[0]}) > 2  # segments
    assert own_reading == []


def test_empty_log_read_ahead_is_the_same(tmp_path: Path, own_reading: list[int]) -> None:
    backup = stored(tmp_path / "backup", [])
    assert helped(backup) == plain(backup)
    assert own_reading == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.lists(TEXTS, max_size=4), max_size=20))
@settings(max_examples=15, deadline=None)
def test_any_statements_read_ahead_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, changes: list[list[str]]
) -> None:
    backup = stored(tmp_path_factory.mktemp("any") / "backup", changes)
    found = helped(backup)
    assert found == plain(backup)
    assert [change[3][:-1] for change in found[0]] == changes  # type: ignore[index]


def recorded(recording: Recording, path: Path) -> Backup:
    backup = backup_in(LocalStorage(path))
    database = b"" if recording.before is None else recording.before.read_bytes()
    changes = list(recording.changes())
    backup.create(source(database, changes[0][0] - 1))
    with closing(backup.open(silent, "one")) as writer:
        for version, writes in changes:
            writer.append(Change(version, writes))
    return backup


def check_rebuilt(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilt with help and without, the databases are the same byte for byte."""
    with backup.read() as reader:
        without = rebuild(reader, tmp_path / "without", durable=False)
        monkeypatch.setattr(read_ahead, "WORTH_IT", 0)
        with_help = rebuild(reader, tmp_path / "with", durable=False)
    assert with_help == without
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


def test_recorded_node_is_rebuilt_the_same(
    fresh_channel: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reading: list[int]
) -> None:
    check_rebuilt(recorded(fresh_channel, tmp_path / "backup"), tmp_path, monkeypatch)
    assert own_reading == []


def test_recorded_upgrade_is_rebuilt_the_same(
    upgrade: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reading: list[int]
) -> None:
    check_rebuilt(recorded(upgrade, tmp_path / "backup"), tmp_path, monkeypatch)
    assert own_reading == []


@pytest.mark.parametrize("what", ["a flipped bit", "a record left out", "a segment that is missing"])
def test_damage_in_log_read_ahead_is_reported_as_without(tmp_path: Path, own_reading: list[int], what: str) -> None:
    backup = stored(tmp_path / "backup", many())
    segment = sorted((tmp_path / "backup").glob("segment-*"))[1]
    segment.chmod(0o600)
    data = bytearray(segment.read_bytes())
    bounds = record_bounds(bytes(data))
    if what == "a flipped bit":
        data[bounds[20] + 50] ^= 1
    elif what == "a record left out":
        del data[bounds[20] : bounds[21]]
    segment.write_bytes(data[:64] + bytes(len(data) - 64) if what == "a segment that is missing" else data)
    found = helped(backup)
    assert found == plain(backup)
    assert isinstance(found[1], str) and found[0]
    assert len(own_reading) == 1


def test_torn_end_of_log_read_ahead_is_reported_as_without(tmp_path: Path, own_reading: list[int]) -> None:
    backup = stored(tmp_path / "backup", many(30))
    last = max(path for path in (tmp_path / "backup").glob("segment-*") if any(path.read_bytes()[64:]))
    last.chmod(0o600)
    data = last.read_bytes()
    last.write_bytes(data[: record_bounds(data)[-1] - 30])
    (tmp_path / "backup" / "session").unlink()  # it says that the last change was acknowledged
    found = helped(backup)
    assert found == plain(backup)
    assert isinstance(found[1], EndOfLog) and found[1].torn and found[1].end_unverified
    assert own_reading == []


def test_large_change_and_those_after_it_are_read_by_this_process(tmp_path: Path, own_reading: list[int]) -> None:
    changes = many()
    changes[200] = [f"INSERT INTO t VALUES (0, '{LARGE}')", "DELETE FROM t"]
    backup = stored(tmp_path / "backup", changes)
    assert helped(backup) == plain(backup)
    assert len(own_reading) == 1 and 100 < own_reading[0] <= 200


def test_only_long_local_logs_are_read_ahead_where_a_processor_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stored(tmp_path / "backup", many(20)).read() as reader:

        def helps(worth_it: int | None = 0) -> bool:
            with reading(reader, worth_it) as changes:
                return isinstance(changes, ChangesAhead)

        assert helps() and not helps(None) and not helps(reader.log.stored_bytes() + 1)
        with monkeypatch.context() as there:  # beside a running node
            there.setattr(overlap._Setting, "allowed", False)
            assert not helps()
        with monkeypatch.context() as there:
            there.setattr(read_ahead, "_processors", lambda: 1)
            assert not helps()
        with monkeypatch.context() as there:  # none of which is free
            there.setattr(read_ahead, "_load", lambda: float(os.cpu_count() or 1))
            assert not helps()
        with monkeypatch.context() as there:  # behind a connection
            there.setattr(type(reader.log.segments[0][1]), "survives_fork", False)
            assert not helps()
