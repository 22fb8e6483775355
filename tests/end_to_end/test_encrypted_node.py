"""A node with an encrypted backup: what is stored says nothing, and everything works as with a plain one."""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.log.known_damage import DAMAGE, found_now, write_damage
from backends.log.reader.opening import read_manifest
from tests.end_to_end import bare_cipher, leaks
from tests.end_to_end.crash import Death, Life
from tests.end_to_end.encrypted import EncryptedWorld, lived_as
from tests.end_to_end.recordings import FRESH
from tests.end_to_end.world import World, said_at, snapshots_taken, spawned
from tests.fake_lightningd import History, Moment, Victim, transaction
from tests.known_secret import RECORDED_NODE_ID

ROOT = Path(__file__).parents[2]

HOST = "host-name-of-the-node.example"

ON_ITS_HOST = f"""
import socket
socket.gethostname = lambda: {HOST!r}
from plugin.main import main
main()
"""


@pytest.fixture
def world(tmp_path: Path) -> EncryptedWorld:
    return EncryptedWorld(tmp_path)


@pytest.fixture
def lived(encrypted_once: EncryptedWorld, world: EncryptedWorld, history: History) -> EncryptedWorld:
    """The node after some days, stopped cleanly."""
    return lived_as(encrypted_once, world, history)


# What is stored


def test_nothing_that_a_node_has_saved_can_be_read_at_its_destination(
    world: EncryptedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded node: streamed, compacted and started again, with a failed compaction and a new snapshot."""
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    world.init()
    calls = list(FRESH.calls())
    command = [sys.executable, "-c", ON_ITS_HOST]
    node = world.node(command=command)
    node.start()
    node.play(calls[:800])
    assert node.rpc("backup-compact") == {"started": True}
    node.wait_for_log("compaction ended", 60)
    wanted = leaks.needles(world, HOST, calls)
    assert {bytes.fromhex(RECORDED_NODE_ID), HOST.encode(), world.url.encode(), b"UPDATE"} < wanted
    assert len(wanted) > 3000
    assert leaks.leaks(world.backup, wanted) == set()
    world.key_file.rename(world.root / "key")  # the next compaction fails, and why is noted in the backup
    assert node.rpc("backup-compact") == {"started": True}
    trouble = node.wait_for_log("compaction failed", 60)
    assert f"{world.key_file}, which holds its key, is missing" in trouble
    (world.root / "key").rename(world.key_file)
    node.play(calls[800:])
    node.stop()
    world.run_without_plugin([transaction(world.version + 1, "UPDATE vars SET val = 'mine' WHERE name = 'genesis'")])
    again = world.run(History(world.version).notes(2), command=command)
    assert len(snapshots_taken(again)) == 1
    assert {path.name for path in world.backup.iterdir()} >= {"manifest", "session", "keys"}
    assert leaks.leaks(world.backup, leaks.needles(world, HOST, calls)) == set()
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize(
    ("stubbed", "shown"),
    [
        ("records", {b"SQLite", b"data_version'", b"lightning_version"}),
        ("text files", {HOST.encode()}),
    ],
)
def test_search_finds_what_is_readable_if_nothing_is_encrypted(
    world: EncryptedWorld, monkeypatch: pytest.MonkeyPatch, stubbed: str, shown: set[bytes]
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    monkeypatch.setattr(*bare_cipher.STUBS[stubbed])
    calls = list(FRESH.calls(40))
    world.run_without_plugin(calls[:20])
    world.init()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    program += f"from tests.end_to_end.bare_cipher import stub; stub({stubbed!r}); {ON_ITS_HOST}"
    world.run(calls[20:], command=[sys.executable, "-c", program])
    found = leaks.leaks(world.backup, shown | leaks.needles(world, HOST, calls))
    assert found >= shown
    world.assert_restored_equals_the_nodes()


# It works as with a plain backup


def test_node_with_encrypted_backup_killed_at_random_restores_exactly(world: EncryptedWorld) -> None:
    chance = random.Random("encrypted")
    calls = list(FRESH.calls(260))
    numbers = sorted({2, *chance.sample(range(5, len(calls)), 4)})
    ways = [(Moment.IN_HOOK, Victim.BOTH), (Moment.BEFORE_COMMIT, Victim.BOTH), (Moment.BEFORE_COMMIT, Victim.PLUGIN)]
    deaths = {number: Death(*chance.choice(ways), chance.uniform(0, 0.001)) for number in numbers}
    world.init()
    life = Life(world)
    life.play(calls, deaths)
    life.stop()
    assert life.starts >= len(numbers)
    world.assert_restored_equals_the_nodes()


def test_compaction_beside_the_node_gives_an_encrypted_generation(lived: EncryptedWorld, history: History) -> None:
    with lived.node(environment={"LIGHTNINGD_BACKUP_COMPACT_AT": "400"}) as node:
        node.play(history.notes(40))
        node.wait_for_log("compaction ended", 60)
        node.play(history.notes(5))
        seen = node.rpc("backup-status")
    assert (seen["generation_reason"], seen["key_id"]) == ("compaction", lived.key.id)
    assert seen["generation"] > 1
    lived.assert_restored_equals_the_nodes()


def ahead(world: EncryptedWorld, history: History) -> None:
    world.run_without_plugin(history.notes(2))


def known_damage(world: EncryptedWorld, history: History) -> None:
    write_damage(world.log.storage, found_now("verify", "SECRET-FINDING", 1))
    assert b"SECRET-FINDING" not in (world.backup / DAMAGE).read_bytes()


def other_content(world: EncryptedWorld, history: History) -> None:
    """An uncommitted change, and then a run without the plugin: the same version with other content."""
    node = world.node()
    node.start()
    node.die_at(Moment.BEFORE_COMMIT, History(history.version).note("saved and never committed"))
    world.run_without_plugin([history.note("committed in its place")])
    os.utime(world.database, (time.time() + 3600,) * 2)


@pytest.mark.parametrize("happens", [ahead, known_damage, other_content])
def test_new_snapshot_that_the_plugin_takes_is_encrypted(
    lived: EncryptedWorld, history: History, happens: Callable[[EncryptedWorld, History], None]
) -> None:
    happens(lived, history)
    node = lived.run(history.notes(2))
    assert len(snapshots_taken(node)) == 1, node.logs
    assert said_at(node, "broken") == []
    manifest = read_manifest(lived.log.storage)
    assert (manifest.generation, manifest.key) == (2, lived.key.id)
    lived.assert_restored_equals_the_nodes()


def test_command_for_trouble_is_told_that_the_backup_is_encrypted(lived: EncryptedWorld, history: History) -> None:
    mail = lived.directory / "backup.notify"
    mail.write_text('#!/bin/sh\necho "$LIGHTNINGD_BACKUP_ENCRYPTED" > told.part && mv told.part told\n')
    mail.chmod(0o700)
    ahead(lived, history)
    with lived.node() as node:
        node.play(history.notes(2))
        assert node.wire.listen(20, (lived.directory / "told").exists), node.logs
    assert (lived.directory / "told").read_text() == "yes\n"


# The budget of a start


IMPORTED = """
import sys, pathlib
import pyln.client
before = set(sys.modules)
from plugin.encrypted_start import EncryptedStart
import plugin.commit_gate, plugin.maintenance, plugin.notify, plugin.sync_point, plugin.watchdog, plugin.roll_forward
from backends.node.lockfile import read_settings
EncryptedStart(pathlib.Path.cwd(), read_settings(pathlib.Path.cwd()), print)
print(sorted(name for name in set(sys.modules) - before if name.startswith("cryptography") or "key_slots" in name))
"""


def test_plain_backup_imports_nothing_that_encrypts(tmp_path: Path) -> None:
    plain = World(tmp_path).init()
    said = spawned(sys.executable, "-c", IMPORTED, directory=plain.directory, environment={"PYTHONPATH": str(ROOT)})
    assert (said.out, said.err) == ("[]\n", "")
