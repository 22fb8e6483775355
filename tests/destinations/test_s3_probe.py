"""Stores that do not keep conditions are refused before anything is saved there; one that does is left as it was."""

from pathlib import Path

import pytest

from backends import place_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.storage.s3.probe import Unfit, probe, probe_again
from tests.destinations.buckets import Proxied, store_at
from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.destinations.restore_from_bucket import fill
from tests.destinations.sloppy_gateway import Sloppy, gateway, rclone
from tests.end_to_end.world import backup_cli
from tests.fake_lightningd.calls import fresh_schema
from tests.log.histories import change, database, silent, source

WRONG = {
    Sloppy.IGNORES_IF_NONE_MATCH: "ignores If-None-Match",
    Sloppy.IGNORES_IF_MATCH: "ignores If-Match",
    Sloppy.LOOKS_THEN_WRITES: "does not keep If-None-Match when several writers come at once",
    Sloppy.LOOKS_THEN_REPLACES: "does not keep If-Match when several writers come at once",
    Sloppy.REFUSES_AND_WRITES: "ignores If-None-Match",
    Sloppy.LISTS_LATE: "does not show objects that were made just now",
    Sloppy.LISTS_THE_DELETED: "still shows objects that were deleted just now",
    Sloppy.RETURNS_OLD: "does not return what was saved last",
}


@pytest.fixture(autouse=True)
def keys(places: Places) -> None:
    """Keys in the environment, as they are once the real server runs."""
    assert places.radosgw


@pytest.mark.parametrize("sloppy", WRONG, ids=lambda sloppy: sloppy.name.lower().replace("_", " "))
def test_store_that_does_not_keep_conditions_is_refused_by_what_it_does(sloppy: Sloppy) -> None:
    with gateway(sloppy) as wrong:
        store = store_at(f"s3://bucket/node/lightning.bkp?endpoint={wrong.endpoint}&timeout=5")
        with pytest.raises(Unfit) as caught:
            probe(store)
        assert WRONG[sloppy] in str(caught.value)
        assert "Nothing was saved there" in str(caught.value)
        assert wrong.objects == {}


def test_store_that_keeps_conditions_is_accepted_and_left_as_it_was() -> None:
    with gateway(Sloppy.NOTHING) as right:
        probe(store_at(f"s3://bucket/node/lightning.bkp?endpoint={right.endpoint}"))
        assert right.objects == {}


def test_real_store_is_accepted_and_left_as_it_was(bucket: Proxied) -> None:
    Backup(place_at(bucket.url)).check_new()
    assert list(bucket.behind.list("")) == []
    assert bucket.proxy.seen.at_once > 4, "the race is one"


def test_probe_that_was_killed_is_cleared_away_by_a_later_one(bucket: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.behind.create("probe/0123456789abcdef/made", b"left by a killed one")
    probe(bucket.store)
    assert [each.key for each in bucket.behind.list("")] == ["probe/0123456789abcdef/made"], "it may still run"
    monkeypatch.setattr("backends.storage.s3.probe._LEFTOVER", -60.0)
    probe(bucket.store)
    assert list(bucket.behind.list("")) == []


def test_rclone_is_refused_because_it_ignores_conditions(tmp_path: Path, world_at: WorldAt) -> None:
    with rclone(tmp_path / "rclone") as endpoint:
        world = world_at(f"s3://bucket/lightning.bkp?endpoint={endpoint}")
        said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "the store ignores If-None-Match" in said.err
    assert "Nothing was saved there" in said.err
    assert not (world.directory / "backup.lock").exists()
    assert [path for path in (tmp_path / "rclone").rglob("*") if path.is_file()] == []


def test_gateway_that_ignores_conditions_since_the_backup_was_made_is_refused_at_the_next_start() -> None:
    """A backup that was moved behind another gateway. One request shows it, and nothing is changed by that."""
    with gateway(Sloppy.NOTHING) as changing:
        url = f"s3://bucket/node/lightning.bkp?endpoint={changing.endpoint}&timeout=5"
        Backup(place_at(url)).storage.make()
        probe_again(store_at(url))
        changing.sloppy = Sloppy.IGNORES_IF_NONE_MATCH
        with pytest.raises(BackupError, match="ignores If-None-Match"):
            place_at(url).check_writable()


def test_lost_marker_is_put_back_before_a_backup_is_written_to() -> None:
    """Whoever writes to it finds it lost; a gateway that ignores conditions is refused all the same."""
    with gateway(Sloppy.NOTHING) as changing:
        url = f"s3://bucket/node/lightning.bkp?endpoint={changing.endpoint}&timeout=5"
        backup = Backup(place_at(url))
        backup.create(source(database((change(fresh_schema()),)), 1))
        marker = next(key for key in changing.objects if key.endswith("/backup"))
        for sloppy in (Sloppy.IGNORES_IF_NONE_MATCH, Sloppy.NOTHING):
            changing.sloppy = sloppy
            del changing.objects[marker]
            if sloppy is not Sloppy.NOTHING:
                with pytest.raises(BackupError, match="ignores If-None-Match"):
                    place_at(url).check_writable()
        place_at(url).check_writable()
        assert marker in changing.objects


def test_backup_that_has_only_lost_its_marker_is_restored(bucket: Proxied, tmp_path: Path) -> None:
    """And no look at a backup asks for more than a start or a restore reads."""
    fill(bucket, 3)
    bucket.behind.delete(["backup"])
    assert Backup(place_at(bucket.url)).look().end.data_version == 4
    assert not [asked for asked in bucket.asked() if asked.path.endswith("/backup")]
    restored = backup_cli("restore", bucket.url, tmp_path / "restored.sqlite3")
    assert restored.code == 0, restored
    assert "version 4" in restored.out + restored.err
    Backup(place_at(bucket.url)).open(silent, "next start").close()
    assert bucket.behind.get("backup").data
