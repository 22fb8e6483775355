"""`backup-cli drill`: a whole disaster, played through; afterwards nothing is left of it."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.corruption import flip, snapshot
from tests.end_to_end.world import World, backup_cli, command, spawned, tree
from tests.fake_lightningd import History
from tests.small_disk import needs_small_disks, small_disk


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_drill_without_a_destination_reports_latency_size_and_a_verdict(scratch: Path) -> None:
    said = spawned(*command("drill"), environment={"TMPDIR": str(scratch)})
    assert said.code == 0, said
    for words in ("commit latency", "at 99 %", "identical", "Verdict"):
        assert words in said.out
    share = re.search(r"a snapshot of [\d.]+ \w+; after it [\d.]+ KiB for [\d.]+ MiB of SQL \((.+) %\)", said.out)
    assert share is not None and 7 < float(share[1]) < 11, "what README says of a busy channel"
    assert "Killed plugin and node (-9)" in said.err
    assert list(scratch.iterdir()) == []


def test_drill_beside_an_existing_backup_leaves_it_unchanged(lived: World, scratch: Path) -> None:
    """The drill works in a directory of its own beside the backup."""
    before = tree(lived.root / "disk")
    said = spawned(*command("drill", lived.backup.parent.as_uri()), environment={"TMPDIR": str(scratch)})
    assert said.code == 0, said
    assert lived.backup.parent.as_uri() in said.err
    assert tree(lived.root / "disk") == before
    assert list(scratch.iterdir()) == []


def test_drill_at_a_missing_destination_makes_nothing(tmp_path: Path) -> None:
    assert_refused(backup_cli("drill", (tmp_path / "missing").as_uri()), "does not exist. Nothing was made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("when", ["A recorded node", "25 %", "Killed plugin"])
def test_drill_stopped_by_a_signal_leaves_no_file_and_no_process(
    tmp_path: Path, scratch: Path, when: str, number: signal.Signals
) -> None:
    """Ctrl-C (which the terminal sends to all processes of the command), a service manager, a closed terminal."""
    destination = tmp_path / "disk"
    destination.mkdir()
    process = subprocess.Popen(
        ["env", f"TMPDIR={scratch}", *command("drill", destination.as_uri())],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while when not in process.stderr.readline():
        assert process.poll() is None
    if "Killed" in when:
        time.sleep(0.1)  # the next plugin is being started
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)  # until the plugin has ended, too
    assert process.returncode == (130 if number == signal.SIGINT else -number), said
    ours = [line for line in said.splitlines() if line and " % after " not in line]
    assert [line.split(";")[0] for line in ours if "Killed" not in line] == ["stopped"], said
    assert list(destination.iterdir()) == []
    assert list(scratch.iterdir()) == []


@needs_small_disks
def test_drill_on_a_full_destination_says_so_and_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 300 << 10):
        said = spawned(*command("drill", disk.as_uri()), environment={"TMPDIR": str(scratch)})
        assert_refused(said, r"plugin refused a change[^{}]*: backup: [^{}]*No space left[^{}]*\Z")
        assert list(disk.iterdir()) == []


def test_drill_with_a_full_scratch_directory_does_not_blame_the_destination(tmp_path: Path, scratch: Path) -> None:
    """The destination is not full, and nobody should buy another one because of this message."""
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", scratch]).returncode:
        pytest.skip("needs root, to mount a small filesystem")
    destination = tmp_path / "disk"
    destination.mkdir()
    try:
        said = spawned(*command("drill", destination.as_uri()), environment={"TMPDIR": str(scratch)})
        assert_refused(said, f"own database in {scratch} could not be written: .*is full.*TMPDIR")
        assert list(scratch.iterdir()) == []
    finally:
        subprocess.run(["umount", scratch], check=True)
    assert list(destination.iterdir()) == []


def test_drill_with_a_path_suggests_the_url(tmp_path: Path) -> None:
    """The suggested URL is the destination, without the drill's own directory."""
    assert_refused(backup_cli("drill", tmp_path), f"write it as a URL: {tmp_path.as_uri()}\n", code=2)


def test_leftovers_of_a_drill_are_not_offered_as_a_backup_to_restore(lived: World, scratch: Path) -> None:
    """A power cut leaves the drill's directory behind; it must not look like a second backup to choose from."""
    shutil.copytree(lived.backup, lived.backup.with_name("lightningd-backup-drill-0a1b2c3d"))
    assert backup_cli("restore", lived.backup.parent.as_uri(), scratch).code == 0


def test_drill_with_the_nodes_own_backup_changes_nothing(
    lived: World, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(lived.root)
    said = backup_cli("drill", "--lightning-dir", lived.directory)
    assert said.code == 0, said
    assert "this backup can be restored" in said.out
    assert "hsm_secret" in said.out
    assert tree(lived.root) == before


def test_drill_with_a_damaged_own_backup_is_refused_as_damaged(taken_over: World) -> None:
    flip(snapshot(taken_over), 200)
    before = tree(taken_over.root)
    assert_refused(backup_cli("drill", "--lightning-dir", taken_over.directory), "damaged", code=3)
    assert tree(taken_over.root) == before


def test_drill_with_an_empty_own_backup_is_refused(world: World) -> None:
    world.init()
    assert_refused(backup_cli("drill", "--lightning-dir", world.directory), "holds no database yet.*check-config")


def test_drill_with_a_foreign_backup_warns_that_it_is_not_the_nodes(lived: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    other.init().run([History().first()])
    said = backup_cli("drill", "--lightning-dir", lived.directory, other.url)
    assert said.code == 0, said
    assert "is not the backup that this node's backup.lock names" in said.err
