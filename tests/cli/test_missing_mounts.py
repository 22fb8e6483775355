"""A path on a disk or share that is not mounted: whatever it is named for, the message asks whether that is why."""

from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import Safe
from tests.cli.following import once
from tests.end_to_end.world import World, backup_cli, tree

MOUNT_FIRST = "if a disk or share belongs there, mount it first"


@pytest.fixture(params=["missing", "empty"])
def unmounted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The mount point of a disk that is not mounted: it is only made when that is done, or it is an empty directory."""
    place = tmp_path / "mnt" / "disk"
    if request.param == "empty":
        place.mkdir(parents=True)
    return place


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    """A mount point that is only made when its disk is mounted."""
    return tmp_path / "absent"


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("below", ["", "copy"])
def test_promotion_in_a_directory_that_does_not_exist_says_so(
    lived: World, absent: Path, below: str, dry_run: tuple[str, ...]
) -> None:
    dest, before = absent / below, tree(lived.root)
    said = backup_cli("follow", "--promote", *dry_run, *lived.key_options, lived.url, dest)
    assert_refused(said, f"{dest} does not exist, so there is no copy in it to promote. Nothing was changed")
    assert MOUNT_FIRST in said.err
    assert tree(lived.root) == before


def test_copy_or_restore_where_a_directory_is_missing_is_not_told_to_make_it_under_a_mount_point(
    lived: World, absent: Path
) -> None:
    """What is written there would be hidden once the disk is mounted."""
    for said in (
        once(lived, absent / "copy"),
        backup_cli("restore", *lived.key_options, lived.url, absent / "back.sqlite3"),
        backup_cli("restore", *lived.key_options, lived.url, f"{absent}/"),
    ):
        assert_refused(said, f"{absent} does not exist")
        assert MOUNT_FIRST in said.err


KEYS = {"--key-file": "backup.key", "--hsm-secret": "hsm_secret", "--passphrase-file": "passphrase"}


@pytest.mark.parametrize("option", KEYS)
@pytest.mark.parametrize("command", ["verify", "restore", "follow"])
def test_key_on_a_disk_that_is_not_mounted(
    safe: Safe, world: World, unmounted: Path, command: str, option: str, tmp_path: Path
) -> None:
    named = unmounted / KEYS[option]
    where: dict[str, list[object]] = {"restore": [tmp_path / "back.sqlite3"], "follow": [tmp_path / "warm", "--once"]}
    said = backup_cli(command, option, named, world.url, *where.get(command, []))
    assert_refused(said, f"{named}")
    assert asks(said.err, unmounted)


def asks(text: str, place: Path) -> bool:
    if place.exists():
        return "Its directory is empty: is the disk or share that belongs there mounted?" in text
    return "Its directory does not exist either: is the disk or share that holds it mounted?" in text


def test_legacy_file_and_config_on_a_disk_that_is_not_mounted(lived: World, unmounted: Path, tmp_path: Path) -> None:
    new = (tmp_path / "new.bkp").as_uri()
    for old in (unmounted / "old", (unmounted / "old").as_uri()):
        said = backup_cli("import", old, new)
        assert_refused(said, "cannot be read: No such file or directory; nothing was changed")
        assert asks(said.err, unmounted)
    said = backup_cli("check-config", "--lightning-dir", lived.directory, "--conf", unmounted / "config")
    assert asks(said.out, unmounted)


@pytest.mark.parametrize("command", ["status", "check-config", "resync"])
def test_nodes_directory_on_a_disk_that_is_not_mounted(unmounted: Path, command: str) -> None:
    said = backup_cli(command, "--lightning-dir", unmounted / "bitcoin")
    assert_refused(said, "the node's directory .* does not exist")
    assert asks(said.err, unmounted)


def test_metrics_on_a_disk_that_is_not_mounted(lived: World, absent: Path, tmp_path: Path) -> None:
    said = once(lived, tmp_path / "warm", "--prometheus", absent / "follow.prom")
    assert said.code == 0, "the copy is worth more than its figures"
    assert "the copy goes on following. Its directory does not exist either" in said.err


def test_file_that_is_missing_among_others_is_not_blamed_on_a_mount(safe: Safe, world: World, tmp_path: Path) -> None:
    said = backup_cli("verify", "--key-file", tmp_path / "backup.kye", world.url)
    assert_refused(said, "there is no")
    assert "mounted" not in said.err
