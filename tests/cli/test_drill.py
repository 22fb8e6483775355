"""`backup-cli drill`: a whole disaster, rehearsed; afterwards nothing is left of it."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.outcome import assert_refused
from tests.end_to_end.damage import flip, snapshot
from tests.end_to_end.world import World, backup_cli, command, spawned, tree


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_by_itself(scratch: Path) -> None:
    said = spawned(*command("drill"), environment={"TMPDIR": str(scratch)})
    assert said.code == 0, said
    for words in ("commit latency", "at 99 %", "raw SQL|SQL", "identical", "Verdict"):
        assert any(word in said.out for word in words.split("|")), words
    assert "Killed plugin and node (-9)" in said.err
    assert list(scratch.iterdir()) == []


def test_at_a_destination_that_holds_a_backup_already(lived: World, scratch: Path) -> None:
    """In a directory of its own beside it."""
    before = tree(lived.root / "disk")
    said = spawned(*command("drill", lived.backup.parent.as_uri()), environment={"TMPDIR": str(scratch)})
    assert said.code == 0, said
    assert lived.backup.parent.as_uri() in said.err
    assert tree(lived.root / "disk") == before
    assert list(scratch.iterdir()) == []


def test_at_no_destination(tmp_path: Path) -> None:
    assert_refused(backup_cli("drill", (tmp_path / "missing").as_uri()), "does not exist. Nothing was made")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    destination = tmp_path / "disk"
    destination.mkdir()
    process = subprocess.Popen(
        ["env", f"TMPDIR={scratch}", *command("drill", destination.as_uri())], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "25 %" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert list(destination.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_with_ones_own_backup(lived: World, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(lived.root)
    said = backup_cli("drill", "--lightning-dir", lived.directory)
    assert said.code == 0, said
    assert "this backup can be restored" in said.out
    assert "hsm_secret" in said.out
    assert tree(lived.root) == before


def test_with_ones_own_backup_when_it_is_damaged(taken_over: World) -> None:
    flip(snapshot(taken_over), 200)
    before = tree(taken_over.root)
    assert_refused(backup_cli("drill", "--lightning-dir", taken_over.directory), "damaged", code=3)
    assert tree(taken_over.root) == before
