"""A backup kept with strangers that is not encrypted: each command that makes, adds or checks one says so."""

import json
from pathlib import Path

import pytest

from backends import keyring
from backends.places.base import Place
from backends.places.file import FilePlace
from tests.cli.made_encrypted import init_encrypted, with_secret
from tests.cli.several import init_several, place_of, url_of
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd.calls import read_recording
from tests.legacy.written import written

WARNING = "is not encrypted, and whoever runs the server there can read every channel, peer and payment"


@pytest.fixture(autouse=True)
def _file_is_kept_by_strangers(monkeypatch: pytest.MonkeyPatch, no_node_of_this_user: None) -> None:
    monkeypatch.setattr(FilePlace, "strangers", True)


def remedy(world: World) -> str:
    return f"run (with lightningd stopped): backup-cli resync --encrypt --lightning-dir {world.directory}"


def told(said: Said) -> str:
    """What a command that succeeded has said, in one line."""
    assert said.code == 0, said
    return " ".join(said.text.split())


def encryption_line(world: World) -> list[str]:
    said = backup_cli("check-config", "--json", "--lightning-dir", world.directory)
    return [each["text"] for each in json.loads(said.out)["findings"] if each["about"] == "encryption"]


def test_places_are_the_operators_own_unless_they_say_otherwise() -> None:
    assert Place.strangers is False


def test_init_of_a_plain_backup_with_strangers_says_what_encrypts_it(old_node: World) -> None:
    said = told(backup_cli("init", "--lightning-dir", old_node.directory, old_node.url))
    assert f"the backup at {old_node.url} {WARNING}" in said
    assert remedy(old_node) in said


def test_init_with_members_names_those_that_strangers_keep(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FilePlace, "strangers", property(lambda place: "nas" in place.describe()))
    said = told(init_several(old_node, "disk", "nas"))
    assert f"the backup at {url_of(old_node, 'nas')} {WARNING}" in said


def test_encrypted_init_with_strangers_warns_of_nothing(old_node: World) -> None:
    assert WARNING not in told(init_encrypted(with_secret(old_node)))
    assert encryption_line(old_node) == []


def test_init_at_an_own_place_warns_of_nothing(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FilePlace, "strangers", False)
    assert WARNING not in told(backup_cli("init", "--lightning-dir", old_node.directory, old_node.url))
    assert encryption_line(old_node) == []


def test_dry_run_of_init_advises_the_option_and_makes_nothing(old_node: World) -> None:
    said = told(backup_cli("init", "--dry-run", "--lightning-dir", old_node.directory, old_node.url))
    assert WARNING in said
    assert "To have it encrypted from the beginning, add --encrypt" in said
    assert not old_node.backup.exists()


def test_check_config_warns_until_the_backup_is_encrypted(old_node: World) -> None:
    with_secret(old_node)
    assert backup_cli("init", "--lightning-dir", old_node.directory, old_node.url).code == 0
    (line,) = encryption_line(old_node)
    assert WARNING in line
    assert remedy(old_node) in line
    assert backup_cli("resync", "--encrypt", "--lightning-dir", old_node.directory).code == 0
    keyring.forget()
    assert encryption_line(old_node) == []


def test_member_added_with_strangers_is_warned_of(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FilePlace, "strangers", property(lambda place: "far" in place.describe()))
    assert WARNING not in told(backup_cli("init", "--lightning-dir", old_node.directory, old_node.url))
    added = ("member-add", "--lightning-dir", old_node.directory, url_of(old_node, "far", trailing=True))
    for option in (["--dry-run"], []):
        said = told(backup_cli(*added, *option))
        assert f"the backup at {url_of(old_node, 'far')} {WARNING}" in said
        assert remedy(old_node) in said
    assert place_of(old_node, "far").exists()


def test_member_added_to_an_encrypted_backup_is_not_warned_of(old_node: World) -> None:
    assert init_encrypted(with_secret(old_node)).code == 0
    assert WARNING not in told(backup_cli("member-add", "--lightning-dir", old_node.directory, url_of(old_node, "far")))


def test_import_to_strangers_says_what_encrypts_it(world: World, tmp_path: Path) -> None:
    old = written(read_recording(limit=20)).save(tmp_path / "old.bkp")
    assert "add --encrypt" in told(backup_cli("import", "--dry-run", old, world.url))
    said = told(backup_cli("import", old, world.url))
    assert WARNING in said
    assert "delete it, and repeat this with --encrypt" in said
