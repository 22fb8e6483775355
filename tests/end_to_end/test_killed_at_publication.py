"""Kill -9 right before and right after a new generation is published: no start takes it for somebody else's work.

A kill after the publication once made the next start say that somebody else had changed the backup, since the note on
the node's side still told of the change before it.
"""

import subprocess
import sys

import pytest

from tests.end_to_end.test_known_damage import assert_healed, compact_and_find, play_unreplayable
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History, Node, PluginDied
from tests.fake_lightningd.database import SeparateDatabase

DIES = """
import os, signal, sys
from backends.storage.local import LocalStorage

published = LocalStorage.publish

def publish(self, name, *rest, **named):
    if name == "manifest" and WHEN == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    published(self, name, *rest, **named)
    if name == "manifest":
        os.kill(os.getpid(), signal.SIGKILL)

LocalStorage.publish = publish
"""
WHEN = pytest.mark.parametrize("when", ["before", "after"])


def dying(when: str) -> list[str]:
    """The command of a plugin that kills itself right before or right after it publishes a new generation."""
    return [sys.executable, "-c", f"WHEN = {when!r}\n{DIES}\nfrom plugin.main import main\nmain()"]


def play_until_killed(node: Node, history: History) -> None:
    """One more change, in whose hook the plugin dies; lightningd then takes it back and ends."""
    with pytest.raises(PluginDied):
        node.play([history.note()])
    history.version -= 1


def assert_goes_on(world: World, history: History) -> None:
    """A start logs nothing alarming, and the backup holds what the node has."""
    again = world.run(history.notes(2))
    assert said_at(again, "broken") == []
    assert_healed(world)


@WHEN
@pytest.mark.parametrize("times", [1, 3])
def test_kill_at_publication_of_a_starts_snapshot_is_no_foreign_writer(
    lived: World, history: History, when: str, times: int
) -> None:
    lived.run_without_plugin(history.notes(2))
    for _ in range(times):
        node = lived.node(command=dying(when))
        node.start()
        play_until_killed(node, history)
        assert said_at(node, "broken") == []
    assert_goes_on(lived, history)


@WHEN
def test_kill_at_publication_of_a_healing_snapshot_is_no_foreign_writer(
    lived: World, history: History, when: str
) -> None:
    node = lived.node(command=dying(when), database=SeparateDatabase)
    node.start()
    node.play(history.notes(5))
    play_unreplayable(node, history)
    node.play(history.notes(20))
    compact_and_find(node)
    play_until_killed(node, history)
    assert_goes_on(lived, history)


@WHEN
@pytest.mark.parametrize("times", [1, 3])
def test_kill_at_publication_of_a_resyncs_snapshot_is_no_foreign_writer(
    lived: World, history: History, when: str, times: int
) -> None:
    lived.run_without_plugin(history.notes(2))
    for _ in range(times):
        words = [sys.executable, "-c", f"WHEN = {when!r}\n{DIES}\nfrom backup_cli.main import main\nmain()"]
        command = [*words, "resync", "--lightning-dir", str(lived.directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == -9, done.stderr
    said = backup_cli("check-config", "--lightning-dir", lived.directory)
    assert "somebody" not in said.text
    assert_goes_on(lived, history)
