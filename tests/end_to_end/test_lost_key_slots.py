"""Key slots that are lost beside a running node: a real plugin finds it, says it, and writes them again."""

import sys
from pathlib import Path

import pytest

from backends.log.format.keys import KEYS, KeysDocument
from backends.log.key_slots import read_keys
from tests.end_to_end.encrypted import HSM_SECRET, EncryptedWorld, lived_as
from tests.end_to_end.world import said_at
from tests.fake_lightningd import History
from tests.members.world import MembersWorld, eventually

LOOKS_OFTEN = """
from plugin import slots_watch
slots_watch.LOOK_EVERY = slots_watch.LOOK_AGAIN = 0.2
from plugin.main import main
main()
"""


def test_slots_lost_beside_the_running_node_are_written_again(
    encrypted_once: EncryptedWorld, tmp_path: Path, history: History
) -> None:
    world = lived_as(encrypted_once, EncryptedWorld(tmp_path), history)
    path = world.backup / KEYS
    before = read_keys(world.log.storage)
    with world.node(command=[sys.executable, "-c", LOOKS_OFTEN]) as node:
        node.play(history.notes(2))
        eventually(lambda: node.rpc("backup-status")["key_slots"] == 1)
        path.unlink()
        eventually(path.exists)
        node.play(history.notes(2))
        assert node.rpc("backup-status")["health"] == "ok"
    assert [line for line in said_at(node, "unusual") if "written again" in line]
    assert read_keys(world.log.storage) == before
    world.assert_restored_equals_the_nodes()


def test_slots_that_the_running_node_cannot_write_again_show_in_its_status(
    encrypted_once: EncryptedWorld, tmp_path: Path, history: History
) -> None:
    world = lived_as(encrypted_once, EncryptedWorld(tmp_path), history)
    (world.backup / KEYS).write_bytes(b"rubbish")
    (world.directory / HSM_SECRET).write_bytes(bytes(range(73)))  # needs a passphrase
    with world.node(command=[sys.executable, "-c", LOOKS_OFTEN]) as node:
        node.play(history.notes(2))
        eventually(lambda: node.rpc("backup-status")["health"] == "degraded")
        seen = node.rpc("backup-status")
        node.play(history.notes(2))
    assert (seen["trouble_kinds"], seen["key_slots"]) == (["no_key_slot"], 0)
    assert len(said_at(node, "broken")) == 1, "the start has told it"


@pytest.mark.parametrize("lost", [["nas"], ["stick"], ["nas", "stick"]])
def test_slots_lost_at_members_are_written_again_there(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch, lost: list[str]
) -> None:
    monkeypatch.setattr("tests.members.world.EVERYTHING", True)  # encrypted
    world = MembersWorld(tmp_path).init()
    before = KeysDocument.decode((world.place("nas") / KEYS).read_bytes())
    with world.node(command=[sys.executable, "-c", LOOKS_OFTEN]) as node:
        node.play([history.first(), *history.notes(2)])
        eventually(lambda: node.rpc("backup-status").get("key_slots") == 1)
        for name in lost:
            (world.place(name) / KEYS).unlink()
        eventually(lambda: all((world.place(name) / KEYS).exists() for name in lost))
        node.play(history.notes(2))
        assert node.rpc("backup-status")["health"] == "ok"
    after = [KeysDocument.decode((world.place(name) / KEYS).read_bytes()) for name in world.names]
    assert after == [before, before] and before.slots
    assert world.note.in_sync == world.names, "it costs no member its place"
