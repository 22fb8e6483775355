"""A new snapshot that is made while the node commits: nobody waits for it, and nothing is lost by it."""

import time
from collections.abc import Callable

import pytest

from backends.log.known_damage import DAMAGE
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History, Node

LARGE = {"LIGHTNINGD_BACKUP_LARGE": "1"}
"""Every database counts as a large one."""

BEGUN = "is being made while the node runs"
TAKEN = "the backup is complete again"


def said(node: Node, words: str) -> list[str]:
    return [line for line in said_at(node, "unusual") if words in line]


def play_until(node: Node, history: History, condition: Callable[[], bool]) -> int:
    """Commit until the condition holds, and a few more changes. Returns how many commits that took."""
    end, commits = time.monotonic() + 60, 0
    while not condition():
        assert time.monotonic() < end, node.logs[-5:]
        node.play(history.notes(3))
        commits += 3
        time.sleep(0.01)
    node.play(history.notes(5))
    return commits


def doubt(world: World) -> None:
    """What a node cannot know after a kill -9."""
    (world.directory / "backup.witness").unlink()


@pytest.fixture
def lived(world: World, history: History) -> World:
    world.init()
    world.run([history.first(), *history.notes(30)])
    return world


def test_node_commits_while_the_new_snapshot_is_made(lived: World, history: History) -> None:
    doubt(lived)
    with lived.node(environment=LARGE) as node:
        node.play([history.note()])
        assert said(node, BEGUN) and not said(node, TAKEN), node.logs
        assert (lived.backup / DAMAGE).exists()
        commits = play_until(node, history, lambda: bool(said(node, TAKEN)))
        assert commits > 3
    assert said_at(node, "broken") == []
    assert lived.status()["generation"] == 2
    assert not (lived.backup / DAMAGE).exists()
    lived.assert_restored_equals_the_nodes()
    assert backup_cli("verify", *lived.key_options, lived.url).code == 0
