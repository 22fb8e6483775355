"""A mounted share: what is accepted as one, how another share in its place is noticed, and what is warned about."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from backends import backup_at, place_at
from backends.errors import BackupError, Unreachable
from backends.mounts import table
from backends.mounts.network import is_network, lock_breaker, promise_breakers
from backends.mounts.table import Mount, mount_of, mounts
from backends.node.lockfile import read_settings, write_settings
from backends.sqlite.rebuild import rebuild
from backends.urls import BadURL
from tests.destinations.conftest import Elsewhere, WorldAt
from tests.destinations.places import Places
from tests.destinations.servers import Sshfs
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import RECORDINGS, Recording
from tests.end_to_end.world import backup_cli
from tests.fake_lightningd import History, Refused, RpcError
from tests.legacy.written import written


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Sshfs]:
    """A mounted share of this test's own."""
    share = Sshfs(tmp_path)
    share.start()
    yield share
    share.stop()


def mount_of_kind(kind: str, *options: str) -> Mount:
    return Mount(1, (0, 50), "/", Path("/mnt/nas"), kind, "nas:/volume1", frozenset({"rw", *options}))


@pytest.mark.parametrize("kind", ["nfs3", "nfs41", "sshfs", "openssh"])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recorded_node_on_share_is_restored_equal(
    kind: str, recording: Recording, places: Places, world_at: WorldAt
) -> None:
    world = world_at(places.url(kind))
    recording.prepare(world)
    node = world.run(recording.calls())
    assert node.stderr == ""
    assert [level for level, _ in node.logs] == ["info"], node.logs
    restored = world.assert_restored_equals_the_nodes()
    assert differences(restored, recording.expected(world)) == []


def test_local_directory_given_as_share_is_refused_and_nothing_written(tmp_path: Path, world_at: WorldAt) -> None:
    world = world_at(f"nfs://{tmp_path}/lightning.bkp")
    before = sorted(tmp_path.rglob("*"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "no share is mounted at" in said.text
    assert "Nothing was written" in said.text
    assert [path for path in tmp_path.rglob("*") if path not in before] == []


def test_share_not_mounted_at_start_stops_the_node_and_writes_nothing(
    share: Sshfs, world_at: WorldAt, history: History
) -> None:
    world = world_at(f"nfs://{share.point}/lightning.bkp").init()
    world.run([history.first(), *history.notes(3)])
    share.unmount()
    call = history.note()
    with pytest.raises(Refused, match="no share is mounted at"), world.node() as node:
        node.db_write(call)
    assert list(share.point.iterdir()) == []
    share.start()
    world.run([call])
    world.assert_restored_equals_the_nodes()


def test_other_share_mounted_in_its_place_is_refused(
    share: Sshfs, world_at: WorldAt, history: History, tmp_path: Path
) -> None:
    url = f"nfs://{share.point}/lightning.bkp"
    world = world_at(url).init()
    world.run([history.first()])
    remembered = place_at(url).durable_url(url)
    source = share.source
    share.unmount()
    share.served = tmp_path / "other"
    share.served.mkdir()
    share.start()
    with pytest.raises(Refused, match="share"), world.node() as node:
        node.db_write(history.note())
    with pytest.raises(Unreachable, match="Is that the right share"):
        backup_at(url).id()
    with pytest.raises(Unreachable, match="the wrong share is mounted") as caught:
        backup_at(remembered).id()
    assert source in str(caught.value)
    assert list(share.point.iterdir()) == []


def test_share_mounted_under_another_name_is_accepted_with_a_note(
    share: Sshfs, world_at: WorldAt, history: History
) -> None:
    world = world_at(f"nfs://{share.point}/lightning.bkp").init()
    settings = read_settings(world.directory)
    assert f"share={quote(share.source, safe='/:')}" in settings.url
    url = f"nfs://{share.point}/lightning.bkp?share=nas%3A/volume1"
    write_settings(world.directory, replace(settings, url=url))
    node = world.run([history.first()])
    assert any("made on the share nas:/volume1" in line for _, line in node.logs)


def test_share_becomes_a_member_while_the_node_runs_and_a_wrong_one_does_not(
    share: Sshfs, world_at: WorldAt, history: History, tmp_path: Path
) -> None:
    """Nothing has to be there yet, as on any other disk."""
    (tmp_path / "disk").mkdir(exist_ok=True)
    world = world_at((tmp_path / "disk" / "lightning.bkp").as_uri()).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        with pytest.raises(RpcError, match="another share is mounted there"):
            node.rpc("backup-member-add", {"url": f"nfs://{share.point}/lightning.bkp?share=nas:/volume1"})
        assert node.rpc("backup-member-add", {"url": f"nfs://{share.point}/lightning.bkp"})["state"] == "catching_up"

        def in_sync() -> bool:
            members = node.rpc("backup-status", {}).get("members", [])
            return [member["state"] for member in members] == ["in_sync"] * 2

        assert node.wire.listen(30, in_sync), node.logs
        node.stop()
    assert (share.point / "lightning.bkp" / "manifest").exists()


def test_commands_that_set_a_backup_remember_its_share(
    share: Sshfs, world_at: WorldAt, history: History, tmp_path: Path
) -> None:
    calls = [history.first(), *history.notes(3)]
    world = world_at(f"nfs://{share.point}/lightning.bkp").init()
    world.run(calls)
    (tmp_path / "new").mkdir()
    assert backup_cli("restore", "--resume", world.url, tmp_path / "new").code == 0
    old, second = written(calls).save(tmp_path / "file.bkp"), f"nfs://{share.point}/second.bkp"
    assert backup_cli("import", old, second, "--lightning-dir", world.directory).code == 0
    for directory in (tmp_path / "new", world.directory):
        assert f"share={quote(share.source, safe='/:')}" in read_settings(directory).url


@pytest.mark.parametrize("kind", ["fuse.rclone", "davfs"])
def test_share_that_uploads_files_only_on_close_is_refused_but_readable(
    kind: str, tmp_path: Path, world_at: WorldAt, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone uploads a file only when it is closed, so the log only when the node stops; a copy there can be read."""
    url = f"nfs://{tmp_path}/lightning.bkp"
    world: Elsewhere = world_at(f"file://{tmp_path}/lightning.bkp")
    world.init().run([history.first()])
    monkeypatch.setattr(
        "backends.places.nfs.mount_of", lambda path: replace(mount_of(path), kind=kind, source="cloud:backup")
    )
    for refused in (
        backup_at(f"nfs://{tmp_path}/another.bkp").check_new,
        lambda: backup_at(url).open(lambda level, line: None),
    ):
        with pytest.raises(BackupError, match=r"cloud:backup .*only when it is closed.*Nothing was written"):
            refused()
    assert not (tmp_path / "another.bkp").exists()
    target = tmp_path / "restored.sqlite3"
    with backup_at(url).read() as generation:  # in this process: only here is the mount faked
        rebuild(generation, target)
    assert differences(target, world.database) == []


def test_url_of_mounted_share_with_nfs_client_options_is_refused() -> None:
    with pytest.raises(BadURL, match="mounted share"):
        backup_at("nfs:///mnt/nas/lightning.bkp?version=4.1")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph"])
def test_network_filesystem_is_recognised(kind: str) -> None:
    assert is_network(mount_of_kind(kind))


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "tmpfs", "overlay", "fuseblk", "autofs", "fuse.encfs"])
def test_local_filesystem_is_not_taken_for_a_network_one(kind: str) -> None:
    assert not is_network(mount_of_kind(kind))


@pytest.mark.parametrize(
    ("kind", "option"),
    [("nfs4", "soft"), ("nfs", "softerr"), ("nfs", "async"), ("cifs", "nostrictsync"), ("9p", "cache=loose")],
)
def test_mount_option_that_breaks_durability_is_named(kind: str, option: str) -> None:
    (line,) = promise_breakers(mount_of_kind(kind, option, "relatime"))
    assert f"`{option}`" in line


@pytest.mark.parametrize("options", [("hard", "vers=4.2"), ("hard", "nolock"), ("sync",)])
def test_mount_options_that_keep_durability_are_not_warned_about(options: tuple[str, ...]) -> None:
    """`nolock` matters for the node's own directory only: the backup takes no lock on the share."""
    assert promise_breakers(mount_of_kind("nfs", *options)) == []


def test_nolock_mount_option_under_node_directory_is_named() -> None:
    assert "`nolock`" in str(lock_breaker(mount_of_kind("nfs", "nolock")))
    assert lock_breaker(mount_of_kind("nfs4", "hard")) is None
    assert lock_breaker(mount_of_kind("ext4", "nolock")) is None


def test_mount_of_a_path_is_found_even_below_missing_directories(share: Sshfs) -> None:
    assert mount_of(share.point).kind == "fuse.sshfs"
    assert mount_of(share.point / "not" / "there").source == share.source
    assert mount_of(Path("/proc/self")).kind == "proc"
    assert mount_of(share.served).kind != "fuse.sshfs"


def test_mount_table_with_escapes_and_empty_source_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = tmp_path / "mountinfo"
    lines.write_bytes(
        b"36 35 98:0 /mnt1 /mnt/my\\040stick\\134 rw,noatime master:1 shared:2 - vfat /dev/sdb1 ro,errors=continue\n"
        b"37 35 0:40 / /mnt/none rw - tmpfs  rw\n"
    )
    monkeypatch.setattr(table, "MOUNTINFO", lines)
    first, second = mounts()
    assert first.point == Path("/mnt/my stick\\")
    assert (first.device, first.root, first.source, first.read_only) == ((98, 0), "/mnt1", "/dev/sdb1", True)
    assert (second.kind, second.source) == ("tmpfs", "")
