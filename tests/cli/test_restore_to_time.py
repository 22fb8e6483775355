"""`backup-cli restore --to-time`: the state of a time, for looking at only."""

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backup_cli.point_in_time import parse_time
from tests.cli.cli_asserts import assert_refused, restore
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History
from tests.fake_lightningd.calls import Call
from tests.legacy.written import Written
from tests.log.histories import change, silent, source

pytestmark = [pytest.mark.usefixtures("jobs_here"), pytest.mark.plain_unless_told]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is in a time zone with summer time."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-26 14:30", 1795699800),
        ("2026-11-26T14:30:00", 1795699800),
        ("2026-11-26 14:30:00.75", 1795699800),
        ("2026-11-26T13:30:00Z", 1795699800),
        ("2026-11-26 13:30 UTC", 1795699800),
        ("2026-11-26T05:30-08:00", 1795699800),
        ("2026-11-26T19:00:00+0530", 1795699800),
        ("2026-11-26 14:30 +01", 1795699800),
        ("2026-11-26", 1795647600),
        ("2026-07-01 12:00", 1782900000),
        (" 2026-11-26 14:30 ", 1795699800),
    ],
)
def test_time_in_words_is_read_with_its_zone_or_in_that_of_the_machine(text: str, seconds: int) -> None:
    found = parse_time(text)
    assert found.seconds == seconds
    assert found.shown.endswith(
        " +0200 (this machine's time zone)" if "07-01" in text else " +0100 (this machine's time zone)"
    )


@pytest.mark.parametrize(("text", "ago"), [("2h", 7200), ("90 s", 90), ("3d ago", 259200), ("1w", 604800), ("5m", 300)])
def test_time_before_now_is_read(text: str, ago: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_cli.point_in_time.time.time", lambda: 1_800_000_000.9)
    assert parse_time(text).seconds == 1_800_000_000 - ago


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "14:30", "2026-13-01", "2026-11-26 25:00", "2026-11-26 14:30 CET", "1795699800", "-2h", "2 years",
     "99999999w", "9999-01-01", "0001-01-01", "2026-11-26T14", "١٢h"],
)  # fmt: skip
def test_what_is_no_time_is_a_usage_error_with_examples(text: str, world: World, place: Path) -> None:
    said = backup_cli("restore", "--to-time", text, "--not-for-a-node", world.url, place)
    assert (said.code, "2026-11-26 14:30" in said.err) == (2, True)


@pytest.fixture
def stamped(world: World, history: History, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty database was saved 5000 seconds ago, and versions 1 to 4 were 4000, 3000, 2000 and 1000 seconds ago."""
    stamp(world, [history.first(), *history.notes(3)], [5000, 4000, 3000, 2000, 1000], monkeypatch)
    return world


def stamp(world: World, calls: Sequence[Call], ago: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a backup that was created, and whose changes were saved, so many seconds ago."""
    now, backup = int(time.time()), backup_at(world.url)

    def at(since: int) -> None:
        for module in ("writer.writer", "backup"):
            monkeypatch.setattr(f"backends.log.{module}.time_now", lambda: now - since)

    at(ago[0])
    backup.create(source())
    with closing(backup.open(silent, "session")) as writer:
        for call, since in zip(calls, ago[1:], strict=True):
            at(since)
            writer.append(change(call))


def looked_at(world: World, place: Path, when: str) -> Said:
    """Restore the state of that time, for looking at."""
    return restore(world, place, "--to-time", when, "--not-for-a-node")


def test_state_of_a_time_is_restored_under_a_name_that_is_not_for_a_node(stamped: World, place: Path) -> None:
    said = looked_at(stamped, place, "2500s")
    assert said.code == 0, said
    assert [path.name for path in place.iterdir()] == ["lightningd.sqlite3.version-2-NOT-FOR-A-NODE"]
    assert "version 2, saved" in said.err and "(this machine's time zone)" in said.err
    assert restore(stamped, place / "by-version", "--to-version", "2", "--not-for-a-node").code == 0
    (by_version,) = place.glob("by-version*")
    assert everything(by_version) == everything(place / "lightningd.sqlite3.version-2-NOT-FOR-A-NODE")


def test_old_state_of_a_time_is_never_for_a_node(stamped: World, place: Path) -> None:
    for options in ((), ("--resume",), ("--resume", "--not-for-a-node")):
        assert_refused(
            restore(stamped, place, "--to-time", "50m", *options), "for looking at only.*leave --to-time out"
        )
    both = restore(stamped, place, "--to-time", "50m", "--to-version", "2", "--not-for-a-node")
    assert (both.code, "choose one" in both.err) == (2, True)
    assert list(place.iterdir()) == []


def test_time_outside_the_backup_is_refused_with_its_range(stamped: World, place: Path) -> None:
    assert_refused(looked_at(stamped, place, "2h"), "begins after .*from version 0 of .* to version 4 of .*Nothing was")
    assert_refused(
        looked_at(stamped, place, "1s"), "ends before .*from version 0 of .* to version 4 of .*--to-version 4"
    )
    assert list(place.iterdir()) == []


def test_clock_that_was_set_back_is_warned_of(
    world: World, place: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp(world, [history.first(), *history.notes(3)], [5000, 4000, 2000, 3500, 1000], monkeypatch)
    said = looked_at(world, place, "3000s")
    assert said.code == 0
    assert "version 1, saved" in said.err
    assert "clock was set back later: changes up to version 3 " in said.err and "use --to-version 3" in said.err
    assert "set back" not in looked_at(world, place, "1500s").err


def test_state_of_a_generation_that_was_replaced_is_found_by_time_and_by_version(stamped: World, place: Path) -> None:
    with closing(backup_at(stamped.url).open(silent, "session")) as writer:
        writer.take_snapshot(source(b"", 1), "resync")
    said = looked_at(stamped, place, "1500s")
    assert said.code == 0, said
    assert "which was replaced and is kept" in said.err
    assert [path.name for path in place.iterdir()] == ["lightningd.sqlite3.version-3-NOT-FOR-A-NODE"]
    assert "which was replaced" in restore(stamped, place / "x", "--to-version", "4", "--not-for-a-node").err
    assert_refused(
        restore(stamped, place / "y", "--to-version", "9", "--not-for-a-node"),
        "no generation .* holds version 9: .*0 to 4, and 1 to 1",
    )


def test_json_says_which_version_and_time_was_restored(stamped: World, place: Path) -> None:
    said = restore(stamped, place, "--to-time", "2500s", "--not-for-a-node", "--json")
    document = json.loads(said.out)
    assert (document["data_version"], document["for_a_node"]) == (2, False)
    assert abs(document["last_change"] - (time.time() - 3000)) < 60


def test_older_plugins_file_holds_no_times(tmp_path: Path, place: Path) -> None:
    old = tmp_path / "old.dbak"
    Written().change(History().first()).save(old)
    said = backup_cli("restore", "--to-time", "2h", "--not-for-a-node", old.as_uri(), place)
    assert (said.code, "holds no times" in said.err) == (2, True)
