"""Giving a compaction's snapshot to the other members beside commits, on disks whose time is simulated."""

from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.log.writer.pace import MAX_PAUSE, MAX_WAIT, WAITS_FREE, WAITS_PER_WORK, Pace
from backends.members.giving import give_snapshot
from backends.storage.base import Space, WriteHandle
from backends.storage.local import LocalStorage
from tests.log.slow_device import Node, SlowDevice, SlowHandle

WRITTEN = "snapshot.000002.tmp"
PARTS = [WRITTEN, *(f"snapshot.000002.{number}.tmp" for number in range(1, 30))]
PART = 1 << 16


class SlowDisk(LocalStorage):
    """A directory whose new files are written to the simulated device, which writes only when it is synced."""

    def __init__(self, path: Path, device: SlowDevice) -> None:
        super().__init__(path)
        self._device = device

    def create(self, name: str) -> WriteHandle:
        super().create(name).close()
        return SlowHandle(self._device, able=False)


def stored(path: Path) -> LocalStorage:
    """A member that holds a snapshot in many parts, as one does whose files may not be large."""
    path.mkdir()
    for part in PARTS:
        (path / part).write_bytes(bytes(PART))
    return LocalStorage(path)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("hangs", [False, True], ids=["commits", "a commit that hangs"])
def test_snapshot_in_many_parts_waits_for_commits_as_one_piece_of_work(
    tmp_path: Path, members: int, *, hangs: bool
) -> None:
    """No member can join meanwhile. With free waiting for each part or member, it would take several times as long."""
    device = SlowDevice(flush=0.05)
    node = Node(device, lambda: 0.0)
    device.sleep(3)
    if hangs:
        node.stopped = True
        device.sleep(1)
        node.commits.begin()
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        device.sleep(seconds)

    targets = {f"m{number}": SlowDisk(tmp_path / f"m{number}", device) for number in range(members)}
    for target in targets.values():
        target.make()
    began = device.now
    give_snapshot(stored(tmp_path / "source"), targets, WRITTEN, Pace(node.commits, clock=device.clock, sleep=sleep))
    worked = device.now - began - slept
    assert slept > 1
    assert slept <= WAITS_PER_WORK * worked + WAITS_FREE + MAX_PAUSE + MAX_WAIT
    assert all(target.names() == sorted(PARTS) for target in targets.values())


def test_member_without_space_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = LocalStorage(tmp_path / "target")
    target.make()
    monkeypatch.setattr(target, "space", lambda: Space(17 << 20, 1 << 30))
    source = stored(tmp_path / "source")
    with pytest.raises(BackupError, match="the member second has no space for 1 MiB more"):
        give_snapshot(source, {"second": target}, WRITTEN, Pace(Node(SlowDevice(), lambda: 1.0).commits))
    assert target.names() == []
