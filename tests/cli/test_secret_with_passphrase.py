"""A node whose hsm_secret has a passphrase (a mnemonic's, which is quick), and its encrypted backup."""

import json
from pathlib import Path

import pytest

from backends.node.key_file import KEY_FILE
from backup_cli import encrypting
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import COST, cli, lost
from tests.cli.made_encrypted import kinds
from tests.cli.on_a_terminal import on_a_terminal
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, tree
from tests.known_secret import SECRET, known_database
from tests.node.test_hsm_seed import RITUAL, with_passphrase

TYPED = "Cake for 12 wings"
QUESTION = "Passphrase of "

Files = dict[str, Path]


pytestmark = pytest.mark.usefixtures("no_node_of_this_user")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypting, "COST", COST)


@pytest.fixture
def files(old_node: World) -> Files:
    """What the operator keeps elsewhere: a copy of the node's hsm_secret, its passphrase, and a wrong one."""
    secret = with_passphrase(RITUAL, TYPED.encode())
    (old_node.directory / "hsm_secret").write_bytes(secret)
    safe = old_node.root / "safe"
    safe.mkdir()
    contents = {"secret": secret, "right": TYPED.encode() + b"\n", "wrong": TYPED.upper().encode() + b"\n"}
    for name, content in contents.items():
        (safe / name).write_bytes(content)
    return {name: safe / name for name in contents}


@pytest.fixture
def made(old_node: World, files: Files) -> World:
    """The node, with a backup that only its hsm_secret opens."""
    said = init(old_node, "--passphrase-file", files["right"])
    assert said[0] == 0, said
    assert cli("keys", "--remove", 2, "--lightning-dir", old_node.directory).code == 0
    assert kinds(old_node.backup) == ["hsm"]
    return old_node


def words(world: World, *options: object) -> list[object]:
    return ["init", "--encrypt", *options, "--lightning-dir", world.directory, world.url]


def init(world: World, *options: object) -> tuple[int, str]:
    said = cli(*words(world, *options))
    return said.code, said.text


# init


def test_init_asks_for_the_passphrase_of_hsm_secret_until_it_is_right(old_node: World, files: Files) -> None:
    code, shown = on_a_terminal(*words(old_node), answers=[(QUESTION, TYPED.upper()), (QUESTION, TYPED)])
    assert code == 0, shown
    assert TYPED.lower() not in shown.lower()
    assert "does not open" in " ".join(shown.split())
    assert kinds(old_node.backup) == ["hsm"]
    said = cli("verify", "--json", old_node.url, "--hsm-secret", files["secret"], "--passphrase-file", files["right"])
    assert (said.code, json.loads(said.out)["contents"]) == (0, "proved")


def test_init_with_three_wrong_passphrases_of_hsm_secret_makes_nothing(old_node: World, files: Files) -> None:
    before = tree(old_node.root)
    code, shown = on_a_terminal(*words(old_node), answers=[(QUESTION, "wrong")] * 3)
    assert code == 1, shown
    assert "lightning-hsmtool getnodeid" in " ".join(shown.split())
    assert "Traceback" not in shown
    assert tree(old_node.root) == before


def test_init_without_a_terminal_names_the_option_for_the_passphrase(old_node: World, files: Files) -> None:
    before = tree(old_node.root)
    assert_refused(cli(*words(old_node)), "can be read only with its passphrase.*--passphrase-file FILE")
    assert tree(old_node.root) == before


def test_init_with_the_passphrase_of_hsm_secret_makes_both_slots(old_node: World, files: Files) -> None:
    assert init(old_node, "--passphrase-file", files["right"])[0] == 0
    assert kinds(old_node.backup) == ["hsm", "passphrase"]


def test_init_with_another_passphrase_warns_that_hsm_secret_does_not_open_the_backup(
    old_node: World, files: Files
) -> None:
    code, text = init(old_node, "--passphrase-file", files["wrong"])
    assert code == 0, text
    assert "gets no key slot for hsm_secret now" in text and "keys --add-hsm-secret" in text
    assert kinds(old_node.backup) == ["passphrase"]


# restore and verify


def test_restore_and_verify_with_hsm_secret_and_passphrase_file(made: World, files: Files) -> None:
    place, named = lost(made), ("--hsm-secret", files["secret"], "--passphrase-file")
    said = cli("verify", "--json", made.url, *named, files["right"])
    assert (said.code, json.loads(said.out)["contents"]) == (0, "proved"), said
    before = tree(made.root)
    for command in (["verify", made.url], ["restore", made.url, place]):
        assert_refused(cli(*command, *named, files["wrong"]), "this passphrase does not open")
        assert_refused(cli(*command, "--hsm-secret", files["secret"]), "--passphrase-file FILE")
    assert tree(made.root) == before
    said = cli("restore", "--resume", made.url, place, *named, files["right"])
    assert said.code == 0, said
    assert differences(place / "lightningd.sqlite3", made.root / "lost" / "lightningd.sqlite3") == []
    assert (place / KEY_FILE).read_bytes() == (made.root / "lost" / KEY_FILE).read_bytes()


def test_restore_finds_hsm_secret_in_dest_and_takes_its_passphrase_from_the_file(made: World, files: Files) -> None:
    place = lost(made)
    (place / "hsm_secret").write_bytes(files["secret"].read_bytes())
    assert_refused(cli("restore", made.url, place), "can be read only with its passphrase")
    said = cli("restore", made.url, place, "--passphrase-file", files["right"])
    assert said.code == 0, said
    assert "Traceback" not in said.err


@pytest.mark.parametrize("command", ["restore", "verify"])
def test_passphrase_of_hsm_secret_is_asked_for_at_a_terminal(made: World, files: Files, command: str) -> None:
    place = lost(made)
    asking = [command, made.url, *([place] if command == "restore" else []), "--hsm-secret", files["secret"]]
    code, shown = on_a_terminal(*asking, answers=[(QUESTION, TYPED)])
    assert code == 0, shown
    assert TYPED not in shown
    if command == "restore":
        assert differences(place / "lightningd.sqlite3", made.root / "lost" / "lightningd.sqlite3") == []


def test_mistyped_passphrase_of_hsm_secret_is_asked_for_again(made: World, files: Files) -> None:
    place = lost(made)
    asking = ["restore", made.url, place, "--hsm-secret", files["secret"]]
    code, shown = on_a_terminal(*asking, answers=[(QUESTION, "a typing error"), (QUESTION, TYPED)])
    assert code == 0, shown
    assert "typing error" not in shown
    assert (place / "lightningd.sqlite3").exists()


def test_empty_line_instead_of_the_passphrase_of_hsm_secret_restores_nothing(made: World, files: Files) -> None:
    place = lost(made)
    asking = ["restore", made.url, place, "--hsm-secret", files["secret"]]
    code, shown = on_a_terminal(*asking, answers=[(QUESTION, "")])
    assert code == 1, shown
    assert "--passphrase-file FILE" in " ".join(shown.split())
    assert list(place.iterdir()) == []


def test_new_passphrase_is_asked_for_twice_and_two_different_ones_change_nothing(made: World, files: Files) -> None:
    adding = ["keys", "--add-passphrase", "--lightning-dir", made.directory]
    before = tree(made.root)
    answers = [("New passphrase of this backup", "six random words"), ("The same again", "six random sword")]
    code, shown = on_a_terminal(*adding, answers=answers)
    assert code == 1, shown
    assert "the two passphrases differ" in " ".join(shown.split())
    assert tree(made.root) == before
    code, shown = on_a_terminal(*adding, answers=[(question, "six random words") for question, _ in answers])
    assert code == 0, shown
    assert "six random" not in shown
    assert kinds(made.backup) == ["hsm", "passphrase"]


def test_another_nodes_hsm_secret_is_told_once_its_passphrase_is_known(old_node: World, files: Files) -> None:
    """It would be looked for in vain one day. Without the passphrase nobody can tell whose it is."""
    old_node.database.write_bytes(known_database())
    assert_refused(cli(*words(old_node, "--passphrase-file", files["right"])), "is another node's.*Nothing was changed")
    assert not old_node.backup.exists()
    own = ("--lightning-dir", old_node.directory)
    (old_node.directory / "hsm_secret").write_bytes(SECRET)
    assert cli(*words(old_node)).code == 0
    said = cli("keys", "--add-hsm-secret", "--hsm-secret", files["secret"], "--passphrase-file", files["right"], *own)
    assert_refused(said, "is another node's.*Nothing was changed")
    assert kinds(old_node.backup) == ["hsm"]
