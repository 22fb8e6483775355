"""`backup-cli keys`: what opens an encrypted backup is listed, tried, added, removed; backup.key comes back."""

import json
import re
import shutil
import subprocess

import pytest

from backends import keyring
from backends.log.format.attachments import Attachment
from backends.log.format.keys import KEYS
from backends.node.key_file import KEY_FILE, read_key
from backup_cli import encrypting
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import COST, cli
from tests.cli.made_encrypted import PASSPHRASE, kinds, lose_key, passphrase_file, slots_of, with_secret
from tests.cli.several import NAMES, place_of, url_of
from tests.end_to_end.db_compare import everything
from tests.end_to_end.prepared import copy_into
from tests.end_to_end.world import Said, World, said_at, tree
from tests.fake_lightningd import History


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypting, "COST", COST)


@pytest.fixture(scope="module")
def both_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What `both` copies; it is never changed."""
    world, history = World(tmp_path_factory.mktemp("both")), History()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(encrypting, "COST", COST)
        said = init(with_secret(world), "--passphrase-file", passphrase_file(world))
    assert said.code == 0, said
    world.run([history.first(), *history.notes(3)])
    keyring.forget()
    return world


@pytest.fixture
def both(both_once: World, world: World, history: History) -> World:
    """A node whose backup is opened by hsm_secret (slot 1) and by PASSPHRASE (slot 2)."""
    history.version = both_once.version
    return copy_into(both_once, world)


@pytest.fixture
def several(world: World, history: History) -> World:
    """The same with three members."""
    urls = [url_of(world, name) for name in NAMES]
    options = ["--passphrase-file", passphrase_file(world)]
    assert cli("init", "--encrypt", *options, "--lightning-dir", with_secret(world).directory, *urls).code == 0
    world.run([history.first(), *history.notes(3)])
    return world


def init(world: World, *options: object) -> Said:
    return cli("init", "--encrypt", *options, "--lightning-dir", world.directory, world.url)


def keys(world: World, *options: object) -> Said:
    """The command for the node's own backup."""
    return cli("keys", "--lightning-dir", world.directory, *options)


def states(said: Said) -> list[tuple[int, str, str]]:
    assert said.code in (0, 1, 3), said
    return [(slot["number"], slot["kind"], slot["state"]) for slot in json.loads(said.out)["slots"]]


def damage_slot(world: World, number: int) -> None:
    """A byte of what this slot holds has changed."""
    path = world.backup / KEYS
    data = path.read_bytes()
    wrapped = next(slot for slot in slots_of(world.backup).slots if slot.number == number).wrapped.hex().encode()
    changed = (b"1" if wrapped[:1] == b"0" else b"0") + wrapped[1:]
    assert data.count(wrapped) == 1
    path.write_bytes(data.replace(wrapped, changed))


# Listing


def test_keys_lists_each_slot(both: World) -> None:
    said = keys(both)
    assert said.code == 0, said
    assert "slot 1  hsm_secret" in said.out
    assert "slot 2  passphrase" in said.out
    assert said.out.count("not tried") == 2
    assert states(keys(both, "--json")) == [(1, "hsm", "not_tried"), (2, "passphrase", "not_tried")]


def test_keys_of_a_url_needs_nothing_that_opens_the_backup(both: World) -> None:
    said = cli("keys", "--json", both.url)
    assert states(said) == [(1, "hsm", "not_tried"), (2, "passphrase", "not_tried")]
    assert json.loads(said.out)["key_id"] == slots_of(both.backup).key_id


def test_damaged_slot_is_listed_by_number(both: World) -> None:
    damage_slot(both, 1)
    assert states(keys(both, "--json")) == [(1, "hsm", "damaged"), (2, "passphrase", "not_tried")]


def test_keys_of_a_plain_backup_is_refused(world: World) -> None:
    world.init()
    assert_refused(keys(world), "is not encrypted.*backup-cli resync --encrypt")


def test_no_output_of_keys_shows_a_secret(both: World) -> None:
    found = read_key(both.directory)
    assert found is not None
    for options in [(), ("--test",), ("--json",), ("--test", "--json"), ("--restore-key", "--json")]:
        said = keys(both, *options)
        assert found.key.secret.hex() not in said.text
        assert PASSPHRASE not in said.text


# Trying


def test_test_tries_hsm_secret_and_passphrase(both: World) -> None:
    said = keys(both, "--test", "--json")
    assert said.code == 0, said
    assert states(said) == [(1, "hsm", "opens"), (2, "passphrase", "not_tried")]
    assert "opens this backup" in json.loads(said.out)["backup_key"]
    said = keys(both, "--test", "--json", "--passphrase-file", passphrase_file(both))
    assert states(said) == [(1, "hsm", "opens"), (2, "passphrase", "opens")]


def test_test_with_a_wrong_passphrase_fails_only_if_nothing_opens(both: World) -> None:
    wrong = passphrase_file(both, "another one entirely")
    said = cli("keys", "--test", "--json", "--passphrase-file", wrong, both.url)
    assert said.code == 1
    assert states(said) == [(1, "hsm", "not_tried"), (2, "passphrase", "does_not_open")]


def test_test_with_a_wrong_passphrase_fails_although_hsm_secret_opens_its_own_slot(both: World) -> None:
    wrong = passphrase_file(both, "another one entirely")
    said = keys(both, "--test", "--json", "--passphrase-file", wrong)
    assert said.code == 1
    assert states(said) == [(1, "hsm", "opens"), (2, "passphrase", "does_not_open")]
    assert "the passphrase opens no key slot" in said.err


def test_test_with_another_nodes_hsm_secret_says_so(both: World) -> None:
    other = both.root / "other"
    other.write_bytes(bytes(range(1, 33)))
    said = keys(both, "--test", "--hsm-secret", other)
    assert said.code == 1
    assert "opens no key slot" in said.err


def test_test_of_a_damaged_slot_ends_with_3(both: World) -> None:
    damage_slot(both, 2)
    said = keys(both, "--test")
    assert said.code == 3
    assert "key slot 2 is damaged" in said.err
    assert "slot 1  hsm_secret" in said.out


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_test_without_a_good_backup_key_advises_to_restore_it(both: World, damage: str) -> None:
    lose_key(both)
    if damage == "damaged":
        (both.directory / KEY_FILE).write_bytes(b"nonsense")
    said = keys(both, "--test")
    assert said.code == 1
    assert "backup-cli keys --restore-key" in said.err


def test_test_without_anything_at_hand_is_no_success(both: World) -> None:
    said = cli("keys", "--test", both.url)
    assert said.code == 1
    assert "No key slot was tried" in said.err


# Adding and removing


def test_added_passphrase_opens_the_backup(both: World) -> None:
    new = passphrase_file(both, "a further passphrase")
    said = keys(both, "--add-passphrase", "--passphrase-file", new)
    assert said.code == 0, said
    assert kinds(both.backup) == ["hsm", "passphrase", "passphrase"]
    target = both.root / "new.sqlite3"
    said = cli("restore", "--passphrase-file", new, both.url, target)
    assert said.code == 0, said
    assert everything(target) == everything(both.database)


def test_passphrase_that_opens_the_backup_already_gets_no_second_slot(both: World) -> None:
    """Whoever removed one of the two would believe that it opens the backup no more."""
    before = slots_of(both.backup)
    said = keys(both, "--add-passphrase", "--passphrase-file", passphrase_file(both))
    assert (said.code, "opens this backup already" in said.err) == (0, True), said
    assert slots_of(both.backup) == before


def test_slot_is_added_with_hsm_secret_alone(both: World) -> None:
    lose_key(both)
    said = keys(both, "--add-passphrase", "--passphrase-file", passphrase_file(both, "a further passphrase"))
    assert said.code == 0, said
    assert kinds(both.backup) == ["hsm", "passphrase", "passphrase"]


def test_slot_is_added_while_the_node_runs(both: World) -> None:
    with both.node() as node:
        node.play(History(both.version).notes(1))
        said = keys(both, "--add-passphrase", "--passphrase-file", passphrase_file(both, "a further passphrase"))
        assert said.code == 0, said
        node.play(History(both.version).notes(1))
    assert kinds(both.backup) == ["hsm", "passphrase", "passphrase"]
    node = both.run(History(both.version).notes(1))
    assert said_at(node, "broken") == []
    assert kinds(both.backup) == ["hsm", "passphrase", "passphrase"]


def test_short_passphrase_is_refused(both: World) -> None:
    before = tree(both.backup)
    said = keys(both, "--add-passphrase", "--passphrase-file", passphrase_file(both, "short"))
    assert_refused(said, "fewer than 8 characters")
    assert tree(both.backup) == before


def test_hsm_secret_is_added_to_a_backup_made_before_the_node_first_started(world: World) -> None:
    assert init(world, "--passphrase-file", passphrase_file(world)).code == 0
    assert kinds(world.backup) == ["passphrase"]
    assert_refused(keys(world, "--add-hsm-secret"), "there is no hsm_secret")
    with_secret(world)
    assert keys(world, "--add-hsm-secret").code == 0
    assert kinds(world.backup) == ["passphrase", "hsm"]
    assert keys(world, "--add-hsm-secret").code == 0
    assert kinds(world.backup) == ["passphrase", "hsm"]
    assert states(keys(world, "--test", "--json"))[1] == (2, "hsm", "opens")


def test_hsm_secret_that_is_in_the_backup_does_not_become_what_opens_it(world: World) -> None:
    assert init(with_secret(world), "--with-hsm-secret", "--passphrase-file", passphrase_file(world)).code == 0
    assert (world.backup / Attachment.SECRET.value).exists()
    assert kinds(world.backup) == ["passphrase"]
    assert_refused(keys(world, "--add-hsm-secret"), "itself is in this backup")


def test_removed_slot_opens_the_backup_no_more(both: World) -> None:
    said = keys(both, "--remove", 2)
    assert said.code == 0, said
    assert "still has the key" in said.text
    assert kinds(both.backup) == ["hsm"]
    target = both.root / "new.sqlite3"
    lose_key(both)
    said = cli("restore", "--passphrase-file", passphrase_file(both), both.url, target)
    assert_refused(said, "no key slot for a passphrase")


def test_last_slot_cannot_be_removed(both: World) -> None:
    assert keys(both, "--remove", 2).code == 0
    before = tree(both.backup)
    assert_refused(keys(both, "--remove", 1), "no usable key slot would be left")
    assert_refused(keys(both, "--remove", 7), "has no key slot 7")
    assert tree(both.backup) == before


def test_damaged_slot_is_removed_and_leaves_the_others(both: World) -> None:
    damage_slot(both, 1)
    assert keys(both, "--remove", 1).code == 0
    assert states(keys(both, "--json")) == [(2, "passphrase", "not_tried")]
    assert keys(both, "--add-hsm-secret").code == 0
    assert kinds(both.backup) == ["passphrase", "hsm"]
    assert [slot.number for slot in slots_of(both.backup).slots] == [2, 3]


def test_lost_keys_document_is_made_again_with_backup_key(both: World) -> None:
    (both.backup / KEYS).unlink()
    assert_refused(keys(both), "none of its key slots can be read|missing", code=3)
    assert keys(both, "--add-hsm-secret").code == 0
    assert kinds(both.backup) == ["hsm"]


@pytest.mark.parametrize(
    "options", [("--add-hsm-secret",), ("--remove", 2), ("--restore-key",)], ids=["add", "remove", "restore"]
)
def test_dry_run_of_keys_changes_nothing(both: World, options: tuple[object, ...]) -> None:
    if "--restore-key" in options:
        lose_key(both)
    before = tree(both.root)
    said = keys(both, *options, "--dry-run")
    assert said.code == 0, said
    assert "- would " in said.out
    assert tree(both.root) == before


def test_two_actions_at_once_are_refused(both: World) -> None:
    said = keys(both, "--test", "--remove", 1)
    assert said.code == 2
    assert "one at a time" in said.err


# Several members


def test_slot_is_added_at_all_members(several: World) -> None:
    said = keys(several, "--add-passphrase", "--passphrase-file", passphrase_file(several, "a further passphrase"))
    assert said.code == 0, said
    for name in NAMES:
        assert kinds(place_of(several, name)) == ["hsm", "passphrase", "passphrase"]


def test_member_that_is_away_is_named_and_gets_the_slots_when_it_is_caught_up(several: World) -> None:
    away = (several.root / "nas").rename(several.root / "unplugged")
    said = keys(several, "--remove", 2)
    assert said.code == 0, said
    assert "nas/lightning.bkp could not be read" in said.text
    assert "still opens the backup" in said.text
    away.rename(several.root / "nas")
    node = several.run(History(several.version).notes(2))
    assert said_at(node, "broken") == []
    for name in NAMES:
        assert kinds(place_of(several, name)) == ["hsm"]


# backup.key


def test_node_starts_again_after_restore_key_with_hsm_secret_at_hand(both: World) -> None:
    before = read_key(both.directory)
    lose_key(both)
    with pytest.raises(Exception, match="backup-cli keys --restore-key"):
        both.run(History(both.version).notes(1))
    said = keys(both, "--restore-key")
    assert said.code == 0, said
    assert read_key(both.directory) == before
    assert (both.directory / KEY_FILE).stat().st_mode & 0o777 == 0o400
    node = both.run(History(both.version).notes(1))
    assert said_at(node, "broken") == []


def test_backup_key_is_restored_with_a_passphrase(both: World) -> None:
    before = read_key(both.directory)
    lose_key(both)
    (both.directory / "hsm_secret").unlink()
    assert_refused(keys(both, "--restore-key"), "its key is not here")
    wrong = passphrase_file(both, "wrong horse battery")
    assert_refused(keys(both, "--restore-key", "--passphrase-file", wrong), "the passphrase is wrong")
    assert keys(both, "--restore-key", "--passphrase-file", passphrase_file(both)).code == 0
    assert read_key(both.directory) == before


def test_damaged_backup_key_is_kept_when_it_is_restored(both: World) -> None:
    before = read_key(both.directory)
    lose_key(both)
    (both.directory / KEY_FILE).write_bytes(b"nonsense")
    assert keys(both, "--restore-key").code == 0
    assert read_key(both.directory) == before
    assert (both.directory / f"{KEY_FILE}.damaged").read_bytes() == b"nonsense"


@pytest.mark.parametrize("what", ["link", "directory"])
def test_backup_key_that_is_no_file_comes_back_by_what_is_advised(both: World, what: str) -> None:
    path = both.directory / KEY_FILE
    key = path.read_bytes()
    path.rename(both.root / "elsewhere")
    path.symlink_to(both.root / "elsewhere") if what == "link" else path.mkdir()
    said = keys(both, "--test")
    assert said.code == 1
    (move,) = re.findall("mv -n [^;]*", said.err)
    subprocess.run(move, shell=True, check=True)
    assert keys(both, "--restore-key").code == 0
    assert path.read_bytes() == key and path.is_file() and not path.is_symlink()


def test_backup_key_of_an_earlier_backup_is_found_where_it_was_set_aside(both: World) -> None:
    """A crash in `init`, between backup.key and backup.lock, leaves the earlier backup in use."""
    lock = (both.directory / "backup.lock").read_bytes()
    before = read_key(both.directory)
    first = both.backup
    both.backup = both.root / "disk" / "second.bkp"
    assert init(both).code == 0
    (both.directory / "backup.lock").write_bytes(lock)
    both.backup = first
    (both.directory / "hsm_secret").unlink()
    said = keys(both, "--restore-key")
    assert said.code == 0, said
    assert read_key(both.directory) == before


def test_key_of_another_backup_is_not_put_into_a_nodes_directory(both: World) -> None:
    other = World(both.root / "other")
    assert init(with_secret(other)).code == 0
    before = tree(both.directory)
    assert_refused(keys(both, "--restore-key", other.url), "the node in .* has the backup")
    assert tree(both.directory) == before


def test_copy_of_backup_key_is_as_good(both: World) -> None:
    copy = shutil.copy(both.directory / KEY_FILE, both.root / "copy")
    before = read_key(both.directory)
    lose_key(both)
    (both.directory / "hsm_secret").unlink()
    assert keys(both, "--restore-key", "--key-file", copy).code == 0
    assert read_key(both.directory) == before
