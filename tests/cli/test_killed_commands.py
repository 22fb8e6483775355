"""Commands that are killed (-9) in the middle of their work: afterwards there is what was there before, or what they
make."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, backup_cli, command, said_at
from tests.fake_lightningd import History

PARTS = [0.55, 0.65, 0.75, 0.85, 0.95]
"""Parts of the time that a whole run takes on this machine: after its imports and before its end."""


def seconds_for(*words: object) -> float:
    """How many seconds the command takes if nobody kills it."""
    began = time.monotonic()
    said = backup_cli(*words)
    assert said.code == 0, said.err
    return time.monotonic() - began


def killed(*words: object, delay: float) -> bool:
    """Run `backup-cli` and kill it; whether it was still at work."""
    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    ended = process.poll()
    process.kill()
    process.wait()
    return ended is None


@pytest.fixture
def large(world: World, history: History) -> World:
    """A database of 8 MiB, so that everything takes a moment."""
    world.init().run([history.first(), *(history.big(2 << 20) for _ in range(4)), *history.notes(20)])
    return world


@pytest.mark.parametrize("act", ["resync", "compact", "restore"])
def test_killed_command_leaves_a_whole_backup_and_the_node_goes_on(large: World, act: str) -> None:
    words: dict[str, list[object]] = {
        "resync": ["--lightning-dir", large.directory],
        "compact": [large.url],
        "restore": ["--replace", "--resume", large.url, large.directory],
    }
    whole = seconds_for(act, *words[act])
    for part in PARTS:
        large.run(History(large.version).notes(2))
        before = everything(large.database)
        killed(act, *words[act], delay=part * whole)
        assert everything(large.restore()) == before
        if not large.database.exists():  # killed between the old file's move and the new one's
            assert backup_cli("restore", "--resume", large.url, large.directory).code == 0
        node = large.run(History(large.version).notes(1))
        assert said_at(node, "broken") == []
        large.assert_restored_equals_the_nodes()
    assert [path.name for path in large.backup.glob("*.tmp")] == []
    kept = 1 if act == "resync" else 0  # what it has replaced
    assert len(list(large.backup.glob("snapshot-*"))) == 1 + kept


def test_killed_init_leaves_no_backup_or_a_whole_one(world: World, history: History, tmp_path: Path) -> None:
    """If the backup is whole, only backup.lock may be missing, which is written last."""
    world.run_without_plugin([history.first(), *(history.big(2 << 20) for _ in range(4))])
    world.backup = tmp_path / "disk" / "first.bkp"
    whole = seconds_for("init", "--lightning-dir", world.directory, world.url)
    for number, part in enumerate(PARTS):
        (world.directory / "backup.lock").unlink(missing_ok=True)
        world.backup = tmp_path / "disk" / f"{number}.bkp"
        killed("init", "--lightning-dir", world.directory, world.url, delay=part * whole)
        if (world.directory / "backup.lock").exists():
            named = json.loads((world.directory / "backup.lock").read_text())["backend_url"]
            assert backup_cli("verify", named, "--lightning-dir", world.directory).code == 0
        if (world.backup / "manifest").exists():
            world.assert_restored_equals_the_nodes()
        elif world.backup.exists():
            assert_refused(backup_cli("verify", world.url), "is not a whole backup|there is no backup in")
    world.backup = tmp_path / "disk" / "last.bkp"
    world.init().run(history.notes(1))
    assert [path.name for path in world.directory.glob(".lightningd-backup-*")] == []
    world.assert_restored_equals_the_nodes()
