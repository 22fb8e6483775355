"""The fake lightningd itself: what it commits, what it loses, and what it refuses to accept."""

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from pyln.client import LightningRpc
from pyln.client import RpcError as ClientError

from tests.fake_lightningd import (
    ANSWERING_PLUGIN,
    Call,
    Database,
    Delivery,
    History,
    LeftInCall,
    Moment,
    Node,
    OutOfStep,
    PluginDied,
    Refused,
    RpcError,
    RpcSocket,
    SeparateDatabase,
    Victim,
    at_once,
    committed_version,
    contents,
    cut_at,
    has_hot_journal,
    in_pieces,
    read_recording,
    recorded_database,
    run_without_plugin,
    scripted_plugin,
)


@pytest.fixture(params=[Database, SeparateDatabase])
def database(request: pytest.FixtureRequest) -> type[Database] | type[SeparateDatabase]:
    kind: type[Database] | type[SeparateDatabase] = request.param
    return kind


AnyDatabase = type[Database] | type[SeparateDatabase]


def test_recorded_node_played_again_ends_with_its_recorded_database(tmp_path: Path, database: AnyDatabase) -> None:
    with Node(tmp_path, ANSWERING_PLUGIN, database=database) as node:
        node.play(read_recording())
    recorded = recorded_database(tmp_path / "recorded.sqlite3")
    assert contents(tmp_path / "lightningd.sqlite3") == contents(recorded)
    assert node.logs == []
    assert node.stderr == ""


def test_calls_and_lone_pragmas_reach_the_plugin_in_order(tmp_path: Path) -> None:
    history = History()
    calls = [history.first(), history.foreign_keys(on=False), history.note(), history.foreign_keys(on=True)]
    with Node(tmp_path, scripted_plugin(tmp_path)) as node:
        node.play([*calls, *history.notes(2)])
        assert node.rpc("seen") == {"seen": [1, 1, 2, 2, 3, 4], "directory": str(tmp_path)}
        assert committed_version(tmp_path) == 4


def test_early_calls_of_node_come_before_init(tmp_path: Path) -> None:
    history = History()
    with Node(tmp_path, scripted_plugin(tmp_path, "plugin.log(f'call {data_version}')")) as node:
        node.play([history.first(), *history.notes(3)], early=2)
        messages = [message for _, message in node.logs]
    assert messages[:5] == ["call 1", "call 2", f"init blue {tmp_path}", "call 3", "call 4"]
    assert node.logs[-1] == ("info", "goodbye")


def test_foreign_keys_of_node_are_on_until_a_pragma_turns_them_off(tmp_path: Path, database: AnyDatabase) -> None:
    history = History()
    calls = [
        history.first(),
        history.transaction("CREATE TABLE a (id INTEGER PRIMARY KEY)", "CREATE TABLE b (a REFERENCES a(id))"),
        history.foreign_keys(on=False),
        history.transaction("INSERT INTO b VALUES (1)"),
        history.foreign_keys(on=True),
    ]
    with Node(tmp_path, ANSWERING_PLUGIN, database=database) as node:
        node.play(calls)
        with pytest.raises(OutOfStep, match="FOREIGN KEY"):
            node.db_write(history.transaction("INSERT INTO b VALUES (2)"))
        node.die()
    assert committed_version(tmp_path) == 3


# Refusals


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("return {'result': 'fail', 'message': 'stop: the disk is full'}", "^stop: the disk is full$"),
        ("raise ValueError('broken')", "Error while processing db_write: broken"),
        ("return None", "None"),
        ("return {'result': 'continue', 'more': 1}", "continue"),
    ],
)
def test_answer_other_than_continue_ends_the_node(
    tmp_path: Path, database: AnyDatabase, hook: str, message: str
) -> None:
    history = History()
    run_without_plugin(tmp_path, [history.first()])
    node = Node(tmp_path, scripted_plugin(tmp_path, hook), database=database)
    node.start()
    with pytest.raises(Refused, match=message) as refused:
        node.db_write(history.note())
    assert "id" in refused.value.reply
    assert committed_version(tmp_path) == 1
    assert not node.wire.alive


def test_plugin_that_dies_in_the_hook_ends_the_node(tmp_path: Path) -> None:
    node = Node(tmp_path, scripted_plugin(tmp_path, "os._exit(3)"), important=False)
    node.start()
    with pytest.raises(PluginDied):
        node.db_write(History().first())
    assert committed_version(tmp_path) is None
    assert node.wire.process.returncode == 3


def test_important_plugin_killed_between_calls_ends_the_node(tmp_path: Path) -> None:
    history = History()
    node = Node(tmp_path, ANSWERING_PLUGIN)
    node.start()
    node.play([history.first()])
    os.kill(node.pid, signal.SIGKILL)
    with pytest.raises(PluginDied):
        node.db_write(history.note())
    assert committed_version(tmp_path) == 1


def test_plain_plugin_killed_between_calls_is_not_missed(tmp_path: Path) -> None:
    history = History()
    with Node(tmp_path, ANSWERING_PLUGIN, important=False) as node:
        node.play([history.first()])
        node.die(Victim.PLUGIN)
        node.db_write(history.note())
    assert committed_version(tmp_path) == 2


def test_hook_that_hangs_raises_timeout(tmp_path: Path) -> None:
    node = Node(tmp_path, scripted_plugin(tmp_path, "time.sleep(60)"), timeout=1.0)
    node.start()
    with pytest.raises(TimeoutError, match="db_write"):
        node.db_write(History().first())
    node.die()


def test_plugin_that_stays_after_the_stop_fails_the_test(tmp_path: Path) -> None:
    node = Node(
        tmp_path, scripted_plugin(tmp_path, "import threading; threading.Thread(target=time.sleep, args=[60]).start()")
    )
    node.start()
    node.play([History().first()])
    with pytest.raises(AssertionError, match="did not end"):
        node.wire.hang_up(timeout=0.3)
    node.die()


def test_plugin_without_the_hook_keeps_the_node_from_starting(tmp_path: Path) -> None:
    command = scripted_plugin(tmp_path)
    path = tmp_path / "plugin.py"
    path.write_text(path.read_text().replace("plugin.add_hook", "print"))
    node = Node(tmp_path, command)
    with pytest.raises(AssertionError):
        node.start()
    assert not node.wire.alive
    assert not (tmp_path / "lightningd.sqlite3").exists()  # the database is opened after the manifest


def test_plugin_that_cannot_start_is_reported_with_its_stderr(tmp_path: Path) -> None:
    node = Node(tmp_path, [sys.executable, "-c", "raise SystemExit('no settings')"])
    with pytest.raises(PluginDied, match="getmanifest"):
        node.start()
    assert node.stderr == "no settings\n"


def test_call_that_does_not_fit_the_database_is_out_of_step(tmp_path: Path, database: AnyDatabase) -> None:
    run_without_plugin(tmp_path, [History().first()])
    for call in (History(version=4).note(), History(version=1).transaction("INSERT INTO nowhere VALUES (1)")):
        with (
            pytest.raises(OutOfStep, match=r"Optimistic lock|no such table"),
            Node(tmp_path, ANSWERING_PLUGIN, database=database) as node,
        ):
            node.db_write(call)
    assert committed_version(tmp_path) == 1


# Deaths


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("victim", Victim)
def test_death_at_any_moment_of_a_call_commits_only_what_was_answered(
    tmp_path: Path, database: AnyDatabase, moment: Moment, victim: Victim
) -> None:
    history, heard = History(), tmp_path / "heard"
    record = f"open({str(heard)!r}, 'a').write(f'{{data_version}} ')"
    node = Node(tmp_path, scripted_plugin(tmp_path, record), database=database)
    node.start()
    node.play([history.first()])
    if victim is Victim.PLUGIN and moment is not Moment.BEFORE_COMMIT:
        with pytest.raises(PluginDied):
            node.die_at(moment, history.note(), victim, delay=0.05)
    else:
        node.die_at(moment, history.note(), victim, delay=0.05)
    assert heard.read_text() == ("1 " if moment is Moment.BEFORE_HOOK else "1 2 ")
    assert not node.wire.alive
    committed = victim is Victim.PLUGIN and moment is Moment.BEFORE_COMMIT
    node.die()
    assert committed_version(tmp_path) == (2 if committed else 1)


def test_next_run_of_node_continues_from_what_was_committed(tmp_path: Path) -> None:
    history = History()
    node = Node(tmp_path, ANSWERING_PLUGIN)
    node.start()
    node.play([history.first(), *history.notes(3)])
    node.die_at(Moment.BEFORE_COMMIT, history.note())
    with Node(tmp_path, ANSWERING_PLUGIN) as again:
        again.play(History(version=4).notes(2))
    assert committed_version(tmp_path) == 6


def test_killed_node_leaves_a_hot_journal(tmp_path: Path) -> None:
    history = History()
    run_without_plugin(tmp_path, [history.first(), history.big()])
    before = contents(tmp_path / "lightningd.sqlite3")
    raw = (tmp_path / "lightningd.sqlite3").read_bytes()
    assert not has_hot_journal(tmp_path)
    node = Node(tmp_path, ANSWERING_PLUGIN, database=partial(SeparateDatabase, cache_pages=10))
    node.start()
    node.die_at(
        Moment.BEFORE_COMMIT, history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'")
    )
    assert has_hot_journal(tmp_path)
    assert (tmp_path / "lightningd.sqlite3").read_bytes() != raw  # part of the transaction is in the file
    assert contents(tmp_path / "lightningd.sqlite3") == before
    assert not has_hot_journal(tmp_path)


# The end


def test_node_may_write_after_the_plugin_was_stopped(tmp_path: Path) -> None:
    history = History()
    node = Node(tmp_path, scripted_plugin(tmp_path))
    node.start()
    node.play([history.first()])
    assert node.stop(late=history.notes(2)) == 0
    assert node.logs[-1] == ("info", "goodbye")
    assert committed_version(tmp_path) == 3


@pytest.mark.parametrize("how", ["stop", "shut_down"])
def test_plugin_without_shutdown_subscription_is_killed_at_the_end(tmp_path: Path, how: str) -> None:
    history = History()
    node = Node(tmp_path, ANSWERING_PLUGIN)
    node.start()
    node.play([history.first()])
    assert getattr(node, how)(late=history.notes(2)) == -signal.SIGKILL
    assert committed_version(tmp_path) == 3


STAYS = "import threading; threading.Timer(0.4, os._exit, [0]).start()"
"""A plugin that keeps answering for a moment after `shutdown`."""


def test_calls_during_shutdown_go_through_the_hook_until_the_plugin_left(tmp_path: Path) -> None:
    history, heard = History(), tmp_path / "heard"
    node = Node(tmp_path, scripted_plugin(tmp_path, f"open({str(heard)!r}, 'a').write(f'{{data_version}} ')", STAYS))
    node.start()
    node.play([history.first()])

    def during() -> Iterator[Call]:
        yield from history.notes(2)
        assert node.wire.listen(5, node.wire.has_left)
        yield from history.notes(2)

    assert node.shut_down(during(), late=(history.note() for _ in range(1))) == 0
    assert heard.read_text() == "1 2 3 "
    assert committed_version(tmp_path) == 6


def test_node_waiting_for_shutdown_keeps_the_pipe_of_the_plugin_open(tmp_path: Path) -> None:
    """The plugin must notice `shutdown` itself: the node does not close the pipe for it."""
    node = Node(tmp_path, scripted_plugin(tmp_path, shutdown="pass"))
    node.start()
    node.play([History().first()])
    with pytest.raises(AssertionError, match="still there"):
        node.shut_down(timeout=0.3)
    assert node.wire.alive
    assert node.wire.hang_up() == 0
    node.die()


def test_plugin_that_leaves_within_a_call_during_shutdown_aborts_the_node(tmp_path: Path) -> None:
    history = History()
    node = Node(tmp_path, scripted_plugin(tmp_path, "data_version < 3 or time.sleep(30)", STAYS))
    node.start()
    node.play([history.first()])
    with pytest.raises(LeftInCall):
        node.shut_down(history.notes(3))
    assert committed_version(tmp_path) == 2
    assert not node.wire.alive


def test_refusal_during_shutdown_aborts_the_node(tmp_path: Path) -> None:
    history = History()
    node = Node(tmp_path, scripted_plugin(tmp_path, "if data_version > 1: return {'result': 'fail'}", STAYS))
    node.start()
    node.play([history.first()])
    with pytest.raises(Refused):
        node.shut_down(history.notes(1))
    assert committed_version(tmp_path) == 1


# lightningd's own RPC


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        ((26, 6), {"configs": {"wallet": {"value_str": "postgres://x", "source": "/etc/lightning/config:3"}}}),
        ((23, 5), {"wallet": "postgres://x"}),
    ],
)
def test_rpc_socket_answers_listconfigs_in_the_form_of_its_version(
    tmp_path: Path, version: tuple[int, int], answer: object
) -> None:
    with RpcSocket(tmp_path, "postgres://x", version=version, fails=1) as rpc:
        client = LightningRpc(str(rpc.path))
        with pytest.raises(ClientError, match="still starting"):
            client.call("listconfigs", {"config": "wallet"})
        assert client.call("listconfigs", {"config": "wallet"}) == answer
        with pytest.raises(ClientError, match="Unknown command"):
            client.call("getinfo")
    assert not rpc.path.exists()


# The wire


@pytest.mark.parametrize("delivery", [at_once, in_pieces(7), in_pieces(4096), cut_at(1, 5, -1), cut_at(-2, -1)])
def test_calls_cut_into_any_pieces_are_understood(tmp_path: Path, delivery: Delivery) -> None:
    history = History()
    odd = "a'; DROP TABLE vars; --\n\n\r\n\"\\ \u2028 ☃ 𝄞 é"
    with Node(tmp_path, ANSWERING_PLUGIN, delivery=delivery) as node:
        node.play([history.first(), history.note(odd), *history.notes(2)])
    with closing(sqlite3.connect(tmp_path / "lightningd.sqlite3")) as found:
        assert found.execute("SELECT val FROM vars WHERE name = 'note 2'").fetchone() == (odd,)


def test_several_messages_in_one_write_are_understood(tmp_path: Path) -> None:
    writes: list[int] = []

    def watched(data: bytes) -> Sequence[bytes]:
        writes.append(data.count(b"\n\n"))
        return [data]

    history = History()
    with Node(tmp_path, scripted_plugin(tmp_path), delivery=watched) as node:
        node.play([history.first()])
        writes.clear()
        node.notify("block_added", {"block": 7}, hold=True)
        ident = node.wire.post("seen", {}, hold=True)
        node.db_write(history.note())
        assert writes == [3]
        assert node.wire.reply(ident)["result"]["seen"] == [1]
        assert node.wait_for_log("heard") == "heard 7"


def test_call_larger_than_the_pipe_is_sent_while_the_plugin_logs(tmp_path: Path) -> None:
    history = History()
    with Node(tmp_path, scripted_plugin(tmp_path, "plugin.log('x' * 200_000)")) as node:
        node.notify("block_added", {"block": "y" * 200_000}, hold=True)
        node.play([history.first(), history.big(4 << 20)])
    assert committed_version(tmp_path) == 2


def test_method_of_plugin_that_fails_raises_rpc_error(tmp_path: Path) -> None:
    with Node(tmp_path, scripted_plugin(tmp_path)) as node:
        with pytest.raises(RpcError, match="division by zero"):
            node.rpc("fail")
        assert node.rpc("seen")["seen"] == []
        assert node.wire.post("seen", {}, origin="cln").startswith("cln:seen#")
