"""`init --encrypt` and `import --encrypt`: what opens the new backup, and that all of it is made, or nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backends import keyring
from backends.errors import BackupError
from backends.log import key_slots
from backends.log.format.keys import KEYS
from backends.node import hand_over as handing_over
from backends.node import key_file, lockfile
from backends.node.key_file import KEY_FILE, read_key
from backends.storage.local import LocalStorage
from backup_cli import encrypting
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import COST, OTHER_SECRET, cli
from tests.cli.made_encrypted import (
    PASSPHRASE,
    assert_nothing_readable,
    kinds,
    passphrase_file,
    slots_of,
    with_secret,
)
from tests.cli.several import NAMES, dying, failing, killed, place_of, url_of
from tests.cli.test_stopped_at_every_step import check
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import Said, World, said_at, tree
from tests.fake_lightningd import History, read_recording
from tests.known_secret import NODE_ID, SECRET, known_database, known_writes
from tests.legacy.written import written


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypting, "COST", COST)


def init(world: World, *options: object) -> Said:
    return cli("init", "--encrypt", *options, "--lightning-dir", world.directory, world.url)


def restored(world: World, *options: object) -> Path:
    """The database, restored without the node's directory."""
    world.restores += 1
    target = world.root / f"restored-{world.restores}.sqlite3"
    aside = world.directory.rename(world.root / "away")
    try:
        said = cli("restore", *options, world.url, target)
    finally:
        aside.rename(world.directory)
    assert said.code == 0, said
    return target


# What it makes


def test_init_encrypt_is_opened_by_hsm_secret_alone(old_node: World) -> None:
    copy = shutil.copy(with_secret(old_node).directory / "hsm_secret", old_node.root / "safe")
    said = init(old_node)
    assert said.code == 0, said
    assert "hsm_secret (key slot 1)" in said.err
    assert kinds(old_node.backup) == ["hsm"]
    assert_nothing_readable(old_node.backup, old_node)
    assert everything(restored(old_node, "--hsm-secret", copy)) == everything(old_node.database)


def test_init_encrypt_is_opened_by_the_passphrase_in_a_file(old_node: World) -> None:
    file = passphrase_file(with_secret(old_node))
    said = init(old_node, "--passphrase-file", file)
    assert "the passphrase (key slot 2)" in said.err
    assert everything(restored(old_node, "--passphrase-file", file)) == everything(old_node.database)


def test_json_of_init_encrypt_names_key_and_slots_and_nothing_secret(old_node: World) -> None:
    said = init(with_secret(old_node), "--passphrase-file", passphrase_file(old_node), "--json")
    result = json.loads(said.out)
    assert (result["encrypted"], result["key_id"]) == (True, slots_of(old_node.backup).key_id)
    assert [(slot["number"], slot["kind"]) for slot in result["slots"]] == [(1, "hsm"), (2, "passphrase")]
    found = read_key(old_node.directory)
    assert found is not None
    assert found.key.secret.hex() not in said.text
    assert PASSPHRASE not in said.text


def test_json_of_plain_init_says_that_it_is_not_encrypted(old_node: World) -> None:
    said = cli("init", "--json", "--lightning-dir", old_node.directory, old_node.url)
    assert json.loads(said.out)["encrypted"] is False
    assert not (old_node.directory / KEY_FILE).exists()


def test_node_that_never_ran_gets_its_slot_at_the_first_start(world: World, history: History) -> None:
    said = init(world)
    assert said.code == 0, said
    assert "the plugin makes its key slot by itself then" in said.err
    assert "nothing but" in said.err
    assert kinds(world.backup) == []
    with_secret(world)
    node = world.run([history.first(), *history.notes(2)])
    assert said_at(node, "broken") == []
    assert kinds(world.backup) == ["hsm"]


def test_key_slots_come_before_anything_that_is_encrypted(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []
    real = LocalStorage.publish

    def publish(self: LocalStorage, name: str, data: bytes) -> None:
        published.append(name)
        real(self, name, data)

    monkeypatch.setattr(LocalStorage, "publish", publish)
    assert init(with_secret(old_node)).code == 0
    assert published[0] == KEYS


def test_init_encrypt_of_several_members_is_ciphertext_at_each(world: World, history: History) -> None:
    world.run_without_plugin([history.first(), *history.notes(5)])
    urls = [url_of(world, name) for name in NAMES]
    said = cli("init", "--encrypt", "--lightning-dir", with_secret(world).directory, *urls)
    assert said.code == 0, said
    for name in NAMES:
        assert kinds(place_of(world, name)) == ["hsm"]
        assert_nothing_readable(place_of(world, name), world, b"file://")


def test_stored_hsm_secret_comes_back_with_the_passphrase_alone(old_node: World) -> None:
    file = passphrase_file(with_secret(old_node))
    said = init(old_node, "--with-hsm-secret", "--passphrase-file", file)
    assert said.code == 0, said
    assert kinds(old_node.backup) == ["passphrase"]
    secret = (old_node.directory / "hsm_secret").read_bytes()
    assert_nothing_readable(old_node.backup, old_node, secret, secret.hex().encode())
    target = old_node.root / "new" / "regtest"
    target.mkdir(parents=True)
    assert cli("restore", "--resume", "--passphrase-file", file, old_node.url, target).code == 0
    assert (target / "hsm_secret").read_bytes() == secret


def test_earlier_key_is_kept_beside_the_earlier_lock(old_node: World) -> None:
    assert init(with_secret(old_node)).code == 0
    earlier = read_key(old_node.directory)
    assert earlier is not None
    old_node.backup = old_node.backup.with_name("second.bkp")
    assert init(old_node).code == 0
    assert read_key(old_node.directory) != earlier
    old_node.backup = old_node.backup.with_name("third.bkp")
    said = cli("init", "--lightning-dir", old_node.directory, old_node.url)
    assert "The key of this node's earlier backup is kept as backup.key." in said.text
    assert not (old_node.directory / KEY_FILE).exists()
    assert len(list(old_node.directory.glob("backup.key.*"))) == 2
    node = old_node.run(History(old_node.version).notes(1))
    assert said_at(node, "broken") == []


# What it refuses


def test_with_hsm_secret_without_encrypt_is_refused(world: World) -> None:
    said = cli("init", "--with-hsm-secret", "--lightning-dir", world.directory, world.url)
    assert said.code == 2
    assert "add --encrypt" in said.err


def test_with_hsm_secret_demands_a_passphrase(world: World) -> None:
    before = tree(with_secret(world).root)
    assert_refused(init(world, "--with-hsm-secret"), "--passphrase-file FILE")
    assert tree(world.root) == before


def test_hsm_secret_of_another_node_does_not_open_the_backup(world: World) -> None:
    world.database.write_bytes(known_database())
    (world.directory / "hsm_secret").write_bytes(OTHER_SECRET)
    before = tree(world.root)
    assert_refused(init(world), f"is another node's.*{NODE_ID}")
    assert tree(world.root) == before


@pytest.mark.parametrize("options", [(), ("--with-hsm-secret",)])
def test_dry_run_of_init_encrypt_changes_nothing(world: World, options: tuple[str, ...]) -> None:
    file = passphrase_file(with_secret(world))
    before = tree(world.root)
    said = init(world, *options, "--passphrase-file", file, "--dry-run")
    assert said.code == 0, said
    assert "would encrypt it with a new key" in said.out
    assert f"would make a key slot for the passphrase in {file}" in said.out
    assert tree(world.root) == before


# Stopped, failed and killed


def test_init_encrypt_stopped_at_any_instruction_is_undone_or_done(old_node: World) -> None:
    with_secret(old_node)
    words = ["init", "--encrypt", "--lightning-dir", str(old_node.directory), old_node.url]

    def done() -> bool:
        return (old_node.directory / "backup.lock").exists() and (old_node.directory / KEY_FILE).exists()

    assert check(old_node, words, done)


WRITES = [
    (handing_over, "write_settings", OSError(28, "No space left on device")),
    (key_file, "replace_file", OSError(28, "No space left on device")),
    (encrypting.NewSlots, "added_to", BackupError("no memory")),
]


@pytest.mark.parametrize(("owner", "name", "error"), WRITES, ids=[name for _, name, _ in WRITES])
def test_init_encrypt_that_fails_leaves_the_earlier_backup_and_its_key(
    old_node: World, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception
) -> None:
    assert init(with_secret(old_node)).code == 0
    first, key = old_node.backup, read_key(old_node.directory)
    names = {path.name for path in old_node.directory.iterdir()}
    old_node.backup = first.with_name("second.bkp")
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, failing(real, 1, error))
    assert init(old_node).code == 1
    monkeypatch.setattr(owner, name, real)
    assert not old_node.backup.exists()
    assert read_key(old_node.directory) == key
    assert {path.name for path in old_node.directory.iterdir() if path.name.startswith("backup.key")} == {KEY_FILE}
    assert names <= {path.name for path in old_node.directory.iterdir()} | {"backup.witness"}
    old_node.backup = first
    keyring.forget()
    node = old_node.run(History(old_node.version).notes(1))
    assert said_at(node, "broken") == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [(key_file, "replace_file"), (lockfile, "replace_file"), (key_slots, "publish_keys"), (LocalStorage, "publish")],
    ids=["key", "lock", "slots", "documents"],
)
def test_killed_init_encrypt_leaves_the_earlier_backup_or_a_whole_new_one(
    old_node: World, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    assert init(with_secret(old_node)).code == 0
    real = getattr(owner, name)
    for at in range(1, 12):
        old_node.backup = old_node.root / "disk" / f"{at}.bkp"
        monkeypatch.setattr(owner, name, dying(real, at))
        was_killed = killed(lambda: init(old_node))
        monkeypatch.setattr(owner, name, real)
        keyring.forget()
        node = old_node.run(History(old_node.version).notes(1))
        assert said_at(node, "broken") == []
        if not was_killed:
            return
    raise AssertionError("it never ended")


# import


def test_import_encrypt_makes_an_encrypted_backup(world: World, tmp_path: Path) -> None:
    calls = (replace(call, writes=tuple(known_writes(list(call.writes)))) for call in read_recording(limit=300))
    legacy_file = written(calls).save(tmp_path / "file.bkp")
    secret = world.root / "safe"
    secret.write_bytes(SECRET)
    assert_refused(cli("import", "--encrypt", legacy_file, world.url), "nothing but backup.key would open")
    assert not world.backup.exists()
    said = cli("import", "--encrypt", "--hsm-secret", secret, "--json", legacy_file, world.url)
    assert said.code == 0, said
    assert json.loads(said.out)["encrypted"] is True
    plain = world.root / "plain.sqlite3"
    assert cli("restore", legacy_file.as_uri(), plain).code == 0
    assert everything(restored(world, "--hsm-secret", secret)) == everything(plain)


@pytest.mark.parametrize("dry_run", [("--dry-run",), ()])
def test_import_encrypt_is_refused_if_the_hsm_secret_is_another_nodes(
    world: World, tmp_path: Path, dry_run: tuple[str, ...]
) -> None:
    """Nothing else would open that backup, and it would be looked for in vain."""
    legacy_file = written(read_recording(limit=300)).save(tmp_path / "file.bkp")
    secret = world.root / "safe"
    secret.write_bytes(SECRET)
    said = cli("import", "--encrypt", "--hsm-secret", secret, *dry_run, legacy_file, world.url)
    assert_refused(said, "is another node's.*Nothing was changed")
    assert not world.backup.exists()


def test_import_encrypt_for_a_node_writes_its_backup_key(world: World, tmp_path: Path) -> None:
    world.run_without_plugin(read_recording(limit=300))
    legacy_file = written(read_recording(limit=300)).save(tmp_path / "file.bkp")
    (world.directory / "hsm_secret").write_bytes(bytes(range(32)))
    said = cli("import", "--encrypt", "--lightning-dir", world.directory, legacy_file, world.url)
    if "is another node's" in said.err:  # the recorded node's own secret is unknown
        (world.directory / "hsm_secret").unlink()
        options = ["--passphrase-file", passphrase_file(world)]
        said = cli("import", "--encrypt", *options, "--lightning-dir", world.directory, legacy_file, world.url)
    assert said.code == 0, said
    found = read_key(world.directory)
    assert found is not None and found.key.id == slots_of(world.backup).key_id
    assert_nothing_readable(world.backup, world)


def test_init_encrypt_that_leaves_anything_readable_is_refused_and_undone(
    old_node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mistake of this program would: the node does not begin with such a backup."""
    readable = json.dumps({"node_id": NODE_ID}).encode()
    monkeypatch.setattr("backup_cli.commands.init.attach_emergency", lambda _, place: place.publish("more", readable))
    before = tree(with_secret(old_node).root)
    said = init(old_node, "--json")
    assert (said.code, json.loads(said.out)["error"]["kind"]) == (1, "not_ciphertext"), said
    assert tree(old_node.root) == before
