"""`backup-cli resync --encrypt`: nothing stored in the clear is left, and whatever stops it, nothing is lost."""

import json
import os
import random
import shutil

import pytest

from backends import keyring
from backends.log.key_slots import publish_keys
from backends.log.writer.writer import Writer
from backends.node import key_file
from backends.node.key_file import KEY_FILE, read_key
from backends.storage.local import LocalStorage
from backup_cli import encrypting
from tests.cli.cli_asserts import assert_refused
from tests.cli.made_encrypted import (
    CHEAP,
    assert_nothing_readable,
    init_encrypted,
    kinds,
    lose_key,
    passphrase_file,
    slots_of,
    with_secret,
)
from tests.cli.several import NAMES, dying, failing, init_several, killed, place_of
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import Said, World, backup_cli, said_at, tree
from tests.fake_lightningd import Call, History


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypting, "COST", CHEAP)


@pytest.fixture
def plain(world: World, history: History) -> World:
    """A node that has lived with a backup that everybody can read, with a generation that was kept."""
    with_secret(world).init().run([history.first(), *history.notes(5)])
    (world.directory / "emergency.recover").write_bytes(b"channels, as lightningd has encrypted them")
    world.run_without_plugin(history.notes(2))
    world.run(history.notes(3))
    assert len(list(world.backup.glob("snapshot-*"))) == 2
    return world


def resync(world: World, *options: object) -> Said:
    keyring.forget()
    return backup_cli("resync", "--lightning-dir", world.directory, *options)


def assert_goes_on_encrypted(world: World) -> None:
    keyring.forget()
    node = world.run(History(world.version).notes(2))
    assert said_at(node, "broken") == []
    found = read_key(world.directory)
    assert found is not None and not found.pending
    keyring.forget()
    shutil.copy(world.directory / KEY_FILE, world.root / "copy-of-backup.key")
    target = world.root / f"compared-{world.version}.sqlite3"
    said = backup_cli("restore", "--key-file", world.root / "copy-of-backup.key", world.url, target)
    assert said.code == 0, said
    assert everything(target) == everything(world.database)


# What it makes


def test_resync_encrypt_leaves_nothing_readable_and_the_node_goes_on(plain: World) -> None:
    (plain.backup / "torn-segment-00000001-1795736350").write_bytes(b"UPDATE vars")
    said = resync(plain, "--encrypt")
    assert said.code == 0, said
    assert "hsm_secret (key slot 1)" in said.err
    assert kinds(plain.backup) == ["hsm"]
    assert_nothing_readable(plain.backup, plain, b"channels, as", b'"host"')
    assert len(list(plain.backup.glob("snapshot-*"))) == 1
    assert_goes_on_encrypted(plain)
    assert_nothing_readable(plain.backup, plain, b"channels, as")


def test_backup_after_resync_encrypt_is_restored_with_hsm_secret_alone(plain: World) -> None:
    assert resync(plain, "--encrypt").code == 0
    keyring.forget()
    copy = plain.root / "kept-elsewhere"
    shutil.copy(plain.directory / "hsm_secret", copy)
    lost = plain.database.read_bytes()
    lose_key(plain)
    target = plain.root / "new.sqlite3"
    assert backup_cli("restore", "--hsm-secret", copy, plain.url, target).code == 0
    plain.database.write_bytes(lost)
    assert everything(target) == everything(plain.database)


def test_resync_encrypt_with_passphrase_makes_both_slots(plain: World) -> None:
    said = resync(plain, "--encrypt", "--passphrase-file", passphrase_file(plain), "--json")
    assert said.code == 0, said
    result = json.loads(said.out)
    assert result["encrypted"] is True
    assert result["key_id"] == slots_of(plain.backup).key_id
    assert kinds(plain.backup) == ["hsm", "passphrase"]


def test_resync_encrypt_stores_no_slots_before_the_node_has_the_key(
    plain: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(storage: LocalStorage, document: object) -> None:
        found = read_key(plain.directory)
        assert found is not None and found.pending
        assert not any(b'"sealed"' in path.read_bytes() for path in plain.backup.iterdir() if path.is_file())
        publish_keys(storage, document)  # type: ignore[arg-type]

    monkeypatch.setattr("backup_cli.change_over.publish_keys", check)
    assert resync(plain, "--encrypt").code == 0


def test_emergency_recover_that_the_node_has_no_more_is_encrypted_too(plain: World) -> None:
    assert resync(plain).code == 0
    assert (plain.backup / "emergency.recover").exists()
    (plain.directory / "emergency.recover").unlink()
    before = (plain.backup / "emergency.recover").read_bytes()
    assert b'"sealed"' not in before
    assert resync(plain, "--encrypt").code == 0
    assert b'"sealed"' in (plain.backup / "emergency.recover").read_bytes()


def test_plain_resync_of_an_encrypted_backup_keeps_it_encrypted(world: World, history: History) -> None:
    assert init_encrypted(with_secret(world)).code == 0
    world.run([history.first(), *history.notes(3)])
    key = read_key(world.directory)
    world.run_without_plugin(history.notes(2))
    said = resync(world)
    assert said.code == 0, said
    assert read_key(world.directory) == key
    assert_nothing_readable(world.backup, world)
    assert_goes_on_encrypted(world)


def test_dry_run_of_resync_encrypt_changes_nothing(plain: World) -> None:
    before = tree(plain.root)
    said = resync(plain, "--encrypt", "--dry-run")
    assert said.code == 0, said
    assert "would make a key slot for" in said.out
    assert "would remove what the backup holds now" in said.out
    assert tree(plain.root) == before


# Several members


def test_resync_encrypt_of_several_members_leaves_nothing_readable_at_any(world: World, history: History) -> None:
    assert init_several(with_secret(world), *NAMES).code == 0
    world.run([history.first(), *history.notes(5)])
    said = resync(world, "--encrypt")
    assert said.code == 0, said
    for name in NAMES:
        assert kinds(place_of(world, name)) == ["hsm"]
        assert_nothing_readable(place_of(world, name), world, b"file://")
    world.backup = place_of(world, "nas")
    keyring.forget()
    node = world.run(History(world.version).notes(2))
    assert said_at(node, "broken") == []
    keyring.forget()
    target = world.root / "nas.sqlite3"
    urls = [place_of(world, name).as_uri() for name in NAMES]
    assert backup_cli("restore", "--key-file", world.directory / KEY_FILE, *urls, target).code == 0
    assert everything(target) == everything(world.database)


def test_member_that_was_away_is_named_and_encrypted_when_it_is_caught_up(world: World, history: History) -> None:
    assert init_several(with_secret(world), "disk", "nas").code == 0
    world.run([history.first(), *history.notes(2)])
    away = place_of(world, "nas").parent.rename(world.root / "unplugged")
    world.run(history.notes(1))
    said = resync(world, "--encrypt")
    assert said.code == 0, said
    assert "the member nas is not in sync, and still holds the backup in the clear" in said.text
    shutil.rmtree(world.root / "nas", ignore_errors=True)
    away.rename(world.root / "nas")
    keyring.forget()
    with world.node() as node:
        node.play(History(world.version).notes(1))
        node.wait_for_log("nas is back in sync")
        node.play(History(world.version).notes(1))
    assert kinds(place_of(world, "nas")) == ["hsm"]
    assert_nothing_readable(place_of(world, "nas"), world)


# Refusals


def test_resync_encrypt_that_leaves_anything_readable_says_so(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mistake of this program would."""
    readable = json.dumps({"node_id": "02" * 33}).encode()
    monkeypatch.setattr("backup_cli.commands.resync.attach_emergency", lambda _, place: place.publish("more", readable))
    said = resync(plain, "--encrypt", "--json")
    assert (said.code, json.loads(said.out)["error"]["kind"]) == (1, "not_ciphertext"), said


def test_resync_encrypt_of_an_encrypted_backup_is_refused(world: World, history: History) -> None:
    assert init_encrypted(with_secret(world)).code == 0
    world.run([history.first()])
    before = tree(world.root)
    assert_refused(resync(world, "--encrypt"), "is encrypted already .*nothing was changed")
    assert tree(world.root) == before


@pytest.mark.parametrize("options", [(), ("--encrypt",)])
def test_resync_without_backup_key_advises_to_restore_it(
    world: World, history: History, options: tuple[str, ...]
) -> None:
    assert init_encrypted(with_secret(world)).code == 0
    world.run([history.first()])
    lose_key(world)
    before = tree(world.root)
    assert_refused(resync(world, *options), "backup-cli keys --restore-key")
    assert tree(world.root) == before


def test_resync_encrypt_without_anything_that_opens_the_backup_is_refused(plain: World) -> None:
    (plain.directory / "hsm_secret").unlink()
    before = tree(plain.root)
    assert_refused(resync(plain, "--encrypt"), "nothing but backup.key would open .*--hsm-secret FILE")
    assert tree(plain.root) == before


def test_options_of_encryption_without_encrypt_are_refused(plain: World) -> None:
    said = resync(plain, "--hsm-secret", plain.directory / "hsm_secret")
    assert said.code == 2
    assert "add --encrypt" in said.err


# A plain backup in the place of an encrypted one


def put_plain_copy_back(world: World, *later: Call) -> None:
    """The destination is set back to what it was before it was encrypted."""
    shutil.copytree(world.backup, world.root / "old")
    assert resync(world, "--encrypt").code == 0
    keyring.forget()
    if later:
        world.run(later)
    shutil.rmtree(world.backup)
    (world.root / "old").rename(world.backup)


def test_plain_backup_put_in_place_is_refused_and_encrypted_on_demand(plain: World) -> None:
    put_plain_copy_back(plain)
    before = tree(plain.root)
    assert_refused(resync(plain), "is not.*backup-cli resync --encrypt")
    assert tree(plain.root) == before
    key = read_key(plain.directory)
    said = resync(plain, "--encrypt")
    assert said.code == 0, said
    assert read_key(plain.directory) == key
    assert_nothing_readable(plain.backup, plain)
    assert_goes_on_encrypted(plain)


def test_plain_backup_of_a_session_that_nobody_remembers_is_replaced_only_with_consent(plain: World) -> None:
    put_plain_copy_back(plain, *History(plain.version).notes(2))
    version = str(plain.version - 2)
    assert_refused(resync(plain, "--encrypt"), f"--discard-newer {version}")
    said = resync(plain, "--encrypt", "--discard-newer", version)
    assert said.code == 0, said
    assert_nothing_readable(plain.backup, plain)
    assert_goes_on_encrypted(plain)


def test_change_over_of_a_backup_put_in_place_that_is_stopped_still_refuses_plain(
    plain: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise whoever put it there could make the node write to it in the clear."""
    put_plain_copy_back(plain)
    monkeypatch.setattr(Writer, "take_snapshot", failing(Writer.take_snapshot, 1, OSError(28, "No space left")))
    assert resync(plain, "--encrypt").code == 1
    found = read_key(plain.directory)
    assert found is not None and not found.pending
    assert_refused(resync(plain), "is not.*backup-cli resync --encrypt")


# Killed at each step

_STRIDE = 1 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0" else 5

STEPS = [
    (key_file, "replace_file"),
    (LocalStorage, "publish"),
    (LocalStorage, "rename"),
    (LocalStorage, "sync_names"),
    (LocalStorage, "remove"),
]


@pytest.mark.parametrize(("owner", "function"), STEPS, ids=[name for _, name in STEPS])
def test_resync_encrypt_killed_at_any_step_goes_on_or_is_finished(
    plain: World, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    kept = plain.root.with_name(plain.root.name + "-kept")
    shutil.copytree(plain.root, kept)
    before, real = everything(plain.database), getattr(owner, function)
    for at in range(1 + random.randrange(_STRIDE), 200, _STRIDE):  # every run chooses others
        monkeypatch.setattr(owner, function, dying(real, at))
        was_killed = killed(lambda: resync(plain, "--encrypt"))
        monkeypatch.setattr(owner, function, real)
        assert everything(plain.database) == before
        _assert_either_way(plain, repeat=random.random() < 0.5)
        shutil.rmtree(plain.root)
        shutil.copytree(kept, plain.root)
        if not was_killed:
            return
    raise AssertionError("it never ended")


def _assert_either_way(world: World, *, repeat: bool) -> None:
    """The node starts with what a kill has left; or the command repeated makes the change-over whole."""
    if not repeat:
        node = world.run(History(world.version).notes(1))
        assert said_at(node, "broken") == []
    found = read_key(world.directory)
    if found is None or found.pending:
        said = resync(world, "--encrypt")
        assert said.code == 0, said
    assert_nothing_readable(world.backup, world)
    assert_goes_on_encrypted(world)
