"""What every backup does with restarts, new generations and other writers, at every kind of destination."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from backends.base import MAX_ROLL_FORWARD
from backends.compaction.compact import compact_log
from backends.errors import BackupError, Damaged, Fenced
from backends.log.format.records import snapshot_name, time_now
from backends.log.reader.kept import KEEP_FOR
from backends.log.writer.options import DEFAULT_OPTIONS
from backends.log.writer.writer import Writer
from backends.sqlite.rebuild import rebuild
from tests.log.conftest import DATABASE
from tests.log.destinations import Maker
from tests.log.histories import Node, changes, noise, silent, source
from tests.log.model import contents, versions
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

# Opening again


@pytest.mark.parametrize("end", [Writer.close, lambda writer: None], ids=["closed", "killed"])
def test_log_continues_at_same_position_after_restart(
    writer: Writer, created: Maker, end: Callable[[Writer], None]
) -> None:
    written = changes(12, 1)
    for start in range(0, 12, 4):
        for one in written[start : start + 4]:
            writer.append(one)
        writer.maintain()
        before = writer.position
        end(writer)
        writer = created().open(silent, f"session {start}")
        assert writer.position == before
    writer.close()
    assert versions(created()) == list(range(2, 14))


def test_first_change_of_each_session_is_marked_as_its_beginning(writer: Writer, created: Maker) -> None:
    for one in changes(2, 1):
        writer.append(one)
    writer.close()
    again = created().open(silent, "again")
    for one in changes(2, 3):
        again.append(one)
    again.close()
    with created().read() as generation:
        assert [one.begins_session for one in generation.changes()] == [True, False, True, False]


def test_closed_writer_refuses_to_append(writer: Writer, created: Maker) -> None:
    writer.append(changes(1, 1)[0])
    writer.close()
    writer.close()
    with pytest.raises(BackupError):
        writer.append(changes(1, 2)[0])
    assert versions(created()) == [2]


# Generations


def test_new_snapshot_begins_new_generation(writer: Writer, created: Maker) -> None:
    for one in changes(3, 1):
        writer.append(one)
    data = noise(5000).encode()
    writer.take_snapshot(source(data, 9), "a run without the plugin")
    assert writer.position.data_version == 9
    assert writer.sizes().records == 0
    for one in changes(2, 9):
        writer.append(one)
    found = contents(created())
    assert (found.snapshot, [version for version, _ in found.changes]) == (data, [10, 11])
    writer.close()
    again = created().open(silent, "again")
    assert again.position.data_version == 11
    again.close()


def test_too_long_reason_of_snapshot_is_cut_and_not_fatal(writer: Writer, created: Maker) -> None:
    writer.take_snapshot(source(DATABASE, 2), "because " * 1000)
    assert contents(created()).snapshot == DATABASE


def test_reported_sizes_grow_with_appended_changes(writer: Writer) -> None:
    before = writer.sizes()
    assert before.snapshot > 0
    for one in changes(10, 1):
        writer.append(one)
    after = writer.sizes()
    assert (after.snapshot, after.records) == (before.snapshot, before.records + 10)
    assert after.segments > before.segments
    assert 0 < writer.space().free <= writer.space().total


# Writers


def test_last_writer_names_session_and_whether_it_closed(created: Maker) -> None:
    assert created().last_writer() is None
    writer = created().open(silent, "writer")
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", False)
    writer.close()
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", True)
    offline = created().open(silent)
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", False)
    offline.close()


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("options", [replace(DEFAULT_OPTIONS, check_every=0.0)], ids=["marker checked each time"])
def test_replaced_writer_refuses_to_append(created: Maker) -> None:
    told: list[str] = []
    first = created().open(lambda level, line: told.append(level), "first")
    first.append(changes(1, 1)[0])
    second = created().open(silent, "second")
    first.maintain()
    assert told == ["broken"]
    with pytest.raises(Fenced):
        first.append(changes(1, 2)[0])
    second.append(changes(1, 2)[0])
    first.close()
    second.maintain()
    second.append(changes(1, 3)[0])
    second.close()
    assert versions(created()) == [2, 3, 4]
    last = created().last_writer()
    assert last is not None
    assert last.session_id == "second"


def test_node_id_noted_by_writer_is_kept(make: Maker) -> None:
    make().create(source())
    writer = make().open(silent, "writer")
    writer.note_node_id("03bb")
    writer.close()
    assert make().node_id() == "03bb"


# Compaction


def test_compaction_leaves_changes_that_may_be_rolled_forward(writer: Writer, created: Maker, tmp_path: Path) -> None:
    written = changes(MAX_ROLL_FORWARD + 4, 1)
    for one in written[:MAX_ROLL_FORWARD]:
        writer.append(one)
    assert compact_log(writer.storage, tmp_path) is None
    for one in written[MAX_ROLL_FORWARD:]:
        writer.append(one)
    compacted = compact_log(writer.storage, tmp_path)
    assert compacted is not None
    last = written[-1].data_version
    writer.append(changes(1, last)[0])
    writer.publish_compaction(compacted)
    assert versions(created()) == list(range(last - MAX_ROLL_FORWARD + 1, last + 2))
    writer.close()
    again = created().open(silent, "again")
    assert again.position.data_version == last + 1
    again.close()


def test_compaction_in_middle_of_migration_keeps_foreign_keys_off(tmp_path: Path) -> None:
    """Foreign keys are off there, and stay off for the changes replayed after the new snapshot."""
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path)
    node.create()
    node.open()
    node.append(node.history.first())
    node.append(
        node.history.transaction(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (parent REFERENCES parent(id) ON DELETE CASCADE)",
            "INSERT INTO parent VALUES (1)",
            "INSERT INTO child VALUES (1)",
        )
    )
    node.append(node.history.foreign_keys(on=False))
    node.note()
    node.note()
    node.compact()
    node.append(node.history.transaction("DROP TABLE parent"))
    with node.backup().read() as generation:
        assert not generation.manifest.base.foreign_keys
        rebuild(generation, tmp_path / "rebuilt.sqlite3")
    with closing(apsw.Connection(str(tmp_path / "rebuilt.sqlite3"))) as connection:
        assert list(connection.execute("SELECT parent FROM child")) == [(1,)]


# What a new snapshot replaces


def test_replaced_generation_is_kept_and_can_be_read(writer: Writer, created: Maker) -> None:
    assert created().kept() is None
    assert created().held() == []
    written = changes(5, 1)
    for one in written:
        writer.append(one)
    writer.take_snapshot(source(b"another database", 3), "resync")
    writer.append(changes(1, 3)[0])
    writer.maintain()
    writer.close()
    reader = created()
    kept = reader.kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (1, 6)
    with reader.read_held(kept) as generation:
        assert b"".join(generation.snapshot) == DATABASE
        assert [one.data_version for one in generation.changes()] == [2, 3, 4, 5, 6]
    assert versions(created()) == [4]


def test_only_the_last_replaced_generation_is_kept(writer: Writer, created: Maker) -> None:
    writer.append(changes(1, 1)[0])
    writer.take_snapshot(source(b"another database", 3), "resync")
    writer.append(changes(1, 3)[0])
    writer.take_snapshot(source(b"a third one", 9), "resync")
    writer.close()
    kept = created().kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (2, 4)
    assert snapshot_name(1) not in writer.storage.names()


def test_kept_generation_is_removed_after_a_week(
    writer: Writer, created: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append(changes(1, 1)[0])
    writer.take_snapshot(source(b"another database", 3), "resync")
    writer.maintain()
    assert created().kept() is not None
    monkeypatch.setattr("backends.log.reader.kept.time_now", lambda: time_now() + KEEP_FOR + 1)
    writer._next_tidying = 0.0
    writer.maintain()
    assert created().kept() is None
    assert snapshot_name(1) not in writer.storage.names()
    assert contents(created()).snapshot == b"another database"


def test_compaction_does_not_remove_the_kept_generation(writer: Writer, created: Maker, tmp_path: Path) -> None:
    writer.append(changes(1, 1)[0])
    writer.take_snapshot(source(DATABASE, 1), "resync")
    for one in changes(5, 1):
        writer.append(one)
    compacted = compact_log(writer.storage, tmp_path, leave_out=1)
    assert compacted is not None
    writer.publish_compaction(compacted)
    assert versions(created()) == [6]
    (kept,) = created().held()
    with created().read_held(kept) as generation:
        assert [one.data_version for one in generation.changes()] == [2]


def test_kept_generation_that_lost_its_end_is_damaged(writer: Writer, created: Maker) -> None:
    writer.append(changes(1, 1)[0])
    writer.append(changes(1, 2)[0])
    writer.take_snapshot(source(b"another database", 3), "resync")
    writer.close()
    with closing(writer.storage.create("segment-00000001")) as handle:
        handle.write(0, writer.manifest.segment_header(1).encode())
        handle.sync()
    (kept,) = created().held()
    with created().read_held(kept) as generation, pytest.raises(Damaged, match="its end is gone"):
        list(generation.changes())


def test_snapshot_taken_in_doubt_does_not_displace_generation_replaced_by_resync(
    writer: Writer, created: Maker
) -> None:
    writer.append(changes(1, 1)[0])
    writer.take_snapshot(source(b"an older database", 1), "resync")
    writer.append(changes(1, 1)[0])
    writer.take_snapshot(source(b"the same version", 2), "in doubt")
    writer.close()
    kept = created().kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (1, 2)
    with created().read_held(kept) as generation:
        assert [one.data_version for one in generation.changes()] == [2]
    assert contents(created()).snapshot == b"the same version"
