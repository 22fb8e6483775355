"""Kill -9 of lightningd and its plugin at every step in which a member is put out of sync, caught up and joined.

Whatever was done until then: the next start goes on by itself, and then each member alone holds what the node has.
"""

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_lightningd import History, Node, PluginDied
from tests.members.world import MembersWorld, eventually

DIES = """
import os, pathlib, signal
from backends.members import epochs
from backends.node import files
from backends.storage import local

ARMED, STEPS = pathlib.Path("armed"), pathlib.Path("steps")
done = 0

def step():
    global done
    if not ARMED.exists():
        return
    done += 1
    if done == AT:
        os.kill(os.getpid(), signal.SIGKILL)
    if AT == 0:
        STEPS.write_text(str(done))

def stepping(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **named):
        step()
        return real(*arguments, **named)
    setattr(owner, name, call)

for name in ("make", "create", "rename", "rename_new", "remove", "seal", "sync_names"):
    stepping(local.LocalStorage, name)
stepping(epochs, "write_members_note")
stepping(files, "_sync")  # after the note has got its name
"""
"""Counts the steps of all members and of the node's note, once the file `armed` is there."""

EVERY = 1 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0" else 11


def dying(at: int) -> list[str]:
    """The command of a plugin that kills itself at this step; with 0 it only counts."""
    return [sys.executable, "-c", f"AT = {at}\n{DIES}\nfrom plugin.main import main\nmain()"]


def heal_until_killed(root: Path, at: int, *, wiped: bool) -> MembersWorld:
    """A stream in which a member goes away, or is wiped, and comes back; the plugin dies at that step.

    A member that was wiped is counted from the moment that it is out of sync: a node that dies before, in the middle of
    a change of the epoch, cannot start by itself without that member.
    """
    root.mkdir()
    world, history = MembersWorld(root).init(), History()
    away, armed = world.root / "away", world.directory / "armed"
    node = world.node(command=dying(at))
    node.start()
    node.init()
    node.play([history.first(), *history.notes(20)])
    disk = world.place("stick").parent
    if wiped:
        shutil.rmtree(world.place("stick"))
    else:
        disk.rename(away)
    if not wiped:
        armed.touch()
    try:
        _until(node, history, lambda: world.note.in_sync != world.names)
        armed.touch()
        if not wiped:
            away.rename(disk)
        _until(node, history, lambda: world.note.in_sync == world.names and world.note.intent is None)
        node.play(history.notes(3))
    except PluginDied:
        assert at
    if at:
        node.die()
    else:
        node.stop()
    if away.exists():
        away.rename(disk)
    armed.unlink()
    return world


def _until(node: Node, history: History, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        node.play([history.note()])
        assert time.monotonic() < until


def assert_goes_on(world: MembersWorld) -> None:
    """The next start goes on, and both members become whole and equal to the node."""
    node = world.node()
    node.start()
    node.init()
    history = History(world.version)
    node.play(history.notes(3))
    eventually(lambda: world.note.in_sync == world.names and world.note.intent is None)
    node.play(history.notes(2))
    node.stop()
    for name in world.names:
        world.assert_member_equals_the_node(name)


@pytest.mark.slow
@pytest.mark.parametrize("wiped", [False, True], ids=["away", "wiped"])
def test_kill_at_every_step_of_healing_loses_nothing(tmp_path: Path, wiped: bool) -> None:
    counted = heal_until_killed(tmp_path / "counted", 0, wiped=wiped)
    steps = int((counted.directory / "steps").read_text())
    assert steps > 20
    for at in range(1 + secrets.randbelow(EVERY), steps + 1, EVERY):
        root = tmp_path / str(at)
        world = heal_until_killed(root, at, wiped=wiped)
        print(f"killed at step {at} of {steps}")  # shown if this fails
        assert_goes_on(world)
        shutil.rmtree(root)
