"""How the plugin ends when lightningd stops: it answers until nothing more comes, and closes its session."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backends import backup_at
from backends.node.sync_point import read_sync_point
from tests.end_to_end.world import World, said_at
from tests.fake_lightningd import (
    Call,
    Database,
    History,
    Moment,
    Node,
    SeparateDatabase,
    Victim,
    has_hot_journal,
    transaction,
)


def during(node: Node, history: History, chance: random.Random, seconds: float) -> Iterator[Call]:
    """What lightningd commits while it waits for its plugins: a call now and then for `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        node.wire.listen(chance.choice((0.0, 0.001, chance.uniform(0, 0.1), chance.uniform(0, 0.45))))
        yield history.note()


def test_stops_in_the_middle_of_a_stream_of_calls_lose_nothing(lived: World, history: History) -> None:
    """The next start logs nothing unusual. A stop takes seconds; the pages quote a campaign of 200 of them."""
    chance = random.Random(11)
    calls = 0
    for _ in range(8):
        node = lived.node()
        node.start()
        node.play(history.notes(chance.randint(1, 20)))
        before = lived.version
        assert node.shut_down(during(node, history, chance, chance.choice((0.0, chance.uniform(0, 1.2))))) == 0
        calls += lived.version - before
        assert said_at(node, "unusual") == said_at(node, "broken") == []
        assert node.stderr == ""
    assert calls > 10
    lived.assert_restored_equals_the_nodes()


def test_call_just_as_the_plugin_leaves_is_answered_or_found_ahead(lived: World, history: History) -> None:
    """Calls around the moment at which the plugin has heard nothing for half a second."""
    for early in (0.02, 0.01, 0.005, 0.0, -0.005, -0.01, -0.02, -0.03):
        node = lived.node()
        node.start()
        node.play(history.notes(1))

        def late(node: Node = node, early: float = early) -> Iterator[Call]:
            node.wire.listen(0.5 - early)
            yield history.note()

        assert node.shut_down(late()) == 0
        assert said_at(node, "broken") == []
        history.version = lived.version
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def test_commits_after_the_plugin_has_left_are_found_at_the_next_start(lived: World, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    assert node.shut_down(history.notes(2), late=history.notes(3)) == 0
    assert "the database is 3 ahead" in said_at(lived.run(history.notes(1)), "unusual")[0]
    lived.assert_restored_equals_the_nodes()


def test_clean_stop_closes_the_session_in_the_backup(lived: World, history: History) -> None:
    """A closed session tells a cut log from a whole one, and the database from any other at the same version."""
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    assert node.shut_down(history.notes(2)) == 0
    writer = backup_at(lived.url).last_writer()
    assert writer is not None
    assert writer.closed
    sync_point = read_sync_point(lived.directory)
    assert sync_point is not None
    assert sync_point.data_version == lived.version


def test_stop_before_the_first_call_logs_nothing(lived: World) -> None:
    node = lived.node()
    node.start()
    node.init()
    assert node.shut_down() == 0
    assert node.logs == []


def plugin_whose_end_takes(seconds: float, directory: Path) -> list[str]:
    """The command of a plugin that takes `seconds` to close its session, and that waits for this one second at most."""
    program = directory / "slow_end.py"
    program.write_text(
        "import time\n"
        "import plugin.hook_handler\n"
        "from backends.log.writer.writer import Writer\n"
        "from plugin.main import main\n"
        "plugin.hook_handler.LEAVE_WITHIN = 1.0\n"
        "close = Writer.close\n"
        f"Writer.close = lambda writer: (time.sleep({seconds}), close(writer))\n"
        "main()\n"
    )
    return [sys.executable, str(program)]


def test_call_while_the_plugin_closes_its_session_is_answered_in_a_new_one(
    lived: World, history: History, tmp_path: Path
) -> None:
    """The call is still answered, in a new session."""
    node = lived.node(
        command=plugin_whose_end_takes(0.6, tmp_path), database=partial(SeparateDatabase, synchronous="FULL")
    )
    node.start()
    node.play(history.notes(2))

    def late() -> Iterator[Call]:
        node.wire.listen(0.8)
        yield history.note()
        yield history.note()

    assert node.shut_down(late()) == 0
    assert len(said_at(node, "info")) == 2, node.logs  # it has gone on
    assert said_at(node, "unusual") == said_at(node, "broken") == []
    lived.assert_restored_equals_the_nodes()
    assert said_at(lived.run(history.notes(1)), "unusual") == []


def test_destination_that_hangs_at_the_end_does_not_delay_the_stop(
    lived: World, history: History, tmp_path: Path
) -> None:
    """lightningd waits for 30 seconds. Every change is saved; only the session's end is not written down."""
    node = lived.node(command=plugin_whose_end_takes(60.0, tmp_path))
    node.start()
    node.play(history.notes(2))
    began = time.monotonic()
    assert node.shut_down(history.notes(1)) == 0
    assert time.monotonic() - began < 10
    assert "did not finish in 1 s; every change is saved" in said_at(node, "unusual")[0]
    lived.assert_restored_equals_the_nodes()


# lightningd dies alone


@pytest.mark.parametrize("synchronous", ["OFF", "FULL"])
def test_death_of_lightningd_after_a_commit_costs_no_snapshot(lived: World, history: History, synchronous: str) -> None:
    """The plugin sees its input end, and that the change was committed: the next start needs no snapshot."""
    for _ in range(5):
        node = lived.node(database=partial(SeparateDatabase, synchronous=synchronous))
        node.start()
        node.play(history.notes(3))
        node.die(Victim.NODE)
        node.die()
        assert said_at(node, "unusual") == []
    assert said_at(lived.run(history.notes(1)), "unusual") == []
    lived.assert_restored_equals_the_nodes()


def test_death_of_lightningd_before_a_commit_leaves_its_hot_journal_alone(lived: World, history: History) -> None:
    """Nothing is written to the database, and the sync point claims nothing about it."""
    lived.run([history.big()])
    node = lived.node(database=partial(SeparateDatabase, cache_pages=10))
    node.start()
    node.play(history.notes(1))
    node.die_at(
        Moment.BEFORE_COMMIT,
        history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'"),
        Victim.NODE,
    )
    assert has_hot_journal(lived.directory)
    sync_point = read_sync_point(lived.directory)
    assert sync_point is not None
    assert sync_point.data_version < history.version
    node.die()
    assert has_hot_journal(lived.directory)
    assert lived.version == history.version - 1


def test_change_made_while_the_plugin_is_frozen_is_not_taken_for_the_uncommitted_one(
    lived: World, history: History
) -> None:
    """A run without the plugin commits another change while this plugin is still frozen."""
    node = lived.node(database=SeparateDatabase)
    node.start()
    node.play(history.notes(1))
    call = history.note("one")
    node.execute(call)
    node.ask(call)
    os.kill(node.pid, signal.SIGSTOP)
    node.database.die()
    node._database = None
    assert node.wire.process.stdin is not None
    node.wire.process.stdin.close()
    lived.run_without_plugin([transaction(call.data_version, "DELETE FROM vars WHERE substr(name, 1, 4) = 'note'")])
    time.sleep(1.0)
    os.kill(node.pid, signal.SIGCONT)
    node.wire.process.wait(20)
    node.die()
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()


# Both are killed


def test_kill_of_both_a_moment_after_a_commit_costs_no_snapshot(lived: World, history: History) -> None:
    """The next start needs no snapshot."""
    for _ in range(5):
        node = lived.node(database=partial(SeparateDatabase, synchronous="FULL"))
        node.start()
        node.play(history.notes(3))
        node.wire.listen(0.25)
        node.die()
        assert said_at(node, "unusual") == []
    assert said_at(lived.run(history.notes(1), database=Database), "unusual") == []
    lived.assert_restored_equals_the_nodes()
