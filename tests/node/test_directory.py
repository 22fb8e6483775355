"""Which directory `--lightning-dir` means."""

from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.node.directory import DATABASE, NETWORKS, database_path, looks_like_a_nodes, network_directory


def make(base: Path, *names: str) -> None:
    """Directories (named with a final slash) and empty files below `base`."""
    for name in names:
        path = base / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_directory_with_database_is_the_network_directory(tmp_path: Path) -> None:
    make(tmp_path, DATABASE)
    assert network_directory(tmp_path) == tmp_path
    assert database_path(tmp_path) == tmp_path / "lightningd.sqlite3"


def test_directory_with_hsm_secret_is_the_network_directory(tmp_path: Path) -> None:
    make(tmp_path, "hsm_secret")
    assert network_directory(tmp_path) == tmp_path


@pytest.mark.parametrize("network", NETWORKS)
def test_empty_directory_named_after_network_is_the_network_directory(tmp_path: Path, network: str) -> None:
    make(tmp_path, f"{network}/")
    assert network_directory(tmp_path / network) == tmp_path / network


@pytest.mark.parametrize("sign", [DATABASE, "hsm_secret", ""])
def test_lightning_directory_leads_to_its_only_network(tmp_path: Path, sign: str) -> None:
    make(tmp_path, f"testnet4/{sign}", "plugins/", "lightning.bkp/manifest")
    assert network_directory(tmp_path) == tmp_path / "testnet4"


def test_network_with_a_node_wins_over_empty_ones(tmp_path: Path) -> None:
    make(tmp_path, f"bitcoin/{DATABASE}", "regtest/", "signet/hsm_secret")
    assert network_directory(tmp_path) == tmp_path / "bitcoin"


def test_lightning_directory_named_like_a_network_leads_to_the_node_inside(tmp_path: Path) -> None:
    make(tmp_path, f"bitcoin/bitcoin/{DATABASE}")
    assert network_directory(tmp_path / "bitcoin") == tmp_path / "bitcoin" / "bitcoin"


@pytest.mark.parametrize("sign", [DATABASE, "hsm_secret", ""])
def test_several_networks_are_refused_and_listed(tmp_path: Path, sign: str) -> None:
    make(tmp_path, f"bitcoin/{sign}", f"regtest/{sign}")
    with pytest.raises(BackupError) as refused:
        network_directory(tmp_path)
    assert str(tmp_path / "bitcoin") in str(refused.value)
    assert str(tmp_path / "regtest") in str(refused.value)


def test_directory_without_network_is_refused_and_nothing_created(tmp_path: Path) -> None:
    make(tmp_path, "config", "bitcoin")  # a file of that name is no network directory
    with pytest.raises(BackupError, match="mkdir"):
        network_directory(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bitcoin", "config"]


@pytest.mark.parametrize("name", ["backup.lock", "hsm_secret", DATABASE])
def test_directory_with_one_file_of_a_node_looks_like_a_nodes(tmp_path: Path, name: str) -> None:
    assert not looks_like_a_nodes(tmp_path)
    make(tmp_path, name)
    assert looks_like_a_nodes(tmp_path)
    assert network_directory(tmp_path) == tmp_path


def test_backup_lock_in_directory_above_does_not_hide_the_node(tmp_path: Path) -> None:
    make(tmp_path, "backup.lock", f"bitcoin/{DATABASE}")
    assert network_directory(tmp_path) == tmp_path / "bitcoin"


def test_new_network_directory_may_have_any_name_but_not_be_the_one_above(tmp_path: Path) -> None:
    make(tmp_path, "mine/", "above/config", "lightning/regtest/")
    assert network_directory(tmp_path / "mine", new=True) == tmp_path / "mine"
    assert network_directory(tmp_path / "lightning", new=True) == tmp_path / "lightning" / "regtest"
    with pytest.raises(BackupError, match="mkdir"):
        network_directory(tmp_path / "above", new=True)


def test_missing_lightning_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"does not exist.*--lightning-dir"):
        network_directory(tmp_path / "bitcoin")


def test_file_given_as_lightning_directory_is_refused(tmp_path: Path) -> None:
    make(tmp_path, DATABASE)
    with pytest.raises(BackupError, match="is not a directory"):
        network_directory(tmp_path / DATABASE)


def test_relative_lightning_directory_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "regtest/inner/")
    monkeypatch.chdir(tmp_path / "regtest")
    assert network_directory(Path()) == tmp_path / "regtest"
    assert network_directory(Path("inner/..")) == tmp_path / "regtest"


def test_default_lightning_directory_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path, f".lightning/bitcoin/{DATABASE}")
    assert network_directory() == tmp_path / ".lightning" / "bitcoin"


def test_network_directory_that_is_a_link_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path, f"disk/{DATABASE}", ".lightning/")
    (tmp_path / ".lightning" / "bitcoin").symlink_to(tmp_path / "disk")
    assert network_directory(tmp_path / ".lightning") == tmp_path / ".lightning" / "bitcoin"
