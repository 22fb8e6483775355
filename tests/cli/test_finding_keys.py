"""Commands find the key of an encrypted backup where they may, say what is wrong otherwise, and then change nothing."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import backup_at, keyring
from backends.errors import BackupError, KeyNeeded
from backends.keyring import DataKey
from backends.log.key_slots import publish_keys, read_keys
from backends.node.key_file import KEY_FILE, read_key, write_key
from backup_cli.key_options import KeyOptions, passphrase_from
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import PASSPHRASE, Safe, cli, encrypt, lost
from tests.cli.on_a_terminal import on_a_terminal
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, tree

pytestmark = pytest.mark.usefixtures("no_node_of_this_user")


def restored_equals(place: Path, world: World) -> bool:
    return differences(place / "lightningd.sqlite3", world.root / "lost" / "lightningd.sqlite3") == []


OPENED_BY: dict[str, Callable[[Safe], tuple[object, ...]]] = {
    "hsm_secret": lambda safe: ("--hsm-secret", safe.hsm_secret),
    "passphrase": lambda safe: ("--passphrase-file", safe.passphrase),
    "key_file": lambda safe: ("--key-file", safe.key_file),
}


@pytest.mark.parametrize("what", OPENED_BY)
def test_restore_opens_encrypted_backup_by_what_is_named(world: World, safe: Safe, what: str) -> None:
    place = lost(world)
    said = cli("restore", world.url, place, *OPENED_BY[what](safe))
    assert said.code == 0, said
    assert restored_equals(place, world)
    assert not (place / KEY_FILE).exists()


@pytest.mark.parametrize("name", ["hsm_secret", KEY_FILE])
def test_restore_finds_file_in_dest_by_itself(world: World, safe: Safe, name: str) -> None:
    place = lost(world)
    (place / name).write_bytes((safe.directory / name).read_bytes())
    said = cli("restore", world.url, place)
    assert said.code == 0, said
    assert restored_equals(place, world)


def test_restore_finds_backup_key_of_node_in_home(world: World, safe: Safe) -> None:
    place = lost(world)
    home = world.root / "home" / ".lightning" / "bitcoin"
    home.mkdir(parents=True)
    (home / KEY_FILE).write_bytes(safe.key_file.read_bytes())
    said = cli("restore", world.url, place)
    assert said.code == 0, said


def test_another_nodes_secret_in_home_is_not_blamed(world: World, safe: Safe) -> None:
    place = lost(world)
    home = world.root / "home" / ".lightning" / "bitcoin"
    home.mkdir(parents=True)
    (home / "hsm_secret").write_bytes(safe.other_secret.read_bytes())
    assert_refused(cli("restore", world.url, place), "its key is not here")


def test_restore_with_resume_writes_backup_key_before_backup_lock(world: World, safe: Safe) -> None:
    place = lost(world)
    said = cli("restore", "--resume", world.url, place, "--hsm-secret", safe.hsm_secret)
    assert said.code == 0, said
    path = place / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.stat().st_mtime_ns <= (place / "backup.lock").stat().st_mtime_ns
    found = read_key(place)
    assert found is not None and found.key == safe.key and not found.pending


def test_dry_run_of_resume_names_backup_key_and_writes_nothing(world: World, safe: Safe) -> None:
    place = lost(world)
    before = tree(world.root)
    said = cli("restore", "--dry-run", "--resume", world.url, place, "--hsm-secret", safe.hsm_secret)
    assert said.code == 0, said
    assert KEY_FILE in said.text
    assert tree(world.root) == before


WRONG: dict[str, tuple[Callable[[Safe], tuple[object, ...]], str, str]] = {
    "no key": (
        lambda safe: (),
        "key_needed",
        r"its key is not here.*slot 1: hsm_secret.*slot 2: passphrase.*--hsm-secret FILE",
    ),
    "another secret": (lambda safe: ("--hsm-secret", safe.other_secret), "wrong_secret", "another node's"),
    "another passphrase": (
        lambda safe: ("--passphrase-file", safe.wrong_passphrase),
        "wrong_passphrase",
        "the passphrase is wrong",
    ),
    "another key": (
        lambda safe: ("--key-file", safe.directory / "other.key"),
        "wrong_key",
        "is the key of another backup",
    ),
    "hsm_secret in place of backup.key": (
        lambda safe: ("--key-file", safe.hsm_secret),
        "key_needed",
        r"is an hsm_secret, and no backup\.key\. Nothing was changed; name it with --hsm-secret /",
    ),
    "no file": (lambda safe: ("--key-file", safe.directory / "none"), "key_needed", "there is no"),
}


@pytest.mark.parametrize("what", WRONG)
def test_restore_refuses_wrong_key_with_its_own_kind_and_changes_nothing(world: World, safe: Safe, what: str) -> None:
    options, kind, pattern = WRONG[what]
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    write_key(elsewhere, DataKey.new(bytes(16)))
    (elsewhere / KEY_FILE).rename(safe.directory / "other.key")
    place = lost(world)
    before = tree(world.root, locks=True)
    assert_refused(cli("restore", "--resume", world.url, place, *options(safe)), pattern)
    said = cli("restore", "--resume", "--json", world.url, place, *options(safe))
    assert json.loads(said.out)["error"]["kind"] == kind
    assert tree(world.root, locks=True) == before


@pytest.mark.parametrize("command", ["init", "resync", "restore", "keys", "verify"])
def test_help_calls_the_files_that_open_a_backup_alike(command: str) -> None:
    said = cli(command, "--help")
    assert "--hsm-secret FILE" in said.out and "--passphrase-file FILE" in said.out


def test_damaged_slot_is_named_and_other_slot_still_opens(world: World, safe: Safe) -> None:
    path = world.backup / "keys"
    data = path.read_bytes()
    at = data.index(b'"wrapped"') + 14
    path.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])
    place = lost(world)
    assert_refused(cli("restore", world.url, place, "--hsm-secret", safe.hsm_secret), "slot 1 .* is damaged", 3)
    said = cli("restore", "--json", world.url, place, "--hsm-secret", safe.hsm_secret)
    assert json.loads(said.out)["error"]["kind"] == "damaged_slot"
    assert cli("restore", world.url, place, "--passphrase-file", safe.passphrase).code == 0


def test_slots_that_hold_another_key_than_the_backups_are_refused(world: World, safe: Safe) -> None:
    """Somebody else has put his own slots there: his passphrase must not decide what is restored."""
    other = world.root / "other"
    other.mkdir()
    theirs = World(other)
    their_safe = encrypt(theirs)
    publish_keys(backup_at(world.url).storage, read_keys(backup_at(theirs.url).storage))
    place = lost(world)
    assert_refused(cli("restore", world.url, place, "--passphrase-file", their_safe.passphrase), "hold another key", 1)


def test_plain_backup_is_refused_if_option_says_it_is_encrypted(lived: World) -> None:
    path = lived.root / "passphrase"
    path.write_bytes(PASSPHRASE)
    said = cli("restore", "--json", lived.url, lived.root / "x.sqlite3", "--passphrase-file", path)
    assert json.loads(said.out)["error"]["kind"] == "not_encrypted"


def test_plain_backup_is_refused_if_backup_key_says_it_is_encrypted(lived: World) -> None:
    place = lived.root / "new"
    place.mkdir()
    key = DataKey.new(bytes.fromhex(backup_at(lived.url).id()))
    write_key(place, key)
    said = cli("restore", "--json", lived.url, place)
    assert json.loads(said.out)["error"]["kind"] == "not_encrypted"
    write_key(place, key, pending=True)
    assert cli("restore", lived.url, place).code == 0


def test_mistyped_passphrase_is_asked_for_again_at_a_terminal(world: World, safe: Safe) -> None:
    place = lost(world)
    answers = [("Passphrase of this backup", "wrong horse battery"), ("Passphrase of this backup", PASSPHRASE.decode())]
    code, written = on_a_terminal("restore", world.url, place, answers=answers)
    assert code == 0, written
    assert "the passphrase is wrong" in " ".join(written.split())
    assert "horse" not in written
    assert restored_equals(place, world)


def test_backup_of_one_passphrase_is_not_opened_by_empty_line(world: World, safe: Safe) -> None:
    place = lost(world)
    code, written = on_a_terminal("restore", world.url, place, answers=[("Passphrase of this backup", "")])
    assert code == 1
    assert "its key is not here" in " ".join(written.split())
    assert list(place.iterdir()) == []


def test_key_that_was_found_reaches_no_other_command_of_this_process(world: World, safe: Safe) -> None:
    place = lost(world)
    assert cli("restore", world.url, place, "--hsm-secret", safe.hsm_secret).code == 0
    assert keyring.find(safe.key.id) is not None
    said = cli("status", world.url, "--json")
    assert json.loads(said.out)["node_id"] == "encrypted"


def test_damaged_backup_key_is_warned_of_if_hsm_secret_opens_backup(world: World, safe: Safe) -> None:
    place = lost(world)
    (place / KEY_FILE).write_bytes(safe.key_file.read_bytes()[:-3])
    (place / "hsm_secret").write_bytes(safe.hsm_secret.read_bytes())
    said = cli("restore", world.url, place)
    assert said.code == 0, said
    assert "is damaged" in said.err


def test_wrong_hsm_secret_in_dest_is_named_and_nothing_is_restored(world: World, safe: Safe) -> None:
    place = lost(world)
    (place / "hsm_secret").write_bytes(safe.other_secret.read_bytes())
    said = cli("restore", world.url, place)
    assert_refused(said, "this hsm_secret does not open the backup")
    assert str(place / "hsm_secret") in said.err
    assert [path.name for path in place.iterdir()] == ["hsm_secret"]


@pytest.mark.parametrize("typed", ["", "short"])
def test_new_passphrase_that_is_empty_or_short_is_refused(tmp_path: Path, typed: str) -> None:
    path = tmp_path / "passphrase"
    path.write_text(f"{typed}\nand a long second line\n")
    with pytest.raises(BackupError, match="the new passphrase"):
        passphrase_from(KeyOptions(passphrase_file=path), new=True)
    assert passphrase_from(KeyOptions(passphrase_file=path), new=False) == typed.encode()


def test_passphrase_is_the_bytes_of_the_first_line_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b" caf\xe9 au lait \r\nsecond\n")
    assert passphrase_from(KeyOptions(passphrase_file=path), new=True) == b" caf\xe9 au lait "


def test_passphrase_without_file_and_terminal_is_an_error_that_names_the_option() -> None:
    with pytest.raises(KeyNeeded, match="--passphrase-file FILE"):
        passphrase_from(KeyOptions(), new=True)
