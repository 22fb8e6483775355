"""The `hsm_secret` of another node beside a database: the mistake that is otherwise noticed on the day of a
disaster."""

import shutil
from pathlib import Path

import pytest

from tests.contrib.checking import check, configure, the_problem
from tests.end_to_end.world import Said, backup_cli
from tests.known_secret import NODE_ID, SECRET
from tests.node.test_hsm_secret import ABANDON, ABANDON_ID


def put(secret: Path, content: bytes) -> None:
    secret.unlink(missing_ok=True)
    secret.write_bytes(content)
    secret.chmod(0o400)


# check-config


@pytest.mark.usefixtures("quick")
def test_another_nodes_secret_beside_database_is_a_problem(node: Path) -> None:
    put(node / "hsm_secret", bytes(32) + ABANDON)
    line = the_problem(node)
    assert f"it belongs to the node {ABANDON_ID}, and the database to the node {NODE_ID}" in line
    assert "Do not start the node with it" in line and "look for the other copies" in line
    assert "abandon" not in line


@pytest.mark.usefixtures("quick")
def test_another_nodes_secret_beside_a_lost_database_is_recognised_by_the_backup(node: Path) -> None:
    (node / "lightningd.sqlite3").unlink()
    put(node / "hsm_secret", bytes(32) + ABANDON)
    code, lines = check(node)
    assert code == 1
    assert any(f"{ABANDON_ID}, and the backup at file://" in line and NODE_ID in line for line in lines), lines


@pytest.mark.usefixtures("quick")
def test_any_secret_beside_a_node_without_an_id_is_accepted(node: Path, tmp_path: Path) -> None:
    """A node that was never started has no id yet, and any secret is as good as another."""
    new = tmp_path / "new" / "bitcoin"
    new.mkdir(parents=True)
    put(new / "hsm_secret", bytes(32))
    assert backup_cli("init", "--lightning-dir", new, (tmp_path / "new.bkp").as_uri()).code == 0
    configure(new, (node.parent / "config").read_text())
    assert check(new) == (0, [])


@pytest.mark.usefixtures("quick")
def test_secret_with_passphrase_is_accepted_with_a_way_to_check_it(node: Path) -> None:
    put(node / "hsm_secret", bytes(range(73)))
    assert check(node) == (0, [])
    said = backup_cli("check-config", "--lightning-dir", node)
    assert f"lightning-hsmtool getnodeid {node}/hsm_secret" in said.out and f"should be {NODE_ID}" in said.out


@pytest.mark.usefixtures("quick")
def test_secret_in_hexadecimal_digits_is_a_problem(node: Path) -> None:
    """People keep the secret on paper this way; lightningd takes such a file for words with a passphrase."""
    put(node / "hsm_secret", SECRET.hex().encode() + b"\n")
    line = the_problem(node)
    assert "of this node" in line and "xxd -r -p" in line
    assert SECRET.hex() not in line


@pytest.mark.usefixtures("quick")
def test_secret_that_is_a_link_is_not_compared(node: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", SECRET)
    (node / "hsm_secret").unlink()
    (node / "hsm_secret").symlink_to(tmp_path / "elsewhere")
    code, (line,) = check(node)
    assert code == 0 and line.startswith("warning") and "it is a link" in line


# restore


def restored(node: Path, tmp_path: Path, secret: bytes | None) -> Said:
    place = tmp_path / "restored" / "bitcoin"
    place.mkdir(parents=True)
    if secret is not None:
        put(place / "hsm_secret", secret)
    said = backup_cli("restore", f"file://{tmp_path}/lightning.bkp", place)
    assert said.code == 0, said
    assert (place / "lightningd.sqlite3").exists()
    return said


def test_restore_beside_another_nodes_secret_warns(node: Path, tmp_path: Path) -> None:
    said = restored(node, tmp_path, bytes(32) + ABANDON)
    assert f"is ANOTHER NODE'S: it belongs to the node {ABANDON_ID}, and the restored database to the node" in said.text
    assert "is the wrong one, as said above: do not start the node with it" in said.text
    assert "hsm_secret belongs next to" not in said.text


def test_restore_beside_right_secret_says_so(node: Path, tmp_path: Path) -> None:
    assert "hsm_secret is this node's. Keep copies" in restored(node, tmp_path, SECRET).text


def test_restore_beside_secret_with_passphrase_says_how_to_check_it(node: Path, tmp_path: Path) -> None:
    assert f"getnodeid {tmp_path}/restored/bitcoin/hsm_secret" in restored(node, tmp_path, bytes(73)).text


def test_restore_without_a_secret_says_that_it_belongs_there(node: Path, tmp_path: Path) -> None:
    assert "hsm_secret belongs next to the database" in restored(node, tmp_path, None).text


# init


def test_init_beside_another_nodes_secret_warns(node: Path, tmp_path: Path) -> None:
    new = tmp_path / "copy" / "bitcoin"
    new.mkdir(parents=True)
    shutil.copy(node / "lightningd.sqlite3", new)
    put(new / "hsm_secret", bytes(32) + ABANDON)
    said = backup_cli("init", "--lightning-dir", new, f"file://{tmp_path}/second.bkp")
    assert said.code == 0
    assert f"warning: {new}/hsm_secret is ANOTHER NODE'S" in said.err


def test_init_beside_right_secret_says_nothing(node: Path, tmp_path: Path) -> None:
    (node / "backup.lock").unlink()
    said = backup_cli("init", "--lightning-dir", node, f"file://{tmp_path}/second.bkp")
    assert said.code == 0 and "hsm_secret" not in said.text
