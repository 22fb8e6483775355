"""A node whose hsm_secret is a mnemonic: every command that opens a key slot with it also opens one of its half."""

import json
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import WrongSecret
from backends.log.key_slots import MAKESECRET_INFO, open_with_hsm, publish_keys, read_keys, with_hsm_slot
from backends.node.hsm_seed import derived_secret, read_seed
from backends.node.key_file import KEY_FILE
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import Safe, cli, encrypt, lost
from tests.end_to_end.world import World

WORDS = b"ritual idle hat sunny universe pluck key alpha wing cake have wedding"
OTHER_WORDS = b"blame expire peanut sell door zoo bundle motor truth outside artist siren"


pytestmark = pytest.mark.usefixtures("no_node_of_this_user")


def put_mnemonic(path: Path, words: bytes = WORDS) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(32) + words)
    return path


@pytest.fixture(params=[64, 32], ids=["whole", "half"])
def safe(world: World, request: pytest.FixtureRequest) -> Safe:
    """The operator's copies; the only slot is made from so many bytes of the mnemonic's secret."""
    safe = encrypt(world, hsm=False, passphrase=False)
    seed = read_seed(put_mnemonic(safe.hsm_secret))
    put_mnemonic(world.directory / "hsm_secret")
    storage = backup_at(world.url).storage
    derived = derived_secret(seed[: request.param], MAKESECRET_INFO)
    publish_keys(storage, with_hsm_slot(read_keys(storage), safe.key, derived))
    return safe


def test_restore_opens_backup(world: World, safe: Safe) -> None:
    place = lost(world)
    said = cli("restore", world.url, place, "--hsm-secret", safe.hsm_secret)
    assert said.code == 0, said
    assert (place / "lightningd.sqlite3").exists()


def test_restore_with_another_mnemonic_is_refused(world: World, safe: Safe) -> None:
    place = lost(world)
    put_mnemonic(safe.hsm_secret, OTHER_WORDS)
    assert_refused(cli("restore", world.url, place, "--hsm-secret", safe.hsm_secret), "does not open the backup")
    assert not list(place.iterdir())


def test_keys_test_opens_slot(world: World, safe: Safe) -> None:
    said = cli("keys", "--test", "--json", "--lightning-dir", world.directory)
    assert said.code == 0, said
    assert [slot["state"] for slot in json.loads(said.out)["slots"]] == ["opens"]


def test_check_config_finds_that_slot_is_opened(world: World, safe: Safe) -> None:
    said = cli("check-config", "--json", "--lightning-dir", world.directory)
    (found,) = (each for each in json.loads(said.out)["findings"] if each["about"] == "key slots")
    assert found["level"] == "ok" and "hsm_secret opens this backup" in found["text"]


def test_backup_key_is_restored(world: World, safe: Safe) -> None:
    (world.directory / KEY_FILE).unlink()
    said = cli("keys", "--restore-key", "--lightning-dir", world.directory)
    assert said.code == 0, said
    assert (world.directory / KEY_FILE).read_bytes() == safe.key_file.read_bytes()


def test_slot_of_new_backup_is_made_from_whole_secret(world: World) -> None:
    seed = read_seed(put_mnemonic(world.directory / "hsm_secret"))
    assert cli("init", "--encrypt", "--lightning-dir", world.directory, world.url).code == 0
    document = read_keys(backup_at(world.url).storage)
    assert open_with_hsm(document, derived_secret(seed, MAKESECRET_INFO)).id == document.key_id
    with pytest.raises(WrongSecret):
        open_with_hsm(document, derived_secret(seed[:32], MAKESECRET_INFO))
