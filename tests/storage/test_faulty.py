"""The faults of FaultyStorage strike where a test has set them, and leave behind what it asked for."""

import errno
import random
from contextlib import closing

import pytest

from tests.storage.faulty import OPERATIONS, FaultyStorage, Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def storage(disk: SimulatedDisk) -> FaultyStorage:
    return FaultyStorage(SimulatedStorage(disk))


def everything(storage: FaultyStorage) -> None:
    """Call each operation once or more."""
    storage.exists()
    storage.make()
    storage.publish("manifest", b"data")
    storage.read_small("manifest")
    storage.names()
    storage.space()
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 10)
        handle.write_durably(0, b"record")
        handle.truncate(6)
        handle.sync()
    storage.rename_new("segment", "other")
    storage.rename("other", "segment")
    storage.remove("segment")
    storage.unmake()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_each_call_of_each_operation_fails_when_told_to(
    storage: FaultyStorage, operation: Operation, number: int
) -> None:
    everything(storage)
    assert storage.struck == 0
    for nth in range(1, storage.calls[operation] + 1):
        faulty = FaultyStorage(SimulatedStorage(SimulatedDisk()))
        faulty.fail(operation, number, nth=nth)
        with pytest.raises(OSError) as caught:
            everything(faulty)
        assert caught.value.errno == number
        assert faulty.calls[operation] == nth
        assert faulty.struck == 1


def test_operations_are_all_counted(storage: FaultyStorage) -> None:
    everything(storage)
    assert set(storage.calls) == set(OPERATIONS)


def test_fault_strikes_once_or_until_healed(storage: FaultyStorage) -> None:
    storage.make()
    storage.names()
    storage.fail("names", errno.ESTALE, nth=2)
    assert storage.names() == []
    with pytest.raises(OSError):
        storage.names()
    assert storage.names() == []
    storage.fail("names", errno.EIO, sticky=True)
    for _ in range(3):
        with pytest.raises(OSError):
            storage.names()
    storage.heal()
    assert storage.names() == []
    assert storage.struck == 4


def test_faulty_write_may_store_only_part_of_its_bytes(storage: FaultyStorage) -> None:
    storage.make()
    with closing(storage.create("segment")) as handle:
        storage.fail("write", errno.ENOSPC, done=0.5)
        with pytest.raises(OSError):
            handle.write(0, b"0123456789")
        assert storage.read_small("segment") == b"01234"
        handle.write(5, b"56789")
    assert storage.read_small("segment") == b"0123456789"


def test_failed_operation_may_have_been_carried_out(storage: FaultyStorage) -> None:
    storage.make()
    storage.create("manifest.tmp").close()
    storage.fail("rename", errno.EIO, done=1)
    with pytest.raises(OSError):
        storage.rename("manifest.tmp", "manifest")
    assert storage.names() == ["manifest"]
    storage.fail("create", errno.EIO, done=1)
    with pytest.raises(OSError):
        storage.create("segment")
    assert storage.names() == ["manifest", "segment"]


def test_write_after_failed_sync_is_never_saved_though_later_syncs_succeed(
    storage: FaultyStorage, disk: SimulatedDisk
) -> None:
    storage.make()
    with closing(storage.create("segment")) as handle:
        storage.sync_names()
        storage.fail("write_durably", errno.EIO, done=1)
        with pytest.raises(OSError):
            handle.write_durably(0, b"lost")
        assert storage.read_small("segment") == b"lost", "as the page cache would give it back"
        handle.sync()
        handle.write_durably(0, b"gone")
    found = {SimulatedStorage(disk.crash(random.Random(seed))).read_small("segment") for seed in range(100)}
    assert {b"", b"lost", b"gone"} <= found


def test_fault_that_makes_no_sense_is_refused(storage: FaultyStorage) -> None:
    with pytest.raises(ValueError):
        storage.fail("sync", errno.EIO, nth=0)
    with pytest.raises(ValueError):
        storage.fail("write", errno.EIO, done=2)
    with pytest.raises(ValueError):
        storage.fail("sync", errno.EIO, done=0.5)
