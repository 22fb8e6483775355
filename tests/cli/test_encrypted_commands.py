"""What each command does with an encrypted backup, with its key and without it."""

import base64
import json
from dataclasses import replace

import pytest

from backends import backup_at, keyring
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import publish_keys, read_keys, without
from backends.node.key_file import KEY_FILE
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import PASSPHRASE, Safe, cli
from tests.end_to_end.world import World, tree
from tests.known_secret import NODE_ID, SECRET

pytestmark = pytest.mark.usefixtures("no_node_of_this_user")


def test_status_without_key_names_key_and_slots_but_no_node(world: World, safe: Safe) -> None:
    seen = json.loads(cli("status", world.url, "--json").out)
    assert (seen["encrypted"], seen["key_id"], seen["node_id"]) == (True, safe.key.id, "encrypted")
    assert [(slot["number"], slot["kind"], slot["damaged"]) for slot in seen["slots"]] == [
        (1, "hsm", False),
        (2, "passphrase", False),
    ]
    said = cli("status", world.url)
    assert said.code == 0, said
    assert safe.key.id in said.out and "slot 1: hsm_secret" in said.out and NODE_ID not in said.out


def test_status_with_key_names_node(world: World, safe: Safe) -> None:
    assert NODE_ID in cli("status", world.url, "--key-file", safe.key_file).out
    assert NODE_ID in cli("status", "--lightning-dir", world.directory).out


def test_verify_with_key_proves_contents(world: World, safe: Safe) -> None:
    said = cli("verify", "--json", world.url, "--hsm-secret", safe.hsm_secret)
    assert said.code == 0, said
    assert (json.loads(said.out)["contents"], json.loads(said.out)["node_id"]) == ("proved", NODE_ID)
    said = cli("verify", "--lightning-dir", world.directory, world.url)
    assert said.code == 0, said
    assert "identical" in said.text


@pytest.mark.parametrize("way", ["with the key", "without"])
@pytest.mark.parametrize("damage", ["missing", "empty", "another backup's", "both slots"])
def test_verify_does_not_pass_if_nothing_but_backup_key_opens_the_backup(
    world: World, safe: Safe, way: str, damage: str
) -> None:
    """All that is stored is whole, and yet it is lost once the node's disk is."""
    keys = world.backup / "keys"
    if damage == "missing":
        keys.unlink()
    elif damage == "empty":
        keys.write_bytes(b"")
    elif damage == "another backup's":
        keys.write_bytes(KeysDocument(bytes(16), safe.key.id, (), (), 2).encode())
    else:
        document = KeysDocument.decode(keys.read_bytes())
        keys.write_bytes(replace(document, slots=(), lost=document.names).encode())
    said = cli("verify", "--json", world.url, *(("--key-file", safe.key_file) if way == "with the key" else ()))
    assert said.code == 3, said
    assert json.loads(said.out)["only_backup_key_opens"] is True
    assert any("backup.key" in line for line in json.loads(said.out)["warnings"])


def test_verify_passes_with_one_damaged_slot_and_names_it(world: World, safe: Safe) -> None:
    keys = world.backup / "keys"
    document = KeysDocument.decode(keys.read_bytes())
    keys.write_bytes(replace(document, slots=document.slots[1:], lost=document.names[:1]).encode())
    said = cli("verify", world.url, "--key-file", safe.key_file)
    assert said.code == 0, said
    assert "key slot 1 is damaged" in said.err and "--remove SLOT" in said.err


def test_verify_with_key_warns_of_slots_that_somebody_without_it_has_put_there(world: World, safe: Safe) -> None:
    keys = world.backup / "keys"
    forged = KeysDocument.decode(keys.read_bytes())
    keyring.forget()
    keys.write_bytes(forged.encode())
    said = cli("verify", world.url, "--key-file", safe.key_file)
    assert said.code == 0, said
    assert "changed by somebody who does not have its key" in said.err
    assert "changed by somebody" not in cli("verify", world.url).err


def test_verify_without_key_says_that_contents_were_not_proved(world: World, safe: Safe) -> None:
    before = tree(world.root)
    said = cli("verify", "--json", world.url)
    assert said.code == 0, said
    assert json.loads(said.out)["contents"] == "encrypted"
    assert any("NOT proved" in line for line in json.loads(said.out)["warnings"])
    assert tree(world.root) == before


@pytest.mark.parametrize("name", ["snapshot", "segment"])
def test_changed_byte_is_damage_to_verify_without_key(world: World, safe: Safe, name: str) -> None:
    (path,) = [path for path in world.backup.iterdir() if path.name.startswith(name)]
    at = 20 if name == "segment" else path.stat().st_size // 2  # an empty log has nothing but its header
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert_refused(cli("verify", world.url), "the backup is damaged", 3)
    assert path.name in json.loads(cli("status", "--json", world.url).out)["known_damage"]["what"]


def test_versions_are_listed_without_key(world: World, safe: Safe) -> None:
    said = cli("versions", "--json", world.url)
    assert said.code == 0, said
    assert json.loads(said.out)[0]["reason"] == "init"


def test_compact_without_key_is_refused_before_anything_is_taken_over(world: World, safe: Safe) -> None:
    before = tree(world.root, locks=True)
    assert_refused(cli("compact", world.url), "its key is not here")
    assert tree(world.root, locks=True) == before
    assert cli("compact", world.url, "--hsm-secret", safe.hsm_secret).code == 0
    assert cli("compact", "--lightning-dir", world.directory).code == 0


def test_member_add_copies_key_slots_and_hides_urls(world: World, safe: Safe) -> None:
    other = world.root / "nas" / "lightning.bkp"
    other.parent.mkdir()
    said = cli("member-add", "--lightning-dir", world.directory, other.as_uri())
    assert said.code == 0, said
    assert read_keys(backup_at(other.as_uri()).storage) == read_keys(backup_at(world.url).storage)
    stored = b"".join(path.read_bytes() for path in (*other.iterdir(), *world.backup.iterdir()))
    assert str(other.parent).encode() not in stored and NODE_ID.encode() not in stored
    listed = cli("members", "--json", other.as_uri(), "--passphrase-file", safe.passphrase)
    assert [member["name"] for member in json.loads(listed.out)["members"]] == ["nas"]
    assert "(disk)" in json.loads(listed.out)["warnings"][0]
    assert_refused(cli("members", other.as_uri()), "its key is not here")
    assert json.loads(cli("status", "--json", other.as_uri()).out)["node_id"] == "encrypted"
    place = world.root / "restored"
    place.mkdir()
    assert_refused(cli("restore", other.as_uri(), place), "its key is not here")
    said = cli("restore", other.as_uri(), place, "--hsm-secret", safe.hsm_secret)
    assert said.code == 0, said
    said = cli("verify", "--json", other.as_uri(), world.url)
    assert said.code == 0 and json.loads(said.out)["contents"] == "encrypted", said
    said = cli("verify", "--json", "--key-file", safe.key_file, other.as_uri(), world.url)
    assert said.code == 0 and json.loads(said.out)["contents"] == "proved", said


# check-config


def findings(world: World, about: str) -> list[tuple[str, str]]:
    said = cli("check-config", "--json", "--lightning-dir", world.directory)
    found = json.loads(said.out)["findings"]
    return [(each["level"], each["text"]) for each in found if each["about"] == about]


def test_check_config_finds_key_and_slot_that_hsm_secret_opens(world: World, safe: Safe) -> None:
    assert [level for level, _ in findings(world, KEY_FILE)] == ["ok"]
    ((level, text),) = findings(world, "key slots")
    assert level == "ok" and "hsm_secret opens this backup" in text


def test_check_config_finds_missing_open_and_wrong_key(world: World, safe: Safe) -> None:
    path = world.directory / KEY_FILE
    path.chmod(0o444)
    assert [level for level, text in findings(world, KEY_FILE) if "chmod" in text] == ["problem"]
    path.unlink()
    ((level, text),) = findings(world, KEY_FILE)
    assert level == "problem" and "keys --restore-key" in text


def test_check_config_finds_that_no_slot_is_left(world: World, safe: Safe) -> None:
    storage = backup_at(world.url).storage
    document = read_keys(storage)
    publish_keys(storage, type(document)(document.backup_id, document.key_id))
    ((level, text),) = findings(world, "key slots")
    assert level == "problem" and "NONE" in text


def test_check_config_finds_slot_of_another_secret(world: World, safe: Safe) -> None:
    (world.directory / "hsm_secret").unlink()
    (world.directory / "hsm_secret").write_bytes(safe.other_secret.read_bytes())
    ((level, text),) = findings(world, "key slots")
    assert level == "problem" and "--add-hsm-secret" in text
    publish_keys(backup_at(world.url).storage, without(read_keys(backup_at(world.url).storage), 1))
    ((level, text),) = findings(world, "key slots")
    assert level == "ok" and "none for hsm_secret" in text


# Nothing secret is shown


def test_no_command_shows_or_leaves_key_secret_or_passphrase(
    world: World, safe: Safe, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every output, and every file outside the backup, of every command, with right and wrong keys."""
    ways: list[tuple[object, ...]] = [
        (),
        ("--hsm-secret", safe.hsm_secret),
        ("--hsm-secret", safe.other_secret),
        ("--hsm-secret", safe.passphrase),
        ("--passphrase-file", safe.passphrase),
        ("--passphrase-file", safe.wrong_passphrase),
        ("--key-file", safe.key_file),
        ("--key-file", safe.hsm_secret),
        ("--key-file", safe.passphrase),
    ]
    target = world.root / "out"
    target.mkdir()
    reading = [("status",), ("status", "--json"), ("versions",), ("members",), ("verify",), ("compact", "--dry-run")]
    said = [cli(*words, world.url, *way) for way in ways for words in reading]
    said += [cli("restore", "--replace", "--resume", world.url, target, *way) for way in ways]
    said.append(cli("check-config", "--lightning-dir", world.directory))
    shown = "".join(each.out + each.err for each in said) + "".join(capfd.readouterr())
    left = {path: path.read_bytes() for path in target.rglob("*") if path.is_file() and path.name != KEY_FILE}
    assert left  # the right ways have restored it
    for secret in (safe.key.secret, SECRET, PASSPHRASE, safe.other_secret.read_bytes(), b"wrong horse battery"):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode()):
            assert form.decode("latin-1").lower() not in shown.lower()
            assert [path for path, data in left.items() if form in data] == []


@pytest.mark.slow
def test_drill_restores_encrypted_backup_by_hsm_secret_alone(world: World) -> None:
    said = cli("drill", "--encrypt", "--json", world.backup.parent.as_uri())
    assert said.code == 0, said
    report = json.loads(said.out)
    assert (report["identical"], report["opened_with"]) == (True, "hsm_secret")
    assert list(world.backup.parent.iterdir()) == []


# Bytes that anybody could read


@pytest.mark.parametrize("way", [(), ("--key-file",)])
def test_verify_finds_what_can_be_read_without_key(world: World, safe: Safe, way: tuple[str, ...]) -> None:
    (world.backup / "members").write_text(json.dumps({"node_id": NODE_ID}) + "\n")
    said = cli("verify", "--json", world.url, *way, *([safe.key_file] if way else []))
    assert said.code == 1, said
    assert json.loads(said.out)["error"]["kind"] == "not_ciphertext"


def test_commands_for_nodes_own_members_take_key_from_its_directory(world: World, safe: Safe) -> None:
    other = world.root / "nas" / "lightning.bkp"
    other.parent.mkdir()
    own = ("--lightning-dir", world.directory)
    assert cli("member-add", *own, other.as_uri()).code == 0
    for words in (["status"], ["members"], ["verify"], ["compact"], ["drill"], ["member-remove", "nas", "--dry-run"]):
        command = [*words, *own]
        said = cli(*command)
        assert said.code == 0, (command, said)
    (world.directory / KEY_FILE).unlink()
    (world.directory / "hsm_secret").unlink()
    before = tree(world.root)
    for words in (["members"], ["compact"], ["drill"], ["member-remove", "nas"], ["member-add", "file:///x/y"]):
        assert_refused(cli(*words, *own), "its key is not here")
    assert cli("verify", *own).code == 0
    seen = json.loads(cli("status", "--json", *own).out)
    assert (seen["node_id"], seen["key_id"]) == ("encrypted", safe.key.id)
    assert [level for level, _ in findings(world, KEY_FILE)] == ["problem"]
    assert tree(world.root) == before
