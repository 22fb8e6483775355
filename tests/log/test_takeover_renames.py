"""A new file never replaces another one: a writer that is held up before its rename destroys nothing of its successor.

It has checked the session marker, and is then stopped for any length of time (a suspended virtual machine, a sleeping
disk). Meanwhile another writer takes over and continues, with files of the same names. The other one removes unfinished
files that it sees: so the first is held up before it creates its own, or the other's listing lags (as on a share).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backends import place_at
from backends.compaction.compact import compact_log
from backends.errors import BackupError, Damaged, Fenced
from backends.log.backup import Backup
from backends.log.format.documents import MANIFEST
from backends.log.writer.options import LogOptions
from backends.log.writer.writer import Writer
from backends.storage.base import TEMPORARY, WriteHandle
from backends.storage.local import LocalStorage
from tests.log.conftest import DATABASE
from tests.log.destinations import Maker
from tests.log.histories import backup_in, changes, silent, source
from tests.log.model import contents, versions
from tests.storage.faulty import FaultyStorage

SIZE = 900


def fill(writer: Writer, count: int) -> None:
    """Make `count` commits of a fixed size, with maintenance after each."""
    for change in changes(count, writer.position.data_version, SIZE):
        writer.append(change)
        writer.maintain()


def held_up(writer: Writer, prefix: str, meanwhile: Callable[[], None], *, safely: bool, made: bool) -> list[str]:
    """Hold the writer up once, before it creates a file with this prefix or (`made`) before it renames it to its name.

    Returns the names it was held up for. `safely`: it renames with `rename_new`, and not with a rename that replaces.
    """
    storage, names = writer.storage, list[str]()
    create, rename = storage.create, storage.rename_new if safely else storage.rename

    def created(name: str) -> WriteHandle:
        if not made:
            hold(name)
        return create(name)

    def renamed(old: str, new: str) -> None:
        hold(new)
        rename(old, new)

    def hold(name: str) -> None:
        if name.startswith(prefix) and not names:
            names.append(name)
            meanwhile()

    storage.create, storage.rename_new = created, renamed  # type: ignore[method-assign]
    return names


def lagging(backup: Backup) -> Backup:
    """A backup whose listing does not show another writer's unfinished files."""
    names = backup.storage.names
    backup.storage.names = lambda: [name for name in names() if not name.endswith(TEMPORARY)]  # type: ignore[method-assign]
    return backup


def overtaken_in_a_segment(
    created: Maker, commits: int, *, safely: bool = True, made: bool = False
) -> tuple[list[int], list[int]]:
    """Hold the first writer up before it names a segment; the other makes `commits` commits meanwhile, and more after.

    Returns the versions that were acknowledged, and those that the backup holds.
    """
    other, seconds = lagging(created()) if made else created(), list[Writer]()

    def take_over() -> None:
        seconds.append(other.open(silent, "second"))
        fill(seconds[0], commits)

    first = created().open(silent, "first")
    begun = first.position.data_version
    names = held_up(first, "segment-", take_over, safely=safely, made=made)
    while not names:
        fill(first, 1)
    with pytest.raises(Fenced):
        fill(first, 1)
    (second,) = seconds
    with suppress(BackupError):
        fill(second, 60)
    acknowledged = list(range(begun + 1, second.position.data_version + 1))
    for writer in (first, second):
        writer.close()
    return acknowledged, versions(created())


def overtaken_in_a_compaction(created: Maker, scratch: Path, *, safely: bool = True) -> tuple[list[int], list[int]]:
    """Hold the first writer up before it names a snapshot; the other publishes its own generation meanwhile."""
    other, seconds = lagging(created()), list[Writer]()

    def take_over() -> None:
        second = other.open(silent, "second")
        seconds.append(second)
        fill(second, 5)
        compacted = compact_log(other.storage, scratch, leave_out=1)
        assert compacted is not None
        second.publish_compaction(compacted)
        fill(second, 5)

    first = created().open(silent, "first")
    fill(first, 5)
    compacted = compact_log(first.storage, scratch, leave_out=1)
    assert compacted is not None
    names = held_up(first, "snapshot-", take_over, safely=safely, made=True)
    with suppress(BackupError):
        first.publish_compaction(compacted)
    assert names
    with pytest.raises(Fenced):
        fill(first, 1)
    (second,) = seconds
    fill(second, 5)
    last = second.position.data_version
    for writer in (first, second):
        writer.close()
    return list(range(last - 5, last + 1)), versions(created())


@pytest.fixture
def options(small: LogOptions) -> LogOptions:
    """Small segments; the session marker is checked too rarely to help."""
    return replace(small, check_every=1e9)


@pytest.fixture
def created(tmp_path: Path, options: LogOptions) -> Maker:
    """Returns the Backup as another process would have it; it was created at version 1."""
    url = (tmp_path / "lightning.bkp").as_uri()

    def make() -> Backup:
        return Backup(place_at(url), options)

    make().create(source(DATABASE, 1, "02aa"))
    return make


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("commits", [0, 1, 60])
def test_writer_held_up_before_naming_a_segment_replaces_none_of_the_others(
    created: Maker, commits: int, made: bool
) -> None:
    acknowledged, found = overtaken_in_a_segment(created, commits, made=made)
    assert found == acknowledged


@pytest.mark.parametrize("made", [False, True])
def test_harness_sees_damage_from_rename_over_a_segment(created: Maker, made: bool) -> None:
    with pytest.raises(Damaged):
        overtaken_in_a_segment(created, 60, safely=False, made=made)


def test_writer_held_up_before_naming_a_snapshot_replaces_none_of_the_others(created: Maker, tmp_path: Path) -> None:
    acknowledged, found = overtaken_in_a_compaction(created, tmp_path)
    assert found[-len(acknowledged) :] == acknowledged


def test_harness_sees_damage_from_rename_over_a_snapshot(created: Maker, tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        overtaken_in_a_compaction(created, tmp_path, safely=False)


@pytest.mark.parametrize("restarted", [False, True])
def test_snapshot_named_but_never_published_does_not_block_the_next(
    created: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    writer = created().open(silent, "first")
    fill(writer, 5)
    publish = LocalStorage.publish

    def fails(self: LocalStorage, name: str, data: bytes) -> None:
        if name == MANIFEST:
            raise OSError(5, "Input/output error")
        publish(self, name, data)

    for _ in range(2):
        compacted = compact_log(writer.storage, tmp_path, leave_out=1)
        assert compacted is not None
        monkeypatch.setattr(LocalStorage, "publish", fails)
        with pytest.raises(BackupError):
            writer.publish_compaction(compacted)
        monkeypatch.setattr(LocalStorage, "publish", publish)
        if restarted:
            writer.close()
            writer = created().open(silent, "again")
        fill(writer, 5)
    assert {"snapshot-00000002", "snapshot-00000003"} <= set(writer.storage.names())
    before = contents(created())
    compacted = compact_log(writer.storage, tmp_path, leave_out=1)
    assert compacted is not None
    writer.publish_compaction(compacted)
    after = contents(created())
    assert (before.generation, after.generation) == (1, 4)
    assert after.changes == before.changes[-1:]
    assert [name for name in writer.storage.names() if name.startswith("snapshot-")] == ["snapshot-00000004"]
    writer.take_snapshot(source(DATABASE, writer.position.data_version), "test")
    fill(writer, 3)
    writer.close()
    assert contents(created()).generation == 5


@pytest.mark.parametrize("done", [0.0, 1.0])
@pytest.mark.parametrize("operation", ["rename_new", "sync_names"])
def test_segment_that_could_not_be_renamed_is_made_again(
    created: Maker, options: LogOptions, operation: str, done: float
) -> None:
    """Whether the failed rename took effect or not: the writer has not been replaced, and continues."""
    faulty = FaultyStorage(created().storage)
    writer = backup_in(faulty, options).open(silent, "writer")
    begun = writer.position.data_version
    faulty.fail(operation, 5, done=done)  # type: ignore[arg-type]
    fill(writer, 60)
    assert faulty.struck == 1
    last = writer.position.data_version
    writer.close()
    assert versions(created()) == list(range(begun + 1, last + 1))
    again = created().open(silent, "again")
    fill(again, 60)
    again.close()
    assert versions(created()) == list(range(begun + 1, last + 61))
