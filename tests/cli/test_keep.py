"""`?keep=` in the URL: what a compaction replaces can still be looked at."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from backends import place_at
from backends.compaction.compact import compact_log
from backends.keep import Keep, keep_of, keep_of_all
from backends.log.backup import Backup
from backends.log.writer.options import LogOptions
from backends.urls import BadURL, parse_url
from tests.cli.cli_asserts import restore
from tests.end_to_end.corruption import flip
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History
from tests.log.histories import change, noise, silent, source

pytestmark = [pytest.mark.usefixtures("jobs_here"), pytest.mark.plain_unless_told]

DAY = 86400


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("30d", Keep(30 * DAY, 10 << 30)),
        ("30d,500M", Keep(30 * DAY, 500 << 20)),
        ("30d%2C2T", Keep(30 * DAY, 2 << 40)),
        ("12h", Keep(DAY // 2, 10 << 30)),
        ("4w,1G", Keep(28 * DAY, 1 << 30)),
        ("0", Keep(0, 0)),
    ],
)
@pytest.mark.parametrize(
    "url", ["file:///x/y.bkp", "nfs://nas/x/y.bkp", "sftp://nas/y.bkp", "s3://bucket/y", "usb://DISK/y"]
)
def test_every_scheme_takes_keep(url: str, value: str, kept: Keep) -> None:
    assert keep_of(parse_url(f"{url}?keep={value}")) == kept
    place_at(f"{url}?keep={value}")
    assert keep_of(parse_url(url)) is None


@pytest.mark.parametrize(
    "value", ["30", "d", "30y", "0d", "-1d", "30d,", "30d,5", "30d,0G", "30D", "999999999w", "10G", "30d,10G,1", "٣d"]
)
def test_value_that_means_nothing_is_refused(value: str) -> None:
    with pytest.raises(BadURL, match="keep="):
        place_at(f"file:///x/y.bkp?keep={value}")


@pytest.mark.parametrize(
    "url",
    ["file:///x/y", "nfs:///x/y", "nfs://nas/x/y", "usb://DISK/y", "sftp://nas/y", "s3://bucket/y", "postgres://h/d"],
)
def test_error_that_lists_the_options_names_keep(url: str) -> None:
    with pytest.raises(BadURL, match=r"options are: .*keep"):
        place_at(f"{url}?keeep=30d")


def test_wrong_value_shows_no_password() -> None:
    with pytest.raises(BadURL, match="keep=30 is not a time") as refused:
        place_at("postgres://node:hidden@h/d?keep=30")
    assert "hidden" not in str(refused.value)


def test_of_several_members_the_longest_time_counts_for_all() -> None:
    urls = ["file:///a?keep=3d,1G", "file:///b", "file:///c?keep=9d,5G", "file:///d?keep=9d,2G"]
    assert keep_of_all(urls) == Keep(9 * DAY, 2 << 30)
    assert keep_of_all(["file:///a", "file:///b"]) is None


@pytest.fixture
def keeping(world: World, history: History, tmp_path: Path) -> World:
    """Versions 1 to 50; most are in a generation that a compaction has replaced."""
    options = LogOptions(segment_size=1 << 10, keep=keep_of(parse_url(f"{world.url}?keep=30d,1G")))
    backup = Backup(place_at(world.url), options)
    backup.create(source())
    with closing(backup.open(silent, "session")) as writer:
        for call in (history.first(), *(history.note(noise(200, seed)) for seed in range(40))):
            writer.append(change(call))
        compacted = compact_log(backup.storage, tmp_path)
        assert compacted is not None
        writer.publish_compaction(compacted)
        for call in history.notes(9):
            writer.append(change(call))
    return world


def test_versions_before_a_compaction_are_listed_and_can_be_restored(keeping: World, place: Path) -> None:
    kept, current = json.loads(backup_cli("versions", keeping.url, "--json").out)
    assert (kept["state"], kept["first_version"], current["state"]) == ("kept", 0, "in use")
    assert kept["last_version"] == current["first_version"]
    assert kept["kept_until"] > kept["last_time"] + 29 * DAY
    said = restore(keeping, place, "--to-version", "9", "--not-for-a-node")
    assert said.code == 0, said
    assert restore(keeping, place, "--to-version", "45", "--not-for-a-node").code == 0
    assert "The history is kept for 30 days within 1.0 GiB" in backup_cli("versions", keeping.url).out
    assert "1 earlier generation in " in backup_cli("status", keeping.url).out
    seen = json.loads(backup_cli("status", keeping.url, "--json").out)
    assert seen["history_generations"] == 1
    assert (seen["history_oldest"], seen["history_bytes"] > 0) == (kept["first_time"], True)
    assert f'history_oldest_timestamp_seconds{{url="{keeping.url}"}} {kept["first_time"]}\n' in (
        backup_cli("status", keeping.url, "--prometheus").out
    )


def test_verify_names_damage_in_a_kept_generation_and_the_backup_is_whole(keeping: World) -> None:
    assert "which is kept" not in backup_cli("verify", keeping.url).err
    flip(keeping.backup / "snapshot-00000001", 70)
    said = backup_cli("verify", keeping.url)
    assert said.code == 0, said
    assert "generation 1, which is kept and not in use, is damaged" in said.err
    assert not json.loads(backup_cli("status", keeping.url, "--json").out)["damaged"]
