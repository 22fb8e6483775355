"""`emergency.recover` and `hsm_secret` with the commands: stored by `init` and `resync`, put back by `restore`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends import keyring
from backends.log.attachments import publish_attachment, read_attachment
from backends.log.format.attachments import Attachment
from backends.storage.local import LocalStorage
from backup_cli import encrypting
from tests.cli.cli_asserts import assert_refused, init, restore
from tests.cli.made_encrypted import CHEAP, init_encrypted, passphrase_file, with_secret
from tests.cli.several import init_several, place_of
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, backup_cli, tree
from tests.log import forge

EMERGENCY, SECRET = "emergency.recover", "hsm_secret"

STORED_SECRET = forge.document(
    '{"lightningd-backup": 1, "size": 32, "time": 1700000000, "content": "%s"}' % ("BwcH" * 10 + "Bwc=")
)
"""An `hsm_secret` of 32 bytes, as a backup holds it (readable, for this test)."""


@pytest.fixture
def kept(lived: World) -> World:
    """A node whose backup holds its `emergency.recover`."""
    publish_attachment(LocalStorage(lived.backup), Attachment.EMERGENCY, b"two channels")
    return lived


def stored(backup: Path) -> bytes | None:
    return read_attachment(LocalStorage(backup), Attachment.EMERGENCY)


def result(world: World, dest: Path) -> dict[str, Any]:
    said = restore(world, dest, "--json")
    assert said.code == 0, said
    document: dict[str, Any] = json.loads(said.out)
    return document


# init and resync


def test_init_stores_the_file_in_every_member(old_node: World) -> None:
    (old_node.directory / EMERGENCY).write_bytes(b"one channel")
    (old_node.directory / SECRET).write_bytes(bytes(32))
    assert init_several(old_node, "disk", "nas").code == 0
    assert stored(place_of(old_node, "disk")) == stored(place_of(old_node, "nas")) == b"one channel"
    assert not (place_of(old_node, "disk") / SECRET).exists()


def test_init_warns_of_a_file_that_it_does_not_store_and_makes_the_backup(old_node: World) -> None:
    (old_node.directory / EMERGENCY).symlink_to("/etc/passwd")
    said = init(old_node)
    assert said.code == 0
    assert "emergency.recover was not copied into the backup: it is a link" in said.text
    assert stored(old_node.backup) is None


def test_resync_stores_the_file_and_both_say_so_in_a_dry_run(old_node: World) -> None:
    path = old_node.directory / EMERGENCY
    path.write_bytes(b"one channel")
    said = backup_cli("init", "--dry-run", "--lightning-dir", old_node.directory, old_node.url)
    assert f"would copy {path} (11 bytes) into the backup" in said.text
    init(old_node)
    path.write_bytes(b"two channels")
    said = backup_cli("resync", "--dry-run", "--lightning-dir", old_node.directory)
    assert f"would copy {path} (12 bytes) into the backup" in said.text
    assert stored(old_node.backup) == b"one channel"
    assert backup_cli("resync", "--lightning-dir", old_node.directory).code == 0
    assert stored(old_node.backup) == b"two channels"


# restore


def test_restore_to_a_directory_puts_both_files_beside_the_database(kept: World, place: Path) -> None:
    (kept.backup / SECRET).write_bytes(STORED_SECRET)
    said = restore(kept, place)
    assert said.code == 0
    assert (place / EMERGENCY).read_bytes() == b"two channels"
    assert (place / EMERGENCY).stat().st_mode & 0o777 == 0o600
    assert (place / SECRET).read_bytes() == b"\x07" * 32
    assert (place / SECRET).stat().st_mode & 0o777 == 0o400
    assert (
        f"In {place}: lightningd.sqlite3 (restored), hsm_secret (restored), emergency.recover (restored)." in said.err
    )
    assert sorted(path.name for path in place.iterdir()) == [EMERGENCY, SECRET, "lightningd.sqlite3"]


def test_restore_leaves_files_that_are_there_and_says_so(kept: World, place: Path) -> None:
    (kept.backup / SECRET).write_bytes(STORED_SECRET)
    (place / EMERGENCY).write_bytes(b"another")
    (place / SECRET).symlink_to("nowhere")
    said = restore(kept, place)
    assert said.code == 0
    assert (place / EMERGENCY).read_bytes() == b"another"
    assert (place / SECRET).is_symlink()
    assert not (place / "nowhere").exists()
    for name in (SECRET, EMERGENCY):
        assert f"{name} (was there, and was left as it is)" in said.text


def test_restore_says_what_each_missing_file_means(lived: World, place: Path) -> None:
    said = restore(lived, place)
    assert "lightningd.sqlite3 (restored), hsm_secret (MISSING), emergency.recover (MISSING)" in said.text
    assert "this backup lacks it, and without it the node cannot run at all, and nothing can be spent" in said.text
    assert (
        "emergency.recover is not there: this backup lacks it; without it only the last resort is missing" in said.text
    )
    assert [path.name for path in place.iterdir()] == ["lightningd.sqlite3"]


def test_restore_as_json_tells_of_the_three_files(kept: World, place: Path) -> None:
    (place / SECRET).write_bytes(bytes(32))
    found = result(kept, place)["files"]
    assert found == {"database": "restored", "hsm_secret": "was_there", "emergency_recover": "restored"}
    found = result(kept, place / "regtest")["files"]
    assert found == {"database": "restored", "hsm_secret": "missing", "emergency_recover": "restored"}
    found = result(kept, place / "elsewhere.sqlite3")["files"]
    assert found == {"database": "restored", "hsm_secret": None, "emergency_recover": None}


def test_restore_to_another_file_puts_nothing_beside_it(kept: World, place: Path) -> None:
    (kept.backup / SECRET).write_bytes(STORED_SECRET)
    said = restore(kept, place / "my.sqlite3")
    assert [path.name for path in place.iterdir()] == ["my.sqlite3"]
    assert "hsm_secret belongs next to the database: it is in this backup, but was not restored here" in said.text
    assert "emergency.recover is in this backup, but was not restored here" in said.text
    assert restore(kept, place, "--to-version", "3", "--not-for-a-node").code == 0
    assert not (place / EMERGENCY).exists(), "an old state is for looking at only"
    (kept.backup / EMERGENCY).unlink()
    said = restore(kept, place / "another.sqlite3")
    assert "emergency.recover is not in this backup; without it only the last resort is missing" in said.text


def test_dry_run_of_restore_tells_what_would_be_put_back_left_and_missing(kept: World, place: Path) -> None:
    before = tree(place)
    said = restore(kept, place, "--dry-run")
    assert said.code == 0
    assert (
        "would restore no hsm_secret (neither the backup nor DEST has it); without it the node cannot run" in said.out
    )
    assert "would write emergency.recover (12 bytes, copied 20" in said.out
    assert tree(place) == before
    (place / EMERGENCY).write_bytes(b"another")
    assert f"would leave {place / EMERGENCY} as it is" in restore(kept, place, "--dry-run").out


def test_restore_with_a_damaged_copy_restores_the_database_and_says_so(kept: World, place: Path) -> None:
    (kept.backup / EMERGENCY).write_bytes(b"rubbish")
    assert "it cannot be read from the backup: empty or overwritten content" in restore(kept, place, "--dry-run").out
    document = result(kept, place)
    assert document["files"]["emergency_recover"] == "not_restored"
    assert any("emergency.recover is in the backup, and could not be restored" in each for each in document["warnings"])
    assert (place / "lightningd.sqlite3").exists()
    assert not (place / EMERGENCY).exists()


def test_restore_takes_the_file_from_another_member_if_the_first_ones_is_damaged(old_node: World, place: Path) -> None:
    (old_node.directory / EMERGENCY).write_bytes(b"one channel")
    assert init_several(old_node, "disk", "nas").code == 0
    (place_of(old_node, "disk") / EMERGENCY).write_bytes(b"rubbish")
    said = backup_cli("restore", place_of(old_node, "disk").as_uri(), place)
    assert said.code == 0, said
    assert (place / EMERGENCY).read_bytes() == b"one channel"


def test_verify_warns_of_a_damaged_copy(kept: World) -> None:
    assert backup_cli("verify", kept.url).code == 0
    (kept.backup / EMERGENCY).write_bytes(b"rubbish")
    said = backup_cli("verify", kept.url)
    assert said.code == 0
    assert "the copy of emergency.recover in the backup is damaged" in said.text


# The whole way of an encrypted backup


def test_node_that_is_lost_comes_back_with_the_passphrase_alone(
    old_node: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(old_node.root / "home"))
    monkeypatch.setattr(encrypting, "COST", CHEAP)
    secret, emergency = with_secret(old_node).directory / SECRET, old_node.directory / EMERGENCY
    emergency.write_bytes(b"one channel")
    kept = {path.name: path.read_bytes() for path in (secret, emergency)}
    phrase = passphrase_file(old_node)
    said = init_encrypted(old_node, "--with-hsm-secret", "--passphrase-file", phrase)
    assert said.code == 0, said
    before = everything(old_node.database)
    for path in old_node.backup.iterdir():
        assert not any(each in path.read_bytes() for each in kept.values()), path.name
    shutil.rmtree(old_node.root / "lightning")
    keyring.forget()
    found = tree(place)
    assert_refused(restore(old_node, place), "its key is not here.*slot 1: passphrase.*--passphrase-file FILE")
    said = restore(old_node, place, "--dry-run", "--passphrase-file", str(phrase))
    assert f"would write {SECRET}" in said.out and f"would write {EMERGENCY}" in said.out
    assert tree(place) == found
    keyring.forget()
    said = restore(old_node, place, "--passphrase-file", str(phrase))
    assert said.code == 0, said
    assert everything(place / "lightningd.sqlite3") == before
    assert {name: (place / name).read_bytes() for name in kept} == kept
    assert (place / SECRET).stat().st_mode & 0o777 == 0o400
    assert (place / EMERGENCY).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in place.iterdir()) == [EMERGENCY, SECRET, "lightningd.sqlite3"]
    assert (
        f"In {place}: lightningd.sqlite3 (restored), hsm_secret (restored), emergency.recover (restored)." in said.text
    )
    assert f"{place / EMERGENCY} is for the last resort only" in said.text
    assert "not in this backup" not in said.text and "lacks it" not in said.text and "MISSING" not in said.text
