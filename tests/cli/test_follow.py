"""`backup-cli follow`: what it keeps, what it refuses, and what it says when the backup or the copy is in trouble."""

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backends import backup_at
from backends.change import Change
from backends.compaction.compact import compact_log
from backends.node.following import COPY, NOTE
from backends.node.key_file import KEY_FILE
from backup_cli.following.sources import followed_at
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import Safe
from tests.cli.following import once
from tests.cli.several import document_of, init_several, url_of
from tests.end_to_end.corruption import flip, segment
from tests.end_to_end.db_compare import compared, everything
from tests.end_to_end.following import Follower
from tests.end_to_end.world import World, backup_cli, command, spawned, tree
from tests.fake_lightningd import History
from tests.fake_lightningd.calls import bump
from tests.log.histories import silent

pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """Where the copy is kept; the command makes it."""
    return tmp_path / "warm"


def followed(world: World, warm: Path, *options: object) -> dict[str, Any]:
    """Bring the copy up to date; it is the node's database then. What the command said to programs."""
    said = once(world, warm, "--json", *options)
    assert said.code == 0, said
    assert compared(everything(warm / COPY), everything(world.database)) == []
    document: dict[str, Any] = json.loads(said.out)
    return document


def append(world: World, *statements: str) -> None:
    """A change in the backup that the plugin would never have saved."""
    with closing(backup_at(world.url).open(silent)) as writer:
        version = writer.position.data_version + 1
        writer.append(Change(version, [*statements, bump(version)]))


# Following


def test_copy_is_built_once_and_then_gets_only_the_changes(lived: World, history: History, warm: Path) -> None:
    first = followed(lived, warm)
    assert (first["built"], first["changes"], first["data_version"]) == (True, 6, lived.version)
    lived.run(history.notes(4))
    second = followed(lived, warm)
    assert (second["built"], second["changes"], second["lag_changes"]) == (False, 4, 0)
    assert sorted(path.name for path in warm.iterdir()) == [NOTE, COPY]
    assert warm.stat().st_mode & 0o777 == 0o700 and (warm / COPY).stat().st_mode & 0o777 == 0o400


def test_following_changes_nothing_in_the_backup(lived: World, history: History, warm: Path) -> None:
    before = tree(lived.backup)
    followed(lived, warm)
    assert tree(lived.backup) == before


def test_copy_crosses_a_compaction_without_being_built_again(lived: World, history: History, warm: Path) -> None:
    followed(lived, warm)
    lived.run(history.notes(30))
    backup = backup_at(lived.url)
    with closing(backup.open(silent)) as writer:
        compacted = compact_log(backup.storage, lived.root, leave_out=2)
        assert compacted is not None
        writer.publish_compaction(compacted)
    lived.run(history.notes(2))
    assert followed(lived, warm)["built"] is False


def test_copy_is_built_again_after_a_new_snapshot(lived: World, history: History, warm: Path) -> None:
    followed(lived, warm)
    lived.run_without_plugin(history.notes(2))
    lived.run(history.notes(2))
    assert followed(lived, warm)["built"] is True


def test_copy_of_an_encrypted_backup_is_opened_by_the_key_beside_it(safe: Safe, world: World, warm: Path) -> None:
    warm.mkdir()
    refused = backup_cli("follow", "--once", "--key-file", safe.wrong_passphrase, world.url, warm)
    assert refused.code == 1 and list(warm.iterdir()) == []
    (warm / KEY_FILE).write_bytes(safe.key_file.read_bytes())
    (warm / KEY_FILE).chmod(0o400)
    assert followed(world, warm)["encrypted"] is True
    assert backup_cli("follow", "--promote", world.url, warm).code == 0
    assert (warm / KEY_FILE).exists() and (warm / "lightningd.sqlite3").exists()


def test_metrics_are_written_for_a_copy_in_step_and_for_one_that_is_not(lived: World, warm: Path) -> None:
    figures = lived.root / "follow.prom"
    followed(lived, warm, "--prometheus", figures)
    text = figures.read_text()
    assert f'lightningd_backup_follow_data_version{{url="{lived.url}"}} {lived.version}\n' in text
    assert f'follow_in_step{{url="{lived.url}"}} 1\n' in text and f'follow_lag_changes{{url="{lived.url}"}} 0\n' in text
    assert figures.stat().st_mode & 0o777 == 0o644
    lived.backup.rename(lived.backup.with_name("away"))
    assert once(lived, warm, "--prometheus", figures).code == 1
    text = figures.read_text()
    assert f'follow_in_step{{url="{lived.url}"}} 0\n' in text and "follow_lag_seconds" in text


def test_command_that_goes_on_says_when_the_backup_is_away_and_when_it_is_back(
    lived: World, history: History, warm: Path
) -> None:
    follower = Follower(lived, destination=warm).start()
    try:
        _wait(lambda: "In step" in follower.said)
        away = lived.backup.with_name("away")
        lived.backup.rename(away)
        _wait(lambda: "NOT in step (the copy was last in step" in follower.said)
        away.rename(lived.backup)
        lived.run(history.notes(2))
        follower.wait_for(lived.version)
        _wait(lambda: follower.said.count("In step with the backup") >= 2)
        refused = once(lived, warm)
        assert refused.code == 1 and "backup-cli follow" in refused.err, "one at a time"
        assert follower.process is not None
        follower.process.send_signal(signal.SIGTERM)
        assert follower.process.wait(20) == -signal.SIGTERM, "as systemd expects it"
        follower.process = None
    finally:
        follower.kill()
    assert compared(everything(warm / COPY), everything(lived.database)) == []
    assert "Traceback" not in follower.said


def _wait(until: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


# Trouble


def test_backup_out_of_reach_ends_once_with_1(lived: World, warm: Path) -> None:
    lived.backup.rename(lived.backup.with_name("away"))
    assert_refused(once(lived, warm), "there is no backup")
    assert not warm.exists(), "what was made for nothing is removed again"


def test_damage_ends_once_with_3_is_recorded_and_leaves_the_copy(lived: World, history: History, warm: Path) -> None:
    followed(lived, warm)
    before, version = everything(warm / COPY), lived.version
    lived.run(history.notes(3))
    flip(segment(lived), -_bytes_after(lived, version) + 100)
    said = once(lived, warm)
    assert said.code == 3 and "damaged" in said.err, said
    assert everything(warm / COPY) == before
    assert backup_cli("status", lived.url).code == 3


def _bytes_after(world: World, version: int) -> int:
    """Bytes of the last segment from the end of the record with this version on."""
    with backup_at(world.url).read() as reader:
        total = after = 0
        for _, header in reader.scan():
            total += 44 + header.length
            after = total if header.data_version == version else after
        return segment(world).stat().st_size - 64 - after


def test_change_that_cannot_be_replayed_is_named_and_recorded(lived: World, warm: Path) -> None:
    followed(lived, warm)
    before = everything(warm / COPY)
    append(lived, "INSERT INTO nowhere VALUES ('a secret')")
    said = once(lived, warm)
    assert said.code == 3 and f"version {lived.version + 1} cannot be executed" in said.text, said
    assert "a secret" not in said.text
    assert everything(warm / COPY) == before
    assert (lived.backup / "damage").exists(), "the node takes a new snapshot"


def test_trigger_that_no_lightningd_makes_is_refused_unless_accepted(lived: World, warm: Path) -> None:
    followed(lived, warm)
    before = everything(warm / COPY)
    append(lived, "CREATE TRIGGER t AFTER INSERT ON vars BEGIN DELETE FROM vars WHERE name = 'x'; END")
    said = once(lived, warm)
    assert said.code != 0 and "trigger t" in said.text
    assert everything(warm / COPY) == before
    assert once(lived, warm, "--accept-schema").code == 0


def test_copy_that_is_damaged_is_built_again_and_the_backup_is_not_blamed(
    lived: World, history: History, warm: Path
) -> None:
    followed(lived, warm)
    lived.run(history.notes(1))
    (warm / COPY).chmod(0o600)
    data = bytearray((warm / COPY).read_bytes())
    data[100:300] = bytes(200)
    (warm / COPY).write_bytes(data)
    document = followed(lived, warm)
    assert document["built"] is True
    assert not (lived.backup / "damage").exists()


def test_copy_ahead_of_a_backup_that_was_set_back_is_kept(lived: World, history: History, warm: Path) -> None:
    old = lived.root / "old"
    subprocess.run(["cp", "-a", lived.backup, old], check=True)
    lived.run(history.notes(3))
    followed(lived, warm)
    before = everything(warm / COPY)
    lived.backup.rename(lived.root / "newer")
    old.rename(lived.backup)
    for words in (("--once",), ("--promote",)):
        said = backup_cli("follow", *words, *lived.key_options, lived.url, warm)
        assert_refused(said, rf"is at version {lived.version}, and .* ends at version {lived.version - 3}")
        assert everything(warm / COPY) == before


def test_another_backup_is_not_followed_by_the_same_copy(lived: World, warm: Path, tmp_path: Path) -> None:
    followed(lived, warm)
    (tmp_path / "second").mkdir()
    other = World(tmp_path / "second").init()
    assert_refused(once(other, warm), "follows")


def test_reader_of_the_copy_holds_it_up_and_harms_nothing(lived: World, history: History, warm: Path) -> None:
    followed(lived, warm)
    lived.run(history.notes(1))
    with closing(sqlite3.connect(f"file:{warm / COPY}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vars").fetchall()
        words = command(
            "follow", "--once", *lived.key_options, lived.url, warm
        )  # a process of its own has its own locks
        assert_refused(spawned(*words), "another process reads")
    followed(lived, warm)


# What is refused


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--once", "--promote"], "exclude each other"),
        (["--dry-run"], "belong to --promote"),
        (["--take-over", "--once"], "belong to --promote"),
        (["--json"], "needs --once or --promote"),
    ],
)
def test_options_that_make_no_sense_together_are_a_usage_error(words: list[str], why: str, tmp_path: Path) -> None:
    said = backup_cli("follow", *words, "file:///nowhere/x", tmp_path / "warm")
    assert said.code == 2 and why in said.text


def test_nodes_own_directory_is_no_place_for_a_copy(lived: World) -> None:
    before = tree(lived.directory)
    assert_refused(once(lived, lived.directory), "a node's own directory")
    assert_refused(once(lived, lived.directory.parent), "directory above a node's")
    assert_refused(once(lived, lived.backup), "is itself a backup")
    assert tree(lived.directory) == before


def test_copy_that_was_moved_away_is_not_written_to_any_more(lived: World, history: History, warm: Path) -> None:
    follower = Follower(lived, destination=warm).start()
    try:
        _wait(lambda: "Built" in follower.said)
        (warm / COPY).rename(warm / "mine.sqlite3")
        assert follower.process is not None
        assert follower.process.wait(30) == 1
        follower.process = None
        assert "was moved away or replaced" in follower.said
    finally:
        follower.kill()


# Several destinations


def test_member_that_holds_the_newest_state_is_followed(old_node: World, history: History, warm: Path) -> None:
    world = old_node
    assert init_several(world, "disk", "nas").code == 0
    world.run(history.notes(3))
    url = url_of(world, "nas")
    assert backup_cli("follow", "--once", url, warm).code == 0
    nas = world.root / "nas"
    nas.rename(world.root / "away")
    world.run(history.notes(3))
    (world.root / "away").rename(nas)
    assert document_of(world, "nas").epoch.number < document_of(world, "disk").epoch.number
    said = backup_cli("follow", "--once", "--json", url, warm)
    assert json.loads(said.out)["url"] == url_of(world, "disk"), said
    assert compared(everything(warm / COPY), everything(world.database)) == []


def test_running_follower_goes_over_to_the_member_that_goes_on(
    old_node: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_node
    assert init_several(world, "disk", "nas").code == 0
    found = followed_at([url_of(world, "disk")])
    assert found.is_newest()
    out = next(name for name in ("disk", "nas") if name != found.name)
    lost = world.root / found.name
    lost.rename(world.root / "away")
    world.run(history.notes(3))
    (world.root / "away").rename(lost)
    assert found.is_newest(), "not asked yet"
    monkeypatch.setattr("backup_cli.following.sources.LOOK_EVERY", 0.0)
    assert not found.is_newest()
    assert followed_at([url_of(world, "disk")]).name == out


def test_promotion_of_a_copy_of_several_members_goes_on_with_all_of_them(
    old_node: World, history: History, warm: Path
) -> None:
    world = old_node
    assert init_several(world, "disk", "nas").code == 0
    world.run(history.notes(3))
    assert backup_cli("follow", "--once", url_of(world, "nas"), warm).code == 0
    world.run(history.notes(2))
    said = backup_cli("follow", "--promote", "--json", url_of(world, "nas"), warm)
    assert said.code == 0 and json.loads(said.out)["changes"] == 2, said
    promoted = World(world.root, "promoted")
    promoted.directory = warm
    assert compared(everything(promoted.database), everything(world.database)) == []
    promoted.run(history.notes(2))
    assert document_of(world, "disk").in_sync == document_of(world, "nas").in_sync
    assert backup_cli("verify", url_of(world, "disk"), url_of(world, "nas")).code == 0


def test_promotion_without_a_member_needs_consent(old_node: World, history: History, warm: Path) -> None:
    world = old_node
    assert init_several(world, "disk", "nas").code == 0
    world.run(history.notes(3))
    assert backup_cli("follow", "--once", url_of(world, "nas"), warm).code == 0
    (world.root / "disk").rename(world.root / "away")
    assert_refused(backup_cli("follow", "--promote", url_of(world, "nas"), warm), "could not be read")
    assert backup_cli("follow", "--promote", "--without", "disk", url_of(world, "nas"), warm).code == 0
