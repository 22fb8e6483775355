"""Offline commands on a disk that is full of what is kept for its history."""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from backends import backup_at
from backends.change import Change
from backends.compaction.compact import compact_log
from backends.storage.local import LocalStorage
from tests.end_to_end.db_compare import compared, everything
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History
from tests.log.histories import backup_in, silent
from tests.log.keeping import MONTH
from tests.small_disk import needs_small_disks, small_disk

pytestmark = needs_small_disks


@pytest.fixture
def full(world: World, history: History) -> Iterator[World]:
    """A stopped node with two kept generations of some hundred kilobytes, on a disk with almost no space.

    The history is made without a running node, which would give it up on so small a disk.
    """
    with small_disk(world.backup.parent, 6 << 20):
        world.init()
        world.run([history.first()])
        calls = [[history.note(os.urandom(9_000).hex()) for _ in range(25)] for _ in range(3)]
        world.run_without_plugin(chain(*calls))
        backup = backup_in(LocalStorage(world.backup), replace(MONTH, segment_size=100_000))
        with closing(backup.open(silent)) as writer:
            for number, some in enumerate(calls):
                for call in some:
                    writer.append(Change(call.data_version, list(call.writes)))
                    writer.maintain()
                compacted = compact_log(backup.storage, world.root, leave_out=1) if number < 2 else None
                if compacted is not None:
                    writer.publish_compaction(compacted)
        assert kept(world) == [1, 2]
        fill(world.backup.parent, 300 << 10)
        yield world


def kept(world: World) -> list[int]:
    return [each.manifest.generation for each in backup_at(world.url).held()]


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes free."""
    status = os.statvfs(disk)
    with (disk / "filler").open("wb") as file, suppress(OSError):
        for _ in range((status.f_bavail * status.f_frsize - free) // 4096):
            os.write(file.fileno(), bytes(4096))


@pytest.mark.parametrize("command", ["compact", "resync"])
def test_offline_command_gives_up_the_oldest_generations_instead_of_failing(full: World, command: str) -> None:
    said = backup_cli(command, "--lightning-dir", full.directory)
    assert said.code == 0, said
    assert "which was kept for its history (versions 0 to" in said.err and "generation 1" in said.err
    assert 1 not in kept(full)
    assert compared(everything(full.restore()), everything(full.database)) == []
