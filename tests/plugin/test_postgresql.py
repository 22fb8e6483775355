"""A node on PostgreSQL never calls the hook: the plugin finds that out, says so, and stops it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plugin.postgresql import is_postgresql, wallet_in
from tests.end_to_end.world import World, said_at, tree
from tests.fake_lightningd import History, Node, RpcSocket

POSTGRES = "postgres://lightning:a-secret@db.example:5432/lightning"


class Elsewhere:
    """The database of a node whose database is no file."""

    def __init__(self, directory: Path) -> None:
        pass

    def execute(self, statements: Sequence[str], *, transaction: bool) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def die(self) -> None:
        pass

    def close(self) -> None:
        pass


def on_postgresql(world: World, **options: Any) -> Node:
    """A started node that never calls the hook."""
    node = world.node(database=Elsewhere, **options)
    node.start()
    node.init()
    return node


def told(world: World) -> Path:
    """Where the operator's own command writes what it is called with."""
    out, command = world.root / "told", world.directory / "backup.notify"
    command.write_text(f'#!/bin/sh\necho "$1: $2" >> {out}\n')
    command.chmod(0o700)
    return out


@pytest.mark.parametrize(
    "options",
    [{}, {"version": (23, 5)}, {"fails": 2}, {"delay": 2.0}],
    ids=["as it is", "before v23.08", "busy at first", "slow"],
)
def test_node_on_postgresql_is_recognised_and_stopped(world: World, options: dict[str, Any]) -> None:
    world.init()
    out, before = told(world), tree(world.backup)
    with RpcSocket(world.directory, POSTGRES, **options) as rpc:
        node = on_postgresql(world)
        assert node.wire.listen(30, node.wire.has_left)
        assert node.wire.process.wait(5) == 1
    assert set(map(str, rpc.asked)) == {"('listconfigs', {'config': 'wallet'})"}
    [line] = said_at(node, "broken")
    assert "PostgreSQL" in line
    assert "NOTHING is backed up" in line
    assert "a-secret" not in str(node.logs)
    assert node.stderr == ""
    until = time.monotonic() + 10
    while not (out.exists() and out.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    assert out.read_text() == f"broken: {line}\n"
    assert tree(world.backup) == before
    node.die()


def test_node_on_postgresql_is_stopped_although_its_socket_appears_late(world: World) -> None:
    node = on_postgresql(world.init())
    assert not node.wire.listen(1.5, node.wire.has_left)
    with RpcSocket(world.directory, POSTGRES):
        assert node.wire.listen(30, node.wire.has_left)
        assert node.wire.process.wait(5) == 1
    node.die()


def test_node_on_postgresql_without_a_backup_is_told_so_too(world: World) -> None:
    """`init` has not been run, and would not help either."""
    with RpcSocket(world.directory, POSTGRES):
        node = on_postgresql(world)
        assert node.wire.listen(30, node.wire.has_left)
    assert "PostgreSQL" in said_at(node, "broken")[0]
    node.die()


@pytest.mark.parametrize("wallet", [None, "sqlite3:///home/satoshi/.lightning/bitcoin/lightningd.sqlite3"])
def test_idle_node_on_sqlite_is_not_taken_for_postgresql(lived: World, history: History, wallet: str | None) -> None:
    """It has not committed anything yet; when it does, it is protected."""
    with RpcSocket(lived.directory, wallet) as rpc:
        node = lived.node()
        node.start()
        node.init()
        assert not node.wire.listen(2.5, node.wire.has_left)
        assert len(rpc.asked) == 1
        node.play(history.notes(2))
        assert node.stop() == 0
    assert said_at(node, "unusual") == said_at(node, "broken") == []
    lived.assert_restored_equals_the_nodes()


def test_listconfigs_is_not_asked_once_the_hook_was_called(lived: World, history: History) -> None:
    with RpcSocket(lived.directory, None) as rpc:
        with lived.node() as node:
            node.play(history.notes(5))
            node.wire.listen(2.0)
        assert rpc.asked == []


def test_listconfigs_is_not_asked_if_the_first_call_comes_after_init(lived: World, history: History) -> None:
    with RpcSocket(lived.directory, None) as rpc:
        with lived.node() as node:
            node.init()
            node.play(history.notes(1))
            node.wire.listen(2.0)
        assert rpc.asked == []


def test_listconfigs_without_an_answer_does_not_delay_the_stop(lived: World) -> None:
    with RpcSocket(lived.directory, POSTGRES, delay=5.0) as rpc:
        node = lived.node()
        node.start()
        node.init()
        node.wire.listen(20, lambda: bool(rpc.asked))
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("answer", "wallet"),
    [
        ({"configs": {"wallet": {"value_str": POSTGRES, "source": "cmdline"}}}, POSTGRES),
        ({"configs": {}}, None),
        ({"wallet": POSTGRES}, POSTGRES),
        ({}, None),
        ({"# version": "v23.05", "wallet": "sqlite3:///x"}, "sqlite3:///x"),
        ({"wallet": "sqlite3:///x", "configs": {"wallet": {"value_str": POSTGRES}}}, POSTGRES),
    ],
)
def test_wallet_is_read_from_every_form_of_listconfigs_answer(answer: object, wallet: str | None) -> None:
    assert wallet_in(answer) == wallet


@pytest.mark.parametrize("answer", [None, [], "x", {"wallet": 7}, {"configs": {"wallet": {"value_str": []}}}])
def test_malformed_listconfigs_answer_raises_type_error(answer: object) -> None:
    with pytest.raises(TypeError):
        wallet_in(answer)


def test_postgresql_is_recognised_by_the_wallet_url() -> None:
    assert is_postgresql(POSTGRES)
    assert is_postgresql("postgresql://x")
    assert not is_postgresql("sqlite3:///postgres://x")
    assert not is_postgresql(None)


def test_new_node_on_sqlite_is_protected_and_never_asked_for_its_wallet(world: World) -> None:
    """The same node on SQLite: the RPC is there, and the first call comes before `init`."""
    history = History()
    with RpcSocket(world.directory, None) as rpc:
        world.init().run([history.first(), *history.notes(2)])
        assert rpc.asked == []
    world.assert_restored_equals_the_nodes()
