"""A database that was set back is brought forward from an encrypted backup as from a plain one: the same tests.

The fingerprints are encrypted with the changes, so nothing here works if they are looked for in the headers.
"""

from pathlib import Path

import pytest

from backends import keyring
from plugin.at_start import WhyLeft
from tests.end_to_end import test_set_back as plain
from tests.end_to_end.encrypted import EncryptedWorld, lived_as
from tests.end_to_end.test_set_back import play_and_set_back, start
from tests.fake_lightningd import History


@pytest.fixture
def world(tmp_path: Path) -> EncryptedWorld:
    """In place of the one with a plain backup."""
    return EncryptedWorld(tmp_path)


@pytest.fixture
def lived(encrypted_once: EncryptedWorld, world: EncryptedWorld, history: History) -> EncryptedWorld:
    """The node after some days, stopped cleanly."""
    return lived_as(encrypted_once, world, history)


@pytest.mark.parametrize("behind", [1, 16])
def test_set_back_node_with_encrypted_backup_is_brought_forward(
    lived: EncryptedWorld, history: History, behind: int
) -> None:
    plain.test_database_set_back_is_brought_forward(lived, history, behind)


def test_migration_from_encrypted_backup_keeps_child_rows(lived: EncryptedWorld, history: History) -> None:
    plain.test_database_set_back_within_a_migration_keeps_its_child_rows(lived, history, 2)


def test_new_node_is_brought_forward_from_encrypted_backup(world: EncryptedWorld, history: History) -> None:
    plain.test_new_node_whose_first_changes_were_all_taken_back_is_brought_forward(world, history)


def test_headers_of_records_show_no_fingerprint(
    lived: EncryptedWorld, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without decrypting, no change is recognized as the one that comes next."""
    play_and_set_back(lived, history.notes(3), keep=2)
    with monkeypatch.context() as patch:
        patch.setattr("plugin.roll_forward.database_before", lambda reader, change: change.header.database)
        assert start(lived).left is WhyLeft.NO_FINGERPRINT
    assert start(lived).left is None
    assert lived.version == history.version


def test_database_stays_as_it_is_without_the_key(lived: EncryptedWorld, history: History) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    lived.key_file.rename(lived.root / "key")
    keyring.forget()
    before = lived.database.read_bytes()
    assert start(lived).left is WhyLeft.NO_KEY
    assert lived.database.read_bytes() == before
