"""A start that must end in a refusal, and what the operator reads then."""

import re

import pytest

from tests.end_to_end.world import PLUGIN, World, said_at
from tests.fake_lightningd import Call, Refused


def refusal(world: World, call: Call, command: list[str] = PLUGIN) -> str:
    """Start the node and make this call; returns the refusal that the operator reads. Nothing may have changed."""
    as_important = _refusal(world, call, command, important=True)
    as_plain = _refusal(world, call, command, important=False)
    assert as_important == as_plain
    return as_plain


def _refusal(world: World, call: Call, command: list[str], *, important: bool) -> str:
    version, backup = world.version, content(world)
    node = world.node(important=important, command=command)
    manifest = node.start()
    assert manifest["dynamic"] is False
    assert "disable" not in manifest
    assert [hook["name"] for hook in manifest["hooks"]] == ["db_write"]
    with pytest.raises(Refused) as refused:
        node.db_write(call)
    assert refused.value.reply["result"]["result"] == "fail"
    message = refused.value.message
    assert message.startswith("backup: ")
    assert message.isascii() and "Errno" not in message
    assert "Traceback" not in node.stderr
    assert any(message.removeprefix("backup: ") in said for said in said_at(node, "broken"))
    assert world.version == version
    assert content(world) == backup
    return message


def content(world: World) -> dict[str, bytes]:
    """The content of the backup's files, without preallocated zeros and without the session marker."""
    files = [path for path in world.backup.rglob("*") if path.name != "session"] if world.backup.is_dir() else []
    return {path.name: path.read_bytes().rstrip(b"\0") for path in files}


def assert_matches(message: str, pattern: str) -> None:
    assert re.search(pattern, message, re.DOTALL), message
