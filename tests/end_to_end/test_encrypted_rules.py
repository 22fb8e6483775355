"""What the plugin does when the key, the backup and hsm_secret do not fit: it says so, and changes nothing."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import backup_at, keyring
from backends.keyring import DataKey
from backends.log.format.keys import HsmSlot, PassphraseSlot, ScryptCost
from backends.log.key_slots import (
    new_keys,
    open_with_hsm,
    open_with_passphrase,
    publish_keys,
    read_keys,
    with_passphrase,
    without,
)
from backends.node.key_file import read_key, write_key
from backends.sqlite.copy import nothing
from tests.end_to_end.encrypted import HSM_DERIVED, HSM_SECRET, EncryptedWorld, lived_as
from tests.end_to_end.world import backup_cli, said_at, snapshots_taken, tree
from tests.fake_lightningd import History, PluginDied, Refused

CHEAP = ScryptCost(1 << 14, 8, 1)
PASSPHRASE = b"correct horse battery staple"

ENCRYPTED_SECRET = bytes(range(73))
"""An hsm_secret of the form that needs a passphrase."""


@pytest.fixture
def world(tmp_path: Path) -> EncryptedWorld:
    return EncryptedWorld(tmp_path)


@pytest.fixture
def lived(encrypted_once: EncryptedWorld, world: EncryptedWorld, history: History) -> EncryptedWorld:
    """The node after some days, stopped cleanly."""
    return lived_as(encrypted_once, world, history)


def refused(world: EncryptedWorld, history: History) -> str:
    """Start the node, which must be refused and change nothing; what the node's log says."""
    keyring.forget()
    before = tree(world.directory, world.backup)
    node = world.node()
    node.start()
    with pytest.raises(Refused) as why:
        node.ask(History(history.version).note())  # only the hook: what lightningd does to its database is not ours
    after = tree(world.directory, world.backup)
    if str(world.database) not in before:  # lightningd has made it by opening it
        del after[str(world.database)]
    assert after == before
    said = said_at(node, "broken")
    assert len(said) == 1 and said[0] in why.value.message
    assert said[0].isascii()
    assert "Traceback" not in node.stderr
    return said[0]


# The key does not fit


def test_lost_key_is_refused_with_the_command_that_restores_it(lived: EncryptedWorld, history: History) -> None:
    lived.key_file.rename(lived.root / "aside")
    said = refused(lived, history)
    assert f"{lived.key_file}, which holds its key, is missing" in said
    assert "Nothing was changed; the backup and this node's database are untouched" in said
    assert f"backup-cli keys --restore-key --lightning-dir {lived.directory} {lived.url}" in said
    assert "this node's hsm_secret" in said
    (lived.root / "aside").rename(lived.key_file)
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_key_of_another_backup_is_named_as_such(lived: EncryptedWorld, history: History) -> None:
    lived.key_file.unlink()
    other = DataKey.new(bytes(16))
    write_key(lived.directory, other)
    said = refused(lived, history)
    assert f"{lived.key_file} is the key of another backup ({other.backup_id.hex()})" in said
    assert "keep that file" in said and "--restore-key" in said


def test_another_key_for_the_same_backup_is_named_as_wrong(lived: EncryptedWorld, history: History) -> None:
    wrong = DataKey.new(lived.key.backup_id)
    lived.key_file.unlink()
    write_key(lived.directory, wrong)
    said = refused(lived, history)
    assert f"holds the key {wrong.id}, and the backup is encrypted with the key {lived.key.id}" in said
    assert "--restore-key" in said


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"key": "', b'"key": "0', 1)), "is damaged"),
        (lambda path: path.write_bytes(b""), "it is empty"),
    ],
)
def test_damaged_key_is_refused(
    lived: EncryptedWorld, history: History, damage: Callable[[Path], object], word: str
) -> None:
    lived.key_file.chmod(0o600)
    damage(lived.key_file)
    said = refused(lived, history)
    assert word in said and "--restore-key" in said


def test_plain_backup_with_the_id_of_an_encrypted_one_is_refused(lived: EncryptedWorld, history: History) -> None:
    """Who holds the destination must not make the node write everything in the clear."""
    forge_plain(lived)
    said = refused(lived, history)
    assert "this node's backup is encrypted, and what is there is not" in said
    assert "backup-cli resync --encrypt" in said


def forge_plain(world: EncryptedWorld) -> None:
    """Put a plain backup in the place of the encrypted one, which claims to be the same."""
    keyring.forget()
    shutil.rmtree(world.backup)
    plain = backup_at(world.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_bytes", lambda size: world.key.backup_id)
        plain.create(nothing())
    assert plain.id() == world.key.backup_id.hex()


def test_plain_backup_that_takes_the_place_while_the_node_runs_gets_nothing(
    lived: EncryptedWorld, history: History
) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    forge_plain(lived)
    before = tree(lived.backup)
    with pytest.raises(Refused):
        for call in history.notes(200):
            node.db_write(call)
            node.wire.listen(0.1, lambda: False)
    after = tree(lived.backup)
    assert after == before


def test_key_of_another_backup_does_not_disturb_a_plain_one(world: EncryptedWorld, history: History) -> None:
    """It was left by an encrypted backup that this node had before."""
    super(EncryptedWorld, world).init()
    write_key(world.directory, DataKey.new(bytes(16)))
    node = world.run([history.first(), *history.notes(2)])
    assert said_at(node, "unusual") == []
    assert not said_at(node, "info")[0].endswith(", encrypted")


# A change-over that is not finished


def test_pending_key_leaves_a_plain_backup_in_use_and_says_so(world: EncryptedWorld, history: History) -> None:
    super(EncryptedWorld, world).init()
    world.key = DataKey.new(bytes.fromhex(backup_at(world.url).id()))
    write_key(world.directory, world.key, pending=True)
    node = world.run([history.first(), *history.notes(2)])
    (line,) = said_at(node, "unusual")
    assert "backup-cli resync --encrypt" in line and "still stored in the clear" in line
    found = read_key(world.directory)
    assert found is not None and found.pending
    super(EncryptedWorld, world).restore()


def test_pending_key_of_an_encrypted_backup_is_finished(world: EncryptedWorld, history: History) -> None:
    world.init(pending=True)
    node = world.run([history.first(), *history.notes(2)])
    assert said_at(node, "unusual") == []
    found = read_key(world.directory)
    assert found is not None and not found.pending
    assert world.key_file.stat().st_mode & 0o777 == 0o400
    forge_plain(world)
    assert "is encrypted, and what is there is not" in refused(world, history)


# Key slots


def slots(world: EncryptedWorld) -> list[str]:
    return [name.kind for name in read_keys(world.log.storage).names]


def test_slot_for_hsm_secret_is_made_before_the_first_change_is_acknowledged(
    world: EncryptedWorld, history: History
) -> None:
    world.init(slot=False)
    (world.directory / HSM_SECRET).rename(world.root / HSM_SECRET)  # lightningd makes it at its first start
    node = world.node()
    node.start()
    (world.root / HSM_SECRET).rename(world.directory / HSM_SECRET)
    node.db_write(history.first())
    assert open_with_hsm(read_keys(world.log.storage), HSM_DERIVED) == world.key
    node.die()
    again = world.run(history.notes(2))
    assert slots(world) == [HsmSlot.kind]
    assert [line for line in said_at(again, "info") if "slot was made" in line] == []
    world.assert_restored_equals_the_nodes()


def test_crash_between_taking_over_and_the_slot_leads_to_a_slot(world: EncryptedWorld, history: History) -> None:
    world.init(slot=False)
    with pytest.raises(PluginDied), world.node(command=[sys.executable, "-c", DIES_BEFORE_THE_SLOT]) as node:
        node.db_write(history.first())
    assert slots(world) == []
    assert world.log.last_writer() is not None, "it had taken the backup over"
    world.run([History().first(), *History(1).notes(2)])
    assert slots(world) == [HsmSlot.kind]
    world.assert_restored_equals_the_nodes()


DIES_BEFORE_THE_SLOT = """
import os, signal
from plugin import key_slots
key_slots.publish_keys = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
from plugin.main import main
main()
"""


@pytest.mark.parametrize("secret", [ENCRYPTED_SECRET, None], ids=["passphrase", "missing"])
def test_without_a_slot_and_a_readable_hsm_secret_the_first_change_is_refused(
    world: EncryptedWorld, history: History, secret: bytes | None
) -> None:
    world.init(slot=False)
    put(world, secret)
    said = refused(world, history)
    assert "has no key slot yet" in said and "Nothing was committed and nothing was changed" in said
    assert "backup-cli keys --add-hsm-secret" in said and "backup-cli keys --add-passphrase" in said
    assert ("passphrase is needed" if secret else f"there is no {world.directory}/hsm_secret") in said


@pytest.mark.parametrize("secret", [ENCRYPTED_SECRET, None], ids=["passphrase", "missing"])
def test_with_a_passphrase_slot_the_node_goes_on_without_the_other(
    world: EncryptedWorld, history: History, secret: bytes | None
) -> None:
    world.init(slot=False)
    put(world, secret)
    publish_keys(world.log.storage, new_keys(world.key, passphrase=PASSPHRASE, cost=CHEAP))
    node = world.run([history.first(), *history.notes(2)])
    (line,) = said_at(node, "unusual")
    assert "backup-cli keys --add-hsm-secret" in line and line.isascii()
    assert slots(world) == [PassphraseSlot.kind]
    assert open_with_passphrase(read_keys(world.log.storage), PASSPHRASE) == world.key


def put(world: EncryptedWorld, secret: bytes | None) -> None:
    path = world.directory / HSM_SECRET
    if secret is None:
        path.unlink()
    else:
        path.write_bytes(secret)


def test_slot_that_a_person_has_removed_is_not_made_again(world: EncryptedWorld, history: History) -> None:
    world.init()
    storage = world.log.storage
    publish_keys(storage, without(with_passphrase(read_keys(storage), world.key, PASSPHRASE, CHEAP), 1))
    node = world.run([history.first(), *history.notes(2)])
    assert slots(world) == [PassphraseSlot.kind]
    assert said_at(node, "unusual") == []


def test_backup_that_holds_hsm_secret_gets_no_slot_for_it(world: EncryptedWorld, history: History) -> None:
    world.init(slot=False)
    storage = world.log.storage
    publish_keys(storage, new_keys(world.key, passphrase=PASSPHRASE, cost=CHEAP))
    storage.publish(HSM_SECRET, b"sealed")
    world.run([history.first(), *history.notes(2)])
    assert slots(world) == [PassphraseSlot.kind]


@pytest.mark.parametrize("missing", [True, False])
def test_lost_slots_are_told_and_the_one_for_hsm_secret_is_written_again(
    lived: EncryptedWorld, history: History, missing: bool
) -> None:
    path = lived.backup / "keys"
    path.unlink() if missing else path.write_bytes(b"\0" * 100)
    node = lived.run(history.notes(2))
    (line,) = said_at(node, "unusual")
    assert "missing or damaged" in line and "backup-cli keys --add-passphrase" in line
    assert slots(lived) == [HsmSlot.kind]
    lived.assert_restored_equals_the_nodes()


def test_lost_slots_that_cannot_be_made_again_do_not_stop_the_node(lived: EncryptedWorld, history: History) -> None:
    (lived.backup / "keys").unlink()
    put(lived, ENCRYPTED_SECRET)
    node = lived.run(history.notes(2))
    (line,) = said_at(node, "broken")
    assert f"nothing but backup.key in {lived.directory} opens it" in line and "copy that file" in line


def test_status_of_an_encrypted_backup_with_and_without_the_key(lived: EncryptedWorld, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(2))
        seen = node.rpc("backup-status")
        assert (seen["encrypted"], seen["key_id"]) == (True, lived.key.id)
    assert said_at(node, "info")[0].endswith(", encrypted")
    with_key = lived.status()
    without_key = json.loads(backup_cli("status", lived.url, "--json").out)
    assert with_key["node_id"] is None
    assert without_key["node_id"] == "encrypted"
    assert (without_key["encrypted"], without_key["key_id"], without_key["data_version"]) == (
        True,
        lived.key.id,
        history.version,
    )
    assert json.dumps(without_key)
    assert snapshots_taken(node) == []
