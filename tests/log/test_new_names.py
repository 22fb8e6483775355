"""A file gets a name of its own, or none: a writer that is held up in the middle replaces nothing of the other's.

It has looked at the session marker, and then nothing of it runs for any time (a suspended virtual machine, a disk that
sleeps); another one takes over and goes on meanwhile, with files of the same names. It removes unfinished files that it
sees: so the first one is held up before it makes its own, or the other's listing lags (as that of a share may).
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from backends import backend_for
from backends.errors import BackupError, Damaged, Replaced
from backends.log.backend import LogBackend
from backends.log.documents import MANIFEST
from backends.storage.base import TEMPORARY, WriteHandle
from backends.storage.local import LocalStorage
from tests.log.conftest import DATABASE
from tests.log.histories import changes, silent, source
from tests.log.model import contents, versions
from tests.storage.faulty import FaultyStorage

Open = Callable[[], LogBackend]
SIZE = 900


def fill(backend: LogBackend, count: int) -> None:
    """So many commits of a size, with the maintenance between them."""
    for change in changes(count, backend.standing.data_version, SIZE):
        backend.append(change)
        backend.upkeep()


def held_up(backend: LogBackend, prefix: str, meanwhile: Callable[[], None], *, safely: bool, made: bool) -> list[str]:
    """Hold the writer up once, before it makes a file whose name begins so, or when it is made and gets its own name.

    Returns what it was held up for. `safely`: with what is under test, and not by a rename that replaces.
    """
    storage, names = backend.storage, list[str]()
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


def lagging(backend: LogBackend) -> LogBackend:
    """One that does not see the other's unfinished files."""
    names = backend.storage.names
    backend.storage.names = lambda: [name for name in names() if not name.endswith(TEMPORARY)]  # type: ignore[method-assign]
    return backend


def overtaken_in_a_segment(
    open_: Open, commits: int, *, safely: bool = True, made: bool = False
) -> tuple[list[int], list[int]]:
    """The first writer is held up before it names a segment; the other makes so many commits meanwhile, and more then.

    Returns the versions that were acknowledged, and those that the backup holds.
    """
    first, second = open_(), lagging(open_()) if made else open_()

    def take_over() -> None:
        second.open(silent, "second")
        fill(second, commits)

    first.open(silent, "first")
    begun = first.standing.data_version
    names = held_up(first, "segment-", take_over, safely=safely, made=made)
    while not names:
        fill(first, 1)
    with pytest.raises(Replaced):
        fill(first, 1)
    with suppress(BackupError):
        fill(second, 60)
    acknowledged = list(range(begun + 1, second.standing.data_version + 1))
    for backend in (first, second):
        backend.close()
    return acknowledged, versions(open_())


def overtaken_in_a_compaction(open_: Open, scratch: Path, *, safely: bool = True) -> tuple[list[int], list[int]]:
    """The same, held up before it names a snapshot; the other publishes a generation of its own meanwhile."""
    first, second = open_(), lagging(open_())

    def take_over() -> None:
        second.open(silent, "second")
        fill(second, 5)
        folded = second.fold(scratch, leave_out=1)
        assert folded is not None
        second.switch_generation(folded)
        fill(second, 5)

    first.open(silent, "first")
    fill(first, 5)
    folded = first.fold(scratch, leave_out=1)
    assert folded is not None
    names = held_up(first, "snapshot-", take_over, safely=safely, made=True)
    with suppress(BackupError):
        first.switch_generation(folded)
    assert names
    with pytest.raises(Replaced):
        fill(first, 1)
    fill(second, 5)
    last = second.standing.data_version
    for backend in (first, second):
        backend.close()
    return list(range(last - 5, last + 1)), versions(open_())


@pytest.fixture
def open_(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a new backup at version 1; the session marker is looked at too rarely to help."""
    monkeypatch.setattr("backends.log.session.LOOK_EVERY", 1e9)
    url = (tmp_path / "lightning.bkp").as_uri()
    backend_for(url).create(source(DATABASE, 1, "02aa"))

    def opened() -> LogBackend:
        backend = backend_for(url)
        assert isinstance(backend, LogBackend)
        return backend

    return opened


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("commits", [0, 1, 60])
def test_writer_held_up_before_it_names_a_segment_replaces_none_of_the_other(
    open_: Open, commits: int, made: bool
) -> None:
    acknowledged, found = overtaken_in_a_segment(open_, commits, made=made)
    assert found == acknowledged


@pytest.mark.parametrize("made", [False, True])
def test_harness_sees_what_a_rename_over_a_segment_destroys(open_: Open, made: bool) -> None:
    with pytest.raises(Damaged):
        overtaken_in_a_segment(open_, 60, safely=False, made=made)


def test_writer_held_up_before_it_names_a_snapshot_replaces_none_of_the_other(open_: Open, tmp_path: Path) -> None:
    acknowledged, found = overtaken_in_a_compaction(open_, tmp_path)
    assert found[-len(acknowledged) :] == acknowledged


def test_harness_sees_what_a_rename_over_a_snapshot_destroys(open_: Open, tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        overtaken_in_a_compaction(open_, tmp_path, safely=False)


@pytest.mark.parametrize("restarted", [False, True])
def test_snapshot_that_was_named_and_never_published_does_not_block_the_next(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    backend = open_()
    backend.open(silent, "first")
    fill(backend, 5)
    publish = LocalStorage.publish

    def fails(self: LocalStorage, name: str, data: bytes) -> None:
        if name == MANIFEST:
            raise OSError(5, "Input/output error")
        publish(self, name, data)

    for _ in range(2):
        folded = backend.fold(tmp_path, leave_out=1)
        assert folded is not None
        monkeypatch.setattr(LocalStorage, "publish", fails)
        with pytest.raises(BackupError):
            backend.switch_generation(folded)
        monkeypatch.setattr(LocalStorage, "publish", publish)
        if restarted:
            backend.close()
            backend = open_()
            backend.open(silent, "again")
        fill(backend, 5)
    assert {"snapshot-00000002", "snapshot-00000003"} <= set(backend.storage.names())
    before = contents(backend)
    folded = backend.fold(tmp_path, leave_out=1)
    assert folded is not None
    backend.switch_generation(folded)
    after = contents(backend)
    assert (before.generation, after.generation) == (1, 4)
    assert after.changes == before.changes[-1:]
    assert [name for name in backend.storage.names() if name.startswith("snapshot-")] == ["snapshot-00000004"]
    backend.take_snapshot(source(DATABASE, backend.standing.data_version), "test")
    fill(backend, 3)
    backend.close()
    assert contents(open_()).generation == 5


@pytest.mark.parametrize("done", [0.0, 1.0])
@pytest.mark.parametrize("operation", ["rename_new", "sync_names"])
def test_segment_that_could_not_be_named_is_made_anew(open_: Open, operation: str, done: float) -> None:
    """Whether its name is there or not; the writer has not been replaced, and goes on."""
    backend = open_()
    faulty = FaultyStorage(backend.storage)
    backend = LogBackend(faulty)
    backend.open(silent, "writer")
    begun = backend.standing.data_version
    faulty.fail(operation, 5, done=done)  # type: ignore[arg-type]
    fill(backend, 60)
    assert faulty.struck == 1
    last = backend.standing.data_version
    backend.close()
    assert versions(open_()) == list(range(begun + 1, last + 1))
    again = open_()
    again.open(silent, "again")
    fill(again, 60)
    again.close()
    assert versions(open_()) == list(range(begun + 1, last + 61))
