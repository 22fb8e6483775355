"""What every backend does with rewinds, restarts, new generations and other writers, wherever it writes."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.base import Backend
from backends.change import previous
from backends.database.rebuild import rebuild
from backends.errors import BackupError, Replaced
from backends.log.backend import LogBackend
from tests.log.conftest import DATABASE
from tests.log.destinations import Maker
from tests.log.histories import Node, change, changes, noise, silent, source
from tests.log.model import contents, versions
from tests.standin.calls import bump, foreign_keys, transaction
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

# Rewinding


def test_a_rewind_takes_back_the_last_change_once(backend: Backend, created: Maker) -> None:
    for one in changes(3, 1):
        backend.append(one)
    backend.rewind()
    assert (backend.standing.data_version, backend.standing.rewindable) == (3, False)
    assert versions(created()) == [2, 3]
    with pytest.raises(BackupError):
        backend.rewind()
    backend.append(change(transaction(4, "SELECT 'another'")))
    assert contents(created()).changes[-1] == (4, ("SELECT 'another'", bump(4)))
    backend.rewind()
    assert versions(created()) == [2, 3]


def test_nothing_before_the_snapshot_is_taken_back(backend: Backend, created: Maker) -> None:
    with pytest.raises(BackupError):
        backend.rewind()
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(DATABASE, 2), "test")
    with pytest.raises(BackupError):
        backend.rewind()
    backend.append(changes(1, 2)[0])
    assert versions(created()) == [3]


def test_a_lone_pragma_is_not_taken_back(backend: Backend, created: Maker) -> None:
    backend.append(changes(1, 1)[0])
    backend.append(change(foreign_keys(2, on=False)))
    with pytest.raises(BackupError):
        backend.rewind()
    assert versions(created()) == [2, 2]


@pytest.mark.parametrize("end", [Backend.close, lambda backend: None], ids=["closed", "killed"])
def test_a_change_is_taken_back_after_a_restart(
    backend: Backend, created: Maker, end: Callable[[Backend], None]
) -> None:
    for one in changes(2, 1):
        backend.append(one)
    end(backend)
    again = created()
    assert again.open(silent, "again").rewindable
    again.rewind()
    end(again)
    once_more = created()
    standing = once_more.open(silent, "once more")
    assert (standing.data_version, standing.rewindable) == (2, False)
    assert previous(3) == standing.data_version
    assert versions(created()) == [2]
    once_more.close()


# Opening again


@pytest.mark.parametrize("end", [Backend.close, lambda backend: None], ids=["closed", "killed"])
def test_the_log_goes_on_after_a_restart(backend: Backend, created: Maker, end: Callable[[Backend], None]) -> None:
    written = changes(12, 1)
    for start in range(0, 12, 4):
        for one in written[start : start + 4]:
            backend.append(one)
        backend.upkeep()
        before = backend.standing
        end(backend)
        backend = created()
        assert backend.open(silent, f"session {start}") == before
        assert backend.standing == before
    backend.close()
    assert versions(created()) == list(range(2, 14))


def test_each_session_begins_with_its_first_change(backend: Backend, created: Maker) -> None:
    for one in changes(2, 1):
        backend.append(one)
    backend.close()
    again = created()
    again.open(silent, "again")
    again.rewind()
    for one in changes(2, 2):
        again.append(one)
    again.close()
    with created().read() as generation:
        assert [one.begins_session for one in generation.changes()] == [True, True, False]


def test_after_the_end_nothing_is_written(backend: Backend, created: Maker) -> None:
    backend.append(changes(1, 1)[0])
    backend.close()
    backend.close()
    with pytest.raises(BackupError):
        backend.append(changes(1, 2)[0])
    assert versions(created()) == [2]


# Generations


def test_a_new_snapshot_begins_a_new_generation(backend: Backend, created: Maker) -> None:
    for one in changes(3, 1):
        backend.append(one)
    data = noise(5000).encode()
    backend.take_snapshot(source(data, 9), "a run without the plugin")
    assert (backend.standing.data_version, backend.standing.rewindable) == (9, False)
    assert backend.sizes().records == 0
    for one in changes(2, 9):
        backend.append(one)
    found = contents(created())
    assert (found.snapshot, [version for version, _ in found.changes]) == (data, [10, 11])
    backend.close()
    again = created()
    assert again.open(silent, "again").data_version == 11
    again.close()


def test_a_long_reason_is_cut_and_not_fatal(backend: Backend, created: Maker) -> None:
    backend.take_snapshot(source(DATABASE, 2), "because " * 1000)
    assert contents(created()).snapshot == DATABASE


def test_sizes_grow_with_use(backend: Backend) -> None:
    before = backend.sizes()
    assert before.snapshot > 0
    for one in changes(10, 1):
        backend.append(one)
    after = backend.sizes()
    assert (after.snapshot, after.records) == (before.snapshot, before.records + 10)
    assert after.segments > before.segments
    assert 0 < backend.space().free <= backend.space().total


# Writers


def test_who_wrote_last(created: Maker) -> None:
    assert created().last_writer() is None
    backend = created()
    backend.open(silent, "writer")
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", False)
    backend.close()
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", True)
    offline = created()
    offline.open(silent)
    last = created().last_writer()
    assert last is not None
    assert (last.session_id, last.closed) == ("writer", False)
    offline.close()


def test_a_replaced_writer_refuses(backend: Backend, created: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.log.session.LOOK_EVERY", 0.0)
    told: list[str] = []
    first = created()
    first.open(lambda level, line: told.append(level), "first")
    first.append(changes(1, 1)[0])
    second = created()
    second.open(silent, "second")
    first.upkeep()
    assert told == ["broken"]
    with pytest.raises(Replaced):
        first.append(changes(1, 2)[0])
    second.append(changes(1, 2)[0])
    first.close()
    second.upkeep()
    second.append(changes(1, 3)[0])
    second.close()
    assert versions(created()) == [2, 3, 4]
    last = created().last_writer()
    assert last is not None
    assert last.session_id == "second"


def test_what_is_learned_of_the_node_is_kept(make: Maker) -> None:
    make().create(source())
    backend = make()
    backend.open(silent, "writer")
    backend.learn_node_id("03bb")
    backend.close()
    assert make().node_id() == "03bb"


# Compaction


def test_a_compaction_leaves_the_last_change_out(backend: Backend, created: Maker, tmp_path: Path) -> None:
    if not isinstance(backend, LogBackend):
        pytest.skip("only a log is compacted")
    assert backend.fold(tmp_path) is None
    written = changes(5, 1)
    for one in written[:1]:
        backend.append(one)
    assert backend.fold(tmp_path) is None
    for one in written[1:]:
        backend.append(one)
    folded = backend.fold(tmp_path)
    assert folded is not None
    more = changes(1, 6)[0]
    backend.append(more)
    backend.switch_generation(folded)
    found = contents(created())
    assert [version for version, _ in found.changes] == [6, 7]
    backend.rewind()
    assert versions(created()) == [6]
    backend.close()
    again = created()
    assert again.open(silent, "again").data_version == 6
    again.close()


def test_a_compaction_in_the_middle_of_a_migration(tmp_path: Path) -> None:
    """Foreign keys are off there, and stay so for what is replayed after the new snapshot."""
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
    with node.backend.read() as generation:
        assert not generation.manifest.base.foreign_keys
        rebuild(generation, tmp_path / "rebuilt.sqlite3")
    with closing(apsw.Connection(str(tmp_path / "rebuilt.sqlite3"))) as connection:
        assert list(connection.execute("SELECT parent FROM child")) == [(1,)]
