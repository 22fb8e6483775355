"""`backup-cli destinations`: what it lists can be used as it stands."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backends import backend_for
from backup_cli.destinations import destinations
from tests.destinations.places import Places
from tests.destinations.sticks import STICKS, Ext4


def listed(directory: Path) -> dict[str, dict[str, Any]]:
    """By mount point."""
    result = CliRunner().invoke(destinations, ["--json", "--lightning-dir", str(directory)], catch_exceptions=False)
    assert result.exit_code == 0
    return {place["mounted_at"]: place for place in json.loads(result.stdout)}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    directory = tmp_path / "regtest"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("kind", STICKS)
def test_a_stick_is_listed_with_its_url(kind: str, places: Places, node: Path) -> None:
    stick = places.stick(kind)
    place = listed(node)[str(stick.point)]
    assert place["url"] == stick.url()
    assert place["label"] == stick.label
    assert not place["own_disk"]
    assert 0 < place["free_bytes"] <= place["total_bytes"] <= stick.megabytes << 20
    backend_for(place["url"]).check_new()


def test_a_share_is_listed_with_its_url(places: Places, node: Path) -> None:
    share = places.sshfs
    place = listed(node)[str(share.point)]
    assert place["url"] == f"nfs://{share.point}/lightning.bkp"
    assert place["source"] == share.source
    backend_for(place["url"]).check_new()


def test_the_nodes_own_disk_is_told(places: Places) -> None:
    stick = places.stick("ext4")
    directory = stick.point / "regtest"
    directory.mkdir(exist_ok=True)
    place = listed(directory)[str(stick.point)]
    assert place["own_disk"]
    assert place["url"].startswith("file:///")


def test_it_can_be_read(places: Places, node: Path) -> None:
    stick = places.stick("ext4")
    result = CliRunner().invoke(destinations, ["--lightning-dir", str(node)], catch_exceptions=False)
    assert stick.url() in result.stdout
    assert "MiB free" in result.stdout


def test_a_name_that_only_begins_like_the_systems_is_listed(tmp_path: Path, node: Path) -> None:
    """/usr2, /boot-stick, /etcetera: people call their disks so."""
    stick = Ext4(tmp_path)
    point = Path(tempfile.mkdtemp(prefix="usr", dir="/"))
    try:
        stick.plug(point)
        assert listed(node)[str(point)]["url"] == stick.url()
    finally:
        stick.discard()
        point.rmdir()
