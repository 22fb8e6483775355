"""`backup-cli init` and lightningd's own replica: a backup must be made of the database that the node runs from."""

import shutil
from pathlib import Path

import pytest

from backup_cli import replica
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import Said, World, backup_cli, tree


@pytest.fixture
def home(old_node: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home directory with a node in the usual place."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(replica, "_USUAL", replica._USUAL[:1])
    node = tmp_path / "home" / ".lightning" / "bitcoin"
    node.mkdir(parents=True)
    shutil.copy(old_node.database, node)
    (node / "hsm_secret").write_bytes(bytes(32))
    return tmp_path / "home" / ".lightning"


@pytest.fixture
def second(home: Path, tmp_path: Path) -> Path:
    """The replica's directory: a whole database, and nothing that shows what it is."""
    path = tmp_path / "replica"
    path.mkdir()
    shutil.copy(home / "bitcoin" / "lightningd.sqlite3", path)
    return path


def pair(home: Path, second: Path) -> str:
    return f"wallet=sqlite3://{home}/bitcoin/lightningd.sqlite3:{second}/lightningd.sqlite3\n"


def init(directory: Path, world: World) -> Said:
    return backup_cli("init", "--lightning-dir", directory, world.url)


@pytest.mark.parametrize("where", ["config", "bitcoin/config"])
def test_init_of_lightningds_replica_is_refused_and_names_the_real_directory(
    where: str, home: Path, second: Path, old_node: World
) -> None:
    (home / where).write_text(f"alias=x\n#wallet=y\n{pair(home, second)}")
    before = tree(home, second)
    assert_refused(init(second, old_node), f"is the replica of .*nothing was created.*--lightning-dir {home}/bitcoin")
    assert tree(home, second) == before and not old_node.backup.exists()
    assert init(home, old_node).code == 0, "and what it says to type works"


def test_init_of_a_link_to_lightningds_replica_is_refused(
    home: Path, second: Path, old_node: World, tmp_path: Path
) -> None:
    (home / "config").write_text(pair(home, second))
    (tmp_path / "signet").mkdir()
    (tmp_path / "signet" / "lightningd.sqlite3").symlink_to(second / "lightningd.sqlite3")
    assert_refused(init(tmp_path / "signet", old_node), "is the replica of")


def test_init_where_the_usual_directory_holds_only_the_replica_is_refused(
    home: Path, second: Path, old_node: World
) -> None:
    """The config names the two the other way round: the file in the usual place is overwritten at each start."""
    (home / "config").write_text(pair(second, home).replace("/bitcoin/", "/").replace(str(home), f"{home}/bitcoin"))
    said = init(home, old_node)
    assert_refused(said, f"its database is {second}/lightningd.sqlite3.*is only the replica.*aside.* here: mv ")
    assert not old_node.backup.exists()


def test_init_of_a_node_whose_wallet_is_elsewhere_is_refused(home: Path, second: Path, old_node: World) -> None:
    (home / "config").write_text("wallet=sqlite3:///srv/other.sqlite3\n")
    assert_refused(init(home, old_node), "its database is /srv/other.sqlite3.* is another file. Nothing was created")


def test_init_of_a_node_on_postgresql_is_refused_without_showing_its_password(home: Path, old_node: World) -> None:
    (home / "config").write_text("wallet=postgres://user:secret@host/db\n")
    said = init(home, old_node)
    assert_refused(said, r"\(postgres\).*Nothing was created")
    assert "secret" not in said.text


def test_broken_config_of_another_network_does_not_prevent_init(home: Path, old_node: World) -> None:
    (home / "testnet").mkdir()
    (home / "testnet" / "config").write_text("include missing\n")
    (home / "bitcoin" / "config").write_text("")
    assert init(home / "bitcoin", old_node).code == 0


def test_init_of_a_possible_replica_without_a_config_warns(home: Path, second: Path, old_node: World) -> None:
    said = init(second, old_node)
    assert said.code == 0 and "warning: there is no hsm_secret next to" in said.err and "not a replica" in said.err
