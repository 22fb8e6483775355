"""Ctrl-C between any two instructions of a command: everything is as before, or everything is done, and the message is
true.

A forked process counts the instructions of this project's code, and is stopped at one of them as its signal handler
would stop it: at some of them, and at very many in a campaign (LIGHTNINGD_BACKUP_CAMPAIGN=1).
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import backends
import backup_cli
from backends.system import interrupts
from backup_cli.main import run
from tests.end_to_end.world import World, tree
from tests.fake_lightningd import History

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
STOPS = 4000 if CAMPAIGN else 15
OURS = (*(str(Path(module.__file__ or "").parent) for module in (backends, backup_cli)), "/contextlib.py")

Words = list[str]

TraceFunction = Callable[[FrameType, str, Any], Any]


class Steps:
    """A trace function that stops the process at the instruction of number `stop_at`, and counts them."""

    def __init__(self, stop_at: int) -> None:
        self.seen, self._stop_at = 0, stop_at
        self._counted: dict[str, bool] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> TraceFunction | None:
        """A function begins."""
        file = frame.f_code.co_filename
        counted = self._counted.get(file)
        if counted is None:
            counted = self._counted[file] = file != interrupts.__file__ and any(part in file for part in OURS)
        if not counted:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, argument: Any) -> TraceFunction:
        if event == "opcode":
            self.seen += 1
            if self.seen == self._stop_at:
                sys.settrace(None)  # which is slow, and what follows is not counted
                interrupts._stop(2, frame)
        return self._instruction


def stopped_at(step: int, words: Words) -> tuple[int, str, int]:
    """Run the command in a forked process: its exit code, its output, and how many instructions it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        interrupts._stops = interrupts._Stops()  # an earlier command of this test is not this one
        steps = Steps(step)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.settrace(steps)
        code = 99
        try:
            code = run(words)
        finally:
            sys.settrace(None)
            print(f"\nsteps {steps.seen}", flush=True)
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said, int(said.rpartition("steps ")[2])


def chosen(steps: int) -> range:
    """Numbers of some of a command's instructions; every run chooses others."""
    stride = max(1, steps // STOPS)
    return range(1 + random.randrange(stride), steps, stride)


def check(world: World, words: Words, done: Callable[[], bool]) -> int:
    """Stop the command at steps all over its work. Returns how often that was in time to undo it."""
    kept = world.root.with_name(world.root.name + "-kept")
    shutil.copytree(world.root, kept, symlinks=True)
    before = tree(world.root, locks=True)
    _, _, steps = stopped_at(0, words)
    assert done()
    undone = 0
    for step in chosen(steps):
        shutil.rmtree(world.root)
        shutil.copytree(kept, world.root, symlinks=True)
        code, said, _ = stopped_at(step, words)
        assert "Traceback" not in said, (step, said)
        if tree(world.root, locks=True) == before:
            undone += 1
            assert code == 130, (step, said)
            assert "nothing that was there before has changed" in said, (step, said)
        else:
            assert done(), (step, said)
            assert code == 0 or "the work was already done" in said, (step, code, said)
    shutil.rmtree(kept)
    return undone


@pytest.fixture
def alone(world: World, history: History) -> World:
    """A node whose directory the test may replace again and again."""
    world.run_without_plugin([history.first(), *history.notes(3)])
    return world


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands make their scratch directories."""
    place = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


def test_init_stopped_at_any_instruction_is_undone_or_done(alone: World) -> None:
    words = ["init", "--lightning-dir", str(alone.directory), alone.url]
    assert check(alone, words, lambda: (alone.directory / "backup.lock").exists() and alone.backup.exists())


def test_init_of_several_members_stopped_at_any_instruction_is_undone_or_done(alone: World) -> None:
    places = [alone.backup, alone.root / "nas" / "lightning.bkp"]
    places[1].parent.mkdir()
    words = ["init", "--lightning-dir", str(alone.directory), *(place.as_uri() for place in places)]
    assert check(alone, words, lambda: (alone.directory / "backup.lock").exists() and all(map(Path.exists, places)))


def test_restore_stopped_at_any_instruction_is_undone_or_done(alone: World, history: History) -> None:
    alone.init().run(history.notes(2))
    target = alone.root / "new" / "regtest"
    target.parent.mkdir()
    words = ["restore", "--resume", alone.url, str(target)]
    assert check(alone, words, lambda: (target / "backup.lock").exists())


def test_verify_stopped_at_any_instruction_changes_nothing(alone: World, scratch: Path) -> None:
    alone.init()
    before = tree(alone.root, locks=True)
    _, _, steps = stopped_at(0, ["verify", alone.url])
    for step in chosen(steps):
        code, said, _ = stopped_at(step, ["verify", alone.url])
        assert code in (0, 130), (step, said)
        assert tree(alone.root, locks=True) == before, (step, said)
        assert list(scratch.iterdir()) == [], (step, said)
