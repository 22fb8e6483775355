"""Messages that lightningd never sends: each is refused in plain words, and none is acknowledged."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from plugin.misread import misread, why_unsavable
from tests.end_to_end.world import World, said_at
from tests.fake_lightningd import History, Node, RpcError, committed_version

METHODS = frozenset({"db_write", "backup-status", "getmanifest"})


@pytest.fixture
def node(lived: World, history: History) -> Iterator[Node]:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    yield node
    node.die()


def assert_plain(node: Node) -> None:
    """No traceback anywhere, and no log line with a newline in it."""
    for text in [*(line for _, line in node.logs), node.stderr]:
        assert "Traceback" not in text
        assert 'File "' not in text
        assert "\n" not in text
    assert node.stderr == ""


# RPC methods


@pytest.mark.parametrize("params", [["foo"], ["a", "b"], {"foo": 1}, {"request": 1}, {"self": None}, [None], [[1], {}]])
def test_rpc_method_called_with_parameters_is_refused_in_one_line(node: Node, params: Any) -> None:
    """pyln-client prints a traceback into the log, and sends another one to lightning-cli."""
    for method in ("backup-status", "backup-compact"):
        if params == {"request": 1}:  # pyln-client replaces it with its own
            continue
        with pytest.raises(RpcError) as error:
            node.rpc(method, params)
        assert f"{method} takes no parameters" in str(error.value)
        assert "Traceback" not in str(error.value)
    assert node.rpc("backup-status", {})["health"] == "ok"
    assert_plain(node)


# Messages


def call(node: Node, ident: str | None, **other: Any) -> dict[str, Any]:
    version = (committed_version(node.directory) or 0) + 1
    bump = f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {version - 1}"
    whole = {"jsonrpc": "2.0", "id": ident, "method": "db_write", "params": {"data_version": version, "writes": [bump]}}
    return whole | other


BROKEN = {
    "no params": lambda node: json.dumps({k: v for k, v in call(node, "x").items() if k != "params"}).encode(),
    "not UTF-8": lambda node: json.dumps(call(node, "x")).encode().replace(b"UPDATE vars", b"UPDATE \xff\xfe"),
    "cut off": lambda node: json.dumps(call(node, "x")).encode()[:-3],
    "a stray byte": lambda node: json.dumps(call(node, "x")).encode().replace(b'"params"', b'}"params"'),
    "too deep": lambda node: json.dumps(call(node, "x")).encode()[:-1] + b',"y":' + b"[" * 9999 + b"]" * 9999 + b"}",
    "a number too long": lambda node: json.dumps(call(node, "x")).encode()[:-1] + b',"y":' + b"9" * 9999 + b"}",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_db_write_with_a_readable_id_is_refused_and_so_are_all_later_calls(node: Node, what: str) -> None:
    node.wire.raw(BROKEN[what](node), "x")
    answer = node.wire.reply("x")["result"]
    assert answer["result"] == "fail"
    assert "lightningd sent a message" in answer["message"]
    assert "v26.06.6" in answer["message"]
    assert "space, disk" not in answer["message"]
    assert_plain(node)
    node.wire.raw(json.dumps(call(node, "y")).encode(), "y")
    assert node.wire.reply("y")["result"]["result"] == "fail"


@pytest.mark.parametrize(
    "message",
    [b"{", b"\x80\x81", b"[1, 2]", b"17", b"null", b'"db_write"', b'{"id": null, "method": "db_write", "params": {}}'],
)
def test_broken_message_without_an_id_ends_the_plugin_with_one_log_line(node: Node, message: bytes) -> None:
    node.wire.raw(message)
    assert node.wire.listen(20, node.wire.has_left)
    assert node.wire.process.wait(20) == 1
    [line] = said_at(node, "broken")
    assert "lightningd sent a message" in line
    assert_plain(node)


@pytest.mark.parametrize(
    "message",
    [
        b'{"id": "x", "method": "no-such-method", "params": {}}',
        b'{"id": "x", "method": 7, "params": {}}',
        b'{"id": "x"}',
        b'{"id": "x", "method": "backup-status", "params": {"a": "\xff"}}',
        b'{"id": "x", "method": "backup-status", "params": {',
    ],
)
def test_broken_message_that_is_no_db_write_gets_an_error_and_the_node_goes_on(
    node: Node, history: History, message: bytes
) -> None:
    node.wire.raw(message, "x")
    assert "lightningd-backup cannot answer a message" in node.wire.reply("x")["error"]["message"]
    node.play(history.notes(2))
    assert_plain(node)


def test_unexpected_notification_is_logged_and_ignored(node: Node, history: History) -> None:
    node.wire.raw(b'{"method": "warning", "params": {}}')
    node.play(history.notes(2))
    assert any("did not ask for: warning" in line for line in said_at(node, "unusual"))
    assert_plain(node)


def test_shutdown_without_parameters_ends_the_plugin(node: Node) -> None:
    node.wire.raw(b'{"method": "shutdown"}')
    assert node.wire.listen(20, node.wire.has_left)
    assert node.wire.process.wait(20) == 0
    assert_plain(node)


def test_messages_that_arrive_together_with_a_broken_one_are_answered(node: Node) -> None:
    node.wire.raw(b'{"id": "a"}\n\n{"id": "b", "method": "backup-status", "params": []}\n\n{"id": "c"}', "a")
    node.wire._open |= {"b", "c"}
    assert "error" in node.wire.reply("a")
    assert node.wire.reply("b")["result"]["health"] == "ok"
    assert "error" in node.wire.reply("c")


# Changes

BAD_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"data_version": 6.0}, "data_version is 6.0, not a whole number"),
    ({"data_version": True}, "data_version is true"),
    ({"data_version": "6"}, "data_version is a text"),
    ({"data_version": -1}, "data_version is -1"),
    ({"data_version": None}, "data_version is missing"),
    ({"data_version": []}, "data_version is a list"),
    ({"data_version": 1 << 70}, "data_version is 1180591620717411303424"),
    ({"writes": ["SELECT 1", "SELECT '\0'"]}, "statement 2 of 2 contains a NUL"),
    ({"writes": ["SELECT '\ud800'"]}, "statement 1 of 1 contains half a character"),
    ({"writes": [7]}, "statement 1 of 1 is 7, not text"),
    ({"writes": "SELECT 1"}, "writes are a text"),
    ({"writes": None}, "writes are missing"),
    ({"writes": {"a": 1}}, "writes are an object"),
]


@pytest.mark.parametrize(
    ("odd", "words", "first"),
    [*((*bad, True) for bad in BAD_CHANGES), (*BAD_CHANGES[0], False), (*BAD_CHANGES[7], False)],
)
def test_malformed_change_is_refused_without_blaming_the_disk(
    lived: World, history: History, odd: dict[str, Any], words: str, first: bool
) -> None:
    node = lived.node()
    node.start()
    if not first:
        node.play(history.notes(1))
    before = lived.backup.stat().st_mtime_ns, sorted(path.name for path in lived.backup.iterdir())
    message = call(node, "x")
    message["params"] = {k: v for k, v in (message["params"] | odd).items() if v is not None}
    node.wire.raw(json.dumps(message).encode(), "x")
    answer = node.wire.reply("x")["result"]
    assert answer["result"] == "fail"
    assert words in answer["message"]
    assert "No disk is at fault" in answer["message"]
    assert "v26.06.6" in answer["message"]
    assert (lived.backup.stat().st_mtime_ns, sorted(path.name for path in lived.backup.iterdir())) == before
    assert_plain(node)
    node.die()
    lived.run(History(lived.version).notes(1))
    lived.assert_restored_equals_the_nodes()


def test_db_write_with_extra_positional_parameters_is_saved(node: Node) -> None:
    whole = call(node, "x")
    node.wire.raw(json.dumps(whole | {"params": [*whole["params"].values(), 3, 4]}).encode(), "x")
    assert node.wire.reply("x")["result"] == {"result": "continue"}
    node.wire.raw(json.dumps(whole | {"id": "y", "params": [1]}).encode(), "y")
    assert "writes are missing" in node.wire.reply("y")["result"]["message"]
    assert_plain(node)


@pytest.mark.parametrize("params", ["foo", 7, None])
def test_db_write_whose_parameters_are_no_list_or_object_gets_a_one_line_error(node: Node, params: Any) -> None:
    node.wire.raw(json.dumps(call(node, "x", params=params)).encode(), "x")
    reply = node.wire.reply("x")
    assert "continue" not in json.dumps(reply)
    assert "Traceback" not in json.dumps(reply)
    assert_plain(node)


# The functions


def test_id_of_a_broken_message_is_found_only_where_it_is_certain() -> None:
    assert misread(b'{"id": "cln:db_write#7", "method": "db_write", "par', METHODS).ident == "cln:db_write#7"
    assert misread(b'{"method":"db_write","id":"a\\"b","x', METHODS).ident == 'a"b'
    assert misread(b'{"writes": ["\\"id\\": \\"mine\\""], "x', METHODS).ident is None  # a peer's words
    assert misread(b'{"id": true, "method": "db_write"}', METHODS).ident is None
    assert misread(b'{"id": {"a": 1}, "method": "db_write"}', METHODS).ident is None
    for end in range(40):
        misread(b'{"id": "cln:db_write#7", "method": "db_write"}'[:end] + b"\xff", METHODS)


def test_unsavable_version_or_statement_is_recognised() -> None:
    assert why_unsavable(0, []) is None
    assert why_unsavable((1 << 32) - 1, ["SELECT 'ä€😀'", ""]) is None
    assert why_unsavable(1 << 32, []) is not None
