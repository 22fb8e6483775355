"""What every backend does with restarts, new generations and other writers, wherever it writes."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.base import MAX_ROLL_FORWARD, Backend
from backends.database.rebuild import rebuild
from backends.errors import BackupError, Damaged, Replaced
from backends.log.backend import LogBackend
from backends.log.format import FileHeader, FileKind, snapshot_name, time_now
from backends.log.keeping import KEEP_FOR
from tests.log.conftest import DATABASE
from tests.log.destinations import Maker
from tests.log.histories import Node, changes, noise, silent, source
from tests.log.model import contents, versions
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

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
    for one in changes(2, 3):
        again.append(one)
    again.close()
    with created().read() as generation:
        assert [one.begins_session for one in generation.changes()] == [True, False, True, False]


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
    assert backend.standing.data_version == 9
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


def test_a_compaction_leaves_what_may_be_rolled_forward(backend: Backend, created: Maker, tmp_path: Path) -> None:
    if not isinstance(backend, LogBackend):
        pytest.skip("only a log is compacted")
    written = changes(MAX_ROLL_FORWARD + 4, 1)
    for one in written[:MAX_ROLL_FORWARD]:
        backend.append(one)
    assert backend.fold(tmp_path) is None
    for one in written[MAX_ROLL_FORWARD:]:
        backend.append(one)
    folded = backend.fold(tmp_path)
    assert folded is not None
    last = written[-1].data_version
    backend.append(changes(1, last)[0])
    backend.switch_generation(folded)
    assert versions(created()) == list(range(last - MAX_ROLL_FORWARD + 1, last + 2))
    backend.close()
    again = created()
    assert again.open(silent, "again").data_version == last + 1
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


# What a new snapshot replaces


def test_a_replaced_generation_is_kept_and_can_be_read(backend: Backend, created: Maker) -> None:
    assert backend.kept() is None
    assert backend.read_kept() is None
    written = changes(5, 1)
    for one in written:
        backend.append(one)
    backend.take_snapshot(source(b"another database", 3), "resync")
    backend.append(changes(1, 3)[0])
    backend.upkeep()
    backend.close()
    reader = created()
    kept = reader.kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (1, 6)
    generation = reader.read_kept()
    assert generation is not None
    with generation:
        assert b"".join(generation.snapshot) == DATABASE
        assert [one.data_version for one in generation.changes()] == [2, 3, 4, 5, 6]
    assert versions(created()) == [4]


def test_only_the_last_replaced_generation_is_kept(backend: Backend, created: Maker) -> None:
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(b"another database", 3), "resync")
    backend.append(changes(1, 3)[0])
    backend.take_snapshot(source(b"a third one", 9), "resync")
    backend.close()
    kept = created().kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (2, 4)
    if isinstance(backend, LogBackend):
        assert snapshot_name(1) not in backend.storage.names()


def test_a_kept_generation_goes_after_a_week(backend: Backend, created: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(b"another database", 3), "resync")
    backend.upkeep()
    assert backend.kept() is not None
    monkeypatch.setattr("backends.log.keeping.time_now", lambda: time_now() + KEEP_FOR + 1)
    if isinstance(backend, LogBackend):
        backend._next_tidying = 0.0
    backend.upkeep()
    assert backend.kept() is None
    if isinstance(backend, LogBackend):
        assert snapshot_name(1) not in backend.storage.names()
    assert contents(created()).snapshot == b"another database"


def test_a_compaction_leaves_the_kept_generation(backend: Backend, created: Maker, tmp_path: Path) -> None:
    if not isinstance(backend, LogBackend):
        pytest.skip("only a log is compacted")
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(DATABASE, 1), "resync")
    for one in changes(5, 1):
        backend.append(one)
    folded = backend.fold(tmp_path, leave_out=1)
    assert folded is not None
    backend.switch_generation(folded)
    assert versions(created()) == [6]
    generation = created().read_kept()
    assert generation is not None
    with generation:
        assert [one.data_version for one in generation.changes()] == [2]


def test_a_kept_generation_that_has_lost_its_end_is_damaged(backend: Backend, created: Maker) -> None:
    if not isinstance(backend, LogBackend):
        pytest.skip("only files can be cut")
    backend.append(changes(1, 1)[0])
    backend.append(changes(1, 2)[0])
    backend.take_snapshot(source(b"another database", 3), "resync")
    backend.close()
    with closing(backend.storage.create("segment-00000001")) as handle:
        handle.write(0, FileHeader(FileKind.SEGMENT, bytes.fromhex(backend.identify()), 1).encode())
        handle.sync()
    generation = created().read_kept()
    assert generation is not None
    with generation, pytest.raises(Damaged, match="its end is gone"):
        list(generation.changes())


def test_a_snapshot_in_doubt_does_not_displace_what_a_resync_has_replaced(backend: Backend, created: Maker) -> None:
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(b"an older database", 1), "resync")
    backend.append(changes(1, 1)[0])
    backend.take_snapshot(source(b"the same version", 2), "in doubt")
    backend.close()
    kept = created().kept()
    assert kept is not None
    assert (kept.manifest.generation, kept.data_version) == (1, 2)
    generation = created().read_kept()
    assert generation is not None
    with generation:
        assert [one.data_version for one in generation.changes()] == [2]
    assert contents(created()).snapshot == b"the same version"
