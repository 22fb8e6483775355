"""Following an encrypted backup with several members: even which member is the newest is sealed."""

import shutil
from pathlib import Path

import pytest

from backends import keyring
from backends.node.following import COPY
from backends.node.key_file import KEY_FILE
from tests.cli.several import init_several, url_of
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, backup_cli
from tests.known_secret import SECRET, known_database


@pytest.mark.parametrize("members", ["a", "ab"])
def test_copy_of_encrypted_members_is_opened_by_the_key_beside_it_and_promoted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: str
) -> None:
    """With one member's URL, the other is known from the document of the first, which only the key opens."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    world.database.write_bytes(known_database())
    (world.directory / "hsm_secret").write_bytes(SECRET)
    assert init_several(world, "a", "b", options=("--encrypt",)).code == 0
    warm = tmp_path / "warm"
    warm.mkdir()
    shutil.copy2(world.directory / KEY_FILE, warm / KEY_FILE)
    keyring.forget()
    urls = [url_of(world, name) for name in members]
    said = backup_cli("follow", "--once", *urls, warm)
    assert said.code == 0, said
    assert (warm / COPY).exists()
    dry = backup_cli("follow", "--promote", "--dry-run", *urls, warm)
    assert dry.code == 0, dry
    said = backup_cli("follow", "--promote", *urls, warm)
    assert said.code == 0, said
    assert differences(warm / "lightningd.sqlite3", world.database) == []
