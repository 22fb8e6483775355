"""What check-config says about the key of an encrypted backup: each line, and the exit code that it leads to."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest

from backends import backup_at, keyring
from backends.keyring import DataKey
from backends.log.attachments import publish_attachment
from backends.log.format.attachments import Attachment
from backends.log.key_slots import MAKESECRET_INFO, new_keys, publish_keys, read_keys
from backends.node.hsm_secret import HSM_SECRET
from backends.node.hsm_seed import derived_secret
from backends.node.key_file import KEY_FILE, read_key_file, write_key
from backends.storage.local import LocalStorage
from tests.cli.encrypted import OTHER_SECRET, PASSPHRASE, Safe, cli, encrypt
from tests.cli.several import init_several, place_of
from tests.contrib.checking import check, configure, the_problem
from tests.end_to_end.world import World, tree
from tests.known_secret import SECRET, known_database


@pytest.fixture(autouse=True)
def _prepared(tmp_path: Path, plugin: Path, world: World, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    configure(world.directory, f"network=regtest\nimportant-plugin={plugin}\n")


@pytest.fixture
def safe(world: World) -> Safe:
    """The node is protected, by an encrypted backup."""
    safe = encrypt(world)
    assert check(world.directory) == (0, [])
    keyring.forget()
    return safe


def line_about(world: World, about: str) -> str:
    said = cli("check-config", "--lightning-dir", world.directory)
    (line,) = [line for line in said.out.splitlines() if line.split()[1:2] == about.split()[:1]]
    return " ".join(line.split())


def test_encrypted_backup_that_hangs_is_asked_once(world: World, safe: Safe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked by each check that needs it, and each waited as long as the node would."""
    ended, asked = Event(), list[str]()

    def hang(storage: LocalStorage, *_: object) -> NoReturn:
        asked.append(storage.describe())
        ended.wait()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (world.directory / HSM_SECRET).chmod(0o400)
    monkeypatch.setattr("backup_cli.waiting.FIRST_WORD", 0.1)
    monkeypatch.setattr("backup_cli.waiting._commit_timeout", lambda url: 0.2)
    monkeypatch.setattr("backup_cli.waiting._MARGIN", 0.0)
    for name in ("exists", "names", "open"):
        monkeypatch.setattr(LocalStorage, name, hang)
    try:
        said = cli("check-config", "--lightning-dir", world.directory)
    finally:
        ended.set()
    assert (said.out + said.err).count("waiting for") == 1
    assert len(asked) == 1
    assert f"{world.url} has not answered" in said.out
    assert said.code == 1


def test_encrypted_backup_whose_client_gives_up_by_itself_is_asked_once(
    world: World, safe: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sftp://, s3:// and others do, at their commit timeout, which may be five seconds."""
    asked: list[str] = []

    def give_up(storage: LocalStorage, *_: object) -> NoReturn:
        asked.append(storage.describe())
        raise TimeoutError(errno.ETIMEDOUT, "the server does not answer")

    (world.directory / HSM_SECRET).chmod(0o400)
    for name in ("exists", "names", "open"):
        monkeypatch.setattr(LocalStorage, name, give_up)
    said = cli("check-config", "--lightning-dir", world.directory)
    assert len(asked) == 1
    assert "cannot be used: the server does not answer" in said.out
    assert said.code == 1


@pytest.fixture
def several(world: World) -> Mapping[str, Path]:
    """The directory of each member of the node's encrypted backup."""
    world.database.write_bytes(known_database())
    (world.directory / HSM_SECRET).write_bytes(SECRET)
    (world.directory / HSM_SECRET).chmod(0o400)
    assert init_several(world, "nas", "far", "usb", options=("--encrypt",)).code == 0
    return {name: place_of(world, name) for name in ("nas", "far", "usb")}


@pytest.mark.parametrize("silent", [("nas",), ("nas", "far", "usb")], ids=["one of three", "all"])
def test_member_that_hangs_is_asked_once_by_all_checks(
    world: World, several: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, silent: tuple[str, ...]
) -> None:
    ended, asked = Event(), Counter[Path]()
    hanging = {several[name] for name in silent}

    def hang(name: str) -> Callable[..., object]:
        real = getattr(LocalStorage, name)

        def instead(storage: LocalStorage, *arguments: object) -> object:
            if storage._path in hanging:
                asked[storage._path] += 1
                ended.wait()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(storage, *arguments)

        return instead

    for module in ("backup_cli.seen_members", "backup_cli.seen_encryption", "backup_cli.checks.members"):
        monkeypatch.setattr(f"{module}.WITHIN", 0.5)
    for name in ("exists", "names", "open"):
        monkeypatch.setattr(LocalStorage, name, hang(name))
    try:
        said = cli("check-config", "--lightning-dir", world.directory)
    finally:
        ended.set()
    assert max(asked.values()) == 1 and len(asked) == len(silent)
    if silent == ("nas",):
        assert "nas cannot be read now (it has not answered for 0 seconds" in said.out
        assert "opens this backup" in said.out
    else:
        assert said.out.count("it has not answered for 0 seconds") == 3
        assert said.code == 1


def test_hsm_secret_in_an_encrypted_backup_with_members_is_told(world: World, several: Mapping[str, Path]) -> None:
    """Which member is the newest could not be told without the key, and so the secret seemed not to be stored."""
    for directory in several.values():
        publish_attachment(LocalStorage(directory), Attachment.SECRET, SECRET)
    assert "this node's backup holds it" in line_about(world, "hsm_secret")


def replace_key(world: World, key: DataKey, *, pending: bool = False) -> None:
    """Another backup.key, and no copy of the earlier one."""
    (world.directory / KEY_FILE).unlink(missing_ok=True)
    write_key(world.directory, key, pending=pending)


def test_key_and_slots_in_order_are_told(world: World, safe: Safe) -> None:
    assert line_about(world, KEY_FILE) == "ok backup.key opens this backup, mode 0400"
    assert line_about(world, "key slots").startswith("ok key slots hsm_secret opens this backup; 1 for a passphrase")


def test_unfinished_change_over_of_a_plain_backup_is_a_problem_with_the_command(world: World) -> None:
    world.database.write_bytes(known_database())
    (world.directory / "hsm_secret").write_bytes(SECRET)
    (world.directory / "hsm_secret").chmod(0o400)
    world.init()
    assert check(world.directory) == (0, [])
    replace_key(world, DataKey.new(bytes.fromhex(backup_at(world.url).id())), pending=True)
    before = tree(world.root)
    said = the_problem(world.directory)
    assert "still stored in the clear" in said
    assert f"backup-cli resync --encrypt --lightning-dir {world.directory}" in said
    assert tree(world.root) == before


def test_change_over_that_is_done_and_not_noted_is_no_problem(world: World, safe: Safe) -> None:
    replace_key(world, safe.key, pending=True)
    assert check(world.directory) == (0, [])
    assert "next start of the node notes that the change to encryption is done" in line_about(world, KEY_FILE)


@pytest.mark.parametrize("whose", ["another backup's", "an earlier one"])
def test_backup_key_that_does_not_open_the_backup_is_a_problem(world: World, safe: Safe, whose: str) -> None:
    other = DataKey.new(bytes(16) if whose == "another backup's" else safe.key.backup_id)
    replace_key(world, other)
    said = the_problem(world.directory)
    assert f"it holds the key {other.id}, and the backup is encrypted with {safe.key.id}. The node does not" in said
    assert f"backup-cli keys --restore-key --lightning-dir {world.directory} {world.url}" in said
    keyring.forget()
    assert cli("keys", "--restore-key", "--lightning-dir", world.directory, world.url).code == 0
    keyring.forget()
    assert check(world.directory) == (0, [])


def test_right_key_that_was_set_aside_is_what_the_node_uses_and_a_warning(world: World, safe: Safe) -> None:
    """As a crash leaves it between the new backup.key and the new backup.lock."""
    write_key(world.directory, DataKey.new(bytes(16)))
    (aside,) = world.directory.glob(f"{KEY_FILE}.*")
    assert read_key_file(aside) == safe.key
    code, lines = check(world.directory)
    assert (code, len(lines)) == (0, 1), lines
    assert lines[0].startswith("warning")
    assert f"is in {aside}, and the node uses it from there" in lines[0]
    assert "keys --restore-key" in lines[0]


def test_backup_without_a_slot_is_a_problem(world: World, safe: Safe) -> None:
    storage = backup_at(world.url).storage
    document = read_keys(storage)
    publish_keys(storage, type(document)(document.backup_id, document.key_id))
    said = the_problem(world.directory)
    assert "NONE that can be used" in said
    assert "--add-hsm-secret" in said and "--add-passphrase" in said


def test_hsm_secret_that_does_not_open_its_slot_is_a_problem(world: World, safe: Safe) -> None:
    derived = derived_secret(OTHER_SECRET, MAKESECRET_INFO)
    publish_keys(backup_at(world.url).storage, new_keys(safe.key, hsm_derived=derived, passphrase=None))
    said = the_problem(world.directory)
    assert f"{world.directory / 'hsm_secret'} does not open this backup" in said
    assert "To make a slot that it opens: backup-cli keys --add-hsm-secret" in said
    keyring.forget()
    assert cli("keys", "--add-hsm-secret", "--lightning-dir", world.directory).code == 0
    keyring.forget()
    assert check(world.directory) == (0, [])


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o604])
def test_backup_key_that_others_may_read_is_a_problem_with_the_command(world: World, safe: Safe, mode: int) -> None:
    path = world.directory / KEY_FILE
    path.chmod(mode)
    said = the_problem(world.directory)
    assert f"mode {mode:04o}" in said and f"chmod 400 {path}" in said
    path.chmod(0o400)
    assert check(world.directory) == (0, [])


def replaced(path: Path, data: bytes) -> None:
    """Put this in the place of a file that not even its owner may write."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o400)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is missing, and the backup is encrypted"),
    "damaged": (lambda path: replaced(path, path.read_bytes()[:-2]), "is damaged"),
    "a link": (lambda path: path.symlink_to(path.rename(path.with_name("kept"))), "it is a link"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_backup_key_that_cannot_be_used_is_a_problem_with_the_command(world: World, safe: Safe, what: str) -> None:
    spoil, words = UNUSABLE[what]
    spoil(world.directory / KEY_FILE)
    said = the_problem(world.directory)
    assert words in said and "backup-cli keys --restore-key" in said


def test_damaged_slot_beside_a_good_one_is_a_warning(world: World, safe: Safe) -> None:
    path = world.backup / "keys"
    wrapped = read_keys(backup_at(world.url).storage).slots[1].wrapped.hex().encode()
    path.write_bytes(path.read_bytes().replace(wrapped, wrapped[::-1]))
    code, lines = check(world.directory)
    assert code == 0 and len(lines) == 1, lines
    assert lines[0].startswith("warning") and "damaged: 2" in lines[0]


def test_hsm_secret_that_the_backup_holds_is_said_to_be_there(world: World, safe: Safe) -> None:
    assert "a backup holds it only if made --with-hsm-secret" in line_about(world, "hsm_secret")
    storage = backup_at(world.url).storage
    keyring.add(safe.key)
    publish_keys(storage, new_keys(safe.key, hsm_derived=None, passphrase=PASSPHRASE))
    publish_attachment(storage, Attachment.SECRET, SECRET)
    said = line_about(world, "hsm_secret")
    assert said.startswith("ok") and "only if" not in said
    assert "this node's backup holds it, and only the backup's passphrase opens that" in said
    (world.directory / "hsm_secret").unlink()
    keyring.forget()
    said = the_problem(world.directory)
    assert "is missing" in said and "only if" not in said
    assert f"backup-cli restore {world.url} " in said
    made, _, typed = said[said.index("mkdir ") :].partition(" && ")
    Path(made.split()[1]).mkdir()
    assert cli(*typed.split()[1:], "--passphrase-file", safe.passphrase).code == 0
    assert (Path(typed.split()[3]) / "hsm_secret").read_bytes() == SECRET
