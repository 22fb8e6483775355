"""No command that changes what opens a backup, or where it is, shows or leaves a key, a secret or a passphrase."""

import base64
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.keyring import DataKey
from backends.log.key_slots import MAKESECRET_INFO
from backends.node.hsm_seed import derived_secret
from backends.node.key_file import KEY_FILE, read_key, write_key
from backup_cli import encrypting
from backup_cli.drill import lost_node
from tests.cli.encrypted import COST, OTHER_SECRET, PASSPHRASE, cli, encrypt
from tests.cli.made_encrypted import with_secret
from tests.end_to_end.world import Said, World
from tests.fake_lightningd import History
from tests.known_secret import SECRET

FURTHER = b"a further pass phrase"
DRILLS = bytes(range(7, 39))
"""The hsm_secret of the drill's node."""

Words = list[object]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands make their temporary files, and only they."""
    monkeypatch.setattr(encrypting, "COST", COST)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def forms(secret: bytes) -> list[bytes]:
    """How a secret may appear, in lower case: as it is, in hexadecimal, in base64, as Python shows it."""
    shown = (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode())
    return [form.lower() for form in shown]


def assert_nothing_secret(said: Iterable[Said], logged: str, root: Path, secrets: Iterable[bytes], *own: Path) -> None:
    """None of these secrets is in what commands said, nor in any file below `root` but `own` and those in them."""
    shown = "".join(each.out + each.err for each in said) + logged
    assert "Traceback" not in shown
    files = [path for path in root.rglob("*") if path.is_file() and not {path, *path.parents} & {*own}]
    assert files
    for secret in secrets:
        for form in forms(secret):
            assert form not in shown.lower().encode(), form
            assert [path for path in files if form in path.read_bytes().lower()] == []


def files_of_keys(directory: Path) -> list[Path]:
    """The files in a node's directory that are there to hold a secret, and nobody else may read."""
    found = [directory / "hsm_secret", *directory.glob(f"{KEY_FILE}*")]
    assert [path for path in found if path.stat().st_mode & 0o377] == []
    return found


def test_search_finds_every_form_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "harmless").write_bytes(b"nothing")
    for form in forms(SECRET):
        with pytest.raises(AssertionError):
            assert_nothing_secret([Said(0, form.decode("latin-1"), "")], "", tmp_path, [SECRET])
        (tmp_path / "left").write_bytes(b"xx" + form)
        with pytest.raises(AssertionError):
            assert_nothing_secret([], "", tmp_path, [SECRET])
        assert_nothing_secret([], "", tmp_path, [SECRET], tmp_path / "left")


def test_keys_and_members_show_and_leave_nothing_secret(
    world: World, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    safe = encrypt(world)
    further = safe.directory / "further"
    further.write_bytes(FURTHER)
    nas = world.root / "nas" / "lightning.bkp"
    nas.parent.mkdir()
    own: Words = ["--lightning-dir", world.directory]
    ways: list[Words] = [
        [],
        ["--hsm-secret", safe.hsm_secret],
        ["--hsm-secret", safe.other_secret],
        ["--passphrase-file", safe.passphrase],
        ["--passphrase-file", safe.wrong_passphrase],
        ["--key-file", safe.key_file],
        ["--key-file", safe.passphrase],
    ]
    said = [cli(*action, *json, *own, *way) for way in ways for json in ([], ["--json"]) for action in ACTIONS]
    said += [cli("keys", *json, world.url, *way) for way in ways for json in ([], ["--test"], ["--test", "--json"])]
    done: list[Words] = [
        ["keys", "--add-passphrase", "--passphrase-file", further, *own],
        ["keys", "--remove", "2", *own],
        ["keys", "--add-hsm-secret", *own],
        ["member-add", *own, nas.as_uri()],
        ["keys", "--test", "--passphrase-file", further, "--hsm-secret", safe.hsm_secret, *own],
        ["member-remove", *own, "nas"],
    ]
    for words in done:
        said.append(cli(*words))
        assert said[-1].code == 0, said[-1]
    for way in ways:
        (world.directory / KEY_FILE).unlink(missing_ok=True)
        said += [cli("keys", "--restore-key", *json, *own, *way) for json in ([], ["--json"])]
    said.append(cli("member-add", *own, "file:///nowhere/at/all"))
    assert {each.code for each in said} == {0, 1}
    derived = [derived_secret(secret, MAKESECRET_INFO) for secret in (SECRET, OTHER_SECRET)]
    secrets = [safe.key.secret, SECRET, OTHER_SECRET, PASSPHRASE, FURTHER, b"wrong horse battery", *derived]
    logged = "".join(capfd.readouterr())
    assert_nothing_secret(said, logged, world.root, secrets, safe.directory, *files_of_keys(world.directory))
    assert [path for path in scratch.rglob("*")] == []


ACTIONS: list[Words] = [
    ["keys"],
    ["keys", "--test"],
    ["keys", "--restore-key"],
    ["keys", "--add-hsm-secret", "--dry-run"],
    ["keys", "--add-passphrase", "--dry-run"],
    ["keys", "--remove", "2", "--dry-run"],
    ["keys", "--remove", "9"],
]


def test_resync_encrypt_shows_and_leaves_nothing_secret(
    world: World, history: History, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with_secret(world).init().run([history.first(), *history.notes(2)])
    phrase = world.root / "phrase"
    phrase.write_bytes(PASSPHRASE)
    own: Words = ["--encrypt", "--passphrase-file", phrase, "--lightning-dir", world.directory]
    said = [cli("resync", *own, *more) for more in (["--dry-run"], [], ["--json"])]
    assert [each.code for each in said] == [0, 0, 1]
    found = read_key(world.directory)
    assert found is not None
    secrets = [found.key.secret, SECRET, PASSPHRASE, derived_secret(SECRET, MAKESECRET_INFO)]
    logged = "".join(capfd.readouterr())
    assert_nothing_secret(said, logged, world.root, secrets, phrase, *files_of_keys(world.directory))
    assert [path for path in scratch.rglob("*")] == []


@pytest.mark.slow
def test_drill_encrypt_shows_and_leaves_nothing_secret(
    world: World, scratch: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DataKey] = []

    def write(node: Path, key: DataKey) -> None:
        made.append(key)
        write_key(node, key)

    monkeypatch.setattr(lost_node, "secrets", SimpleNamespace(token_bytes=lambda size: DRILLS[:size]))
    monkeypatch.setattr(lost_node, "write_key", write)
    (world.root / "something").touch()
    said = [cli("drill", "--encrypt", world.backup.parent.as_uri())]
    assert (said[0].code, len(made)) == (0, 1), said
    secrets = [DRILLS, derived_secret(DRILLS, MAKESECRET_INFO), *(key.secret for key in made)]
    assert_nothing_secret(said, "".join(capfd.readouterr()), world.root, secrets)
    assert [path for path in scratch.rglob("*")] == []
