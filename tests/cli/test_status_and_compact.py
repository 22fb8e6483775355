"""`backup-cli status` reports and changes nothing; `backup-cli compact` makes a backup small and loses nothing."""

import json
import os
import random
import time

import pytest
from click.testing import CliRunner

from backends.base import MAX_ROLL_FORWARD
from backends.compaction.compact import compact_log
from backends.errors import InUse
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.writer import Writer
from backends.storage.local import LocalStorage
from backup_cli.main import cli
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.corruption import DAMAGED, flip, segment, snapshot
from tests.end_to_end.world import World, as_mortal, backup_cli, command, spawned, tree
from tests.fake_lightningd import History, Refused, SeparateDatabase
from tests.log.histories import backup_in, silent


@pytest.fixture
def grown(taken_over: World) -> World:
    """A backup whose log has a full segment, of a row that was overwritten again and again."""
    node, blobs = History(taken_over.version), random.Random(1)
    row = "INSERT OR REPLACE INTO vars (name, blobval) VALUES ('often', x'{}')"
    taken_over.run([node.transaction(row.format(blobs.randbytes(1 << 20).hex())) for _ in range(12)])
    taken_over.run([*node.notes(20)])
    return taken_over


SEEN_BY_STATUS = [name for name in DAMAGED if "manifest" in name or "segment" in name or "record" in name]


# status


def test_status_shows_health_version_and_log_and_changes_nothing(taken_over: World) -> None:
    before = tree(taken_over.root)
    said = backup_cli("status", taken_over.url)
    assert said.code == 0
    told = dict(line.split(maxsplit=1) for line in said.out.splitlines() if not line.startswith("last change"))
    assert told["health"] == "ok"
    assert told["version"] == "12"
    assert told["log"].startswith("8 records in ")
    assert "generation 1 (init)" in told["snapshot"]
    assert told["compacted"] == "never"
    assert tree(taken_over.root) == before


def test_status_after_compact_and_resync_does_not_say_never_compacted(grown: World) -> None:
    assert backup_cli("compact", grown.url).code == 0
    assert backup_cli("resync", "--lightning-dir", grown.directory).code == 0
    assert "compacted    not since the snapshot of 20" in backup_cli("status", grown.url).out


def test_status_json_holds_health_url_and_sizes(taken_over: World, history: History) -> None:
    taken_over.run(history.notes(1))
    seen = json.loads(backup_cli("status", "--json", taken_over.url).out)
    assert seen["health"] == "ok"
    assert seen["url"] == taken_over.url
    assert seen["troubles"] == []
    assert abs(seen["last_change"] - time.time()) < 60
    files = sum(path.stat().st_size for path in taken_over.backup.iterdir() if "-0" in path.name)
    assert seen["snapshot_bytes"] + seen["segment_bytes"] == files


def test_status_without_a_url_finds_the_nodes_own_backup(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(backup_cli("status", "--json", "--lightning-dir", lived.directory.parent).out)["url"] == lived.url
    home = lived.root / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert_refused(backup_cli("status"), "does not exist; nothing was changed")
    (home / ".lightning").symlink_to(lived.directory.parent)
    assert backup_cli("status").code == 0


def test_status_of_the_running_plugin_equals_status_of_the_files(lived: World, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(5))
        within, beside = node.rpc("backup-status"), lived.status()
        for name in ("data_version", "records", "generation", "backup_id", "snapshot_bytes", "segment_bytes", "health"):
            assert within[name] == beside[name], name


def test_status_shows_the_node_id_once_the_node_has_written_it(lived: World, history: History) -> None:
    node_id = "02" + "ab" * 32
    assert lived.status()["node_id"] is None
    lived.run([history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('node_id', x'{node_id}')")])
    assert lived.status()["node_id"] == node_id
    assert node_id in backup_cli("status", lived.url).out


@pytest.mark.parametrize("what", SEEN_BY_STATUS)
def test_status_reports_damage_of_the_log_and_changes_nothing(taken_over: World, what: str) -> None:
    DAMAGED[what](taken_over)
    before = tree(taken_over.root)
    said = backup_cli("status", taken_over.url)
    assert said.code == 3
    assert "the backup is damaged: " in said.text
    assert tree(taken_over.root) == before


def test_status_json_of_a_damaged_backup_exits_3(lived: World) -> None:
    flip(segment(lived), 100)
    said = backup_cli("status", "--json", lived.url)
    assert said.code == 3
    assert json.loads(said.out)["health"] == "damaged"


def test_status_of_a_log_with_a_lost_end_reports_one_trouble(lived: World) -> None:
    """The log is cut within an acknowledged record: no start of the node repairs that."""
    os.truncate(segment(lived), 150)
    troubles = json.loads(backup_cli("status", "--json", lived.url).out)["troubles"]
    assert len(troubles) == 1 and "the end of the log is missing" in troubles[0], troubles


# compact


def bytes_of(world: World) -> int:
    return sum(path.stat().st_size for path in world.backup.iterdir())


def test_compact_shrinks_a_backup_and_keeps_it_whole(grown: World) -> None:
    before = bytes_of(grown)
    said = backup_cli("compact", grown.url)
    assert said.code == 0
    assert " MiB before, " in said.err
    seen = grown.status()
    assert (seen["generation"], seen["generation_reason"]) == (2, "compaction")
    assert bytes_of(grown) < before - (7 << 20)
    assert seen["records"] == MAX_ROLL_FORWARD, "so many stay, to bring the node's database forward by"
    grown.assert_restored_equals_the_nodes()
    node = grown.run(History(grown.version).notes(2))
    assert [level for level, _ in node.logs] == ["info"], "the node goes on with it as if nothing had been"
    grown.assert_restored_equals_the_nodes()


def test_compact_that_would_gain_nothing_changes_nothing(grown: World) -> None:
    """The new snapshot would be larger than the files that it replaces."""
    assert backup_cli("compact", grown.url).code == 0
    for notes, sentence in (
        (0, "there is nothing to compact yet"),
        (20, "a compaction would gain nothing now"),
    ):
        if notes:
            grown.run(History(grown.version).notes(notes))
        before = tree(grown.root)
        said = backup_cli("compact", grown.url)
        assert said.code == 0
        assert sentence in said.err
        assert tree(grown.root) == before
    grown.assert_restored_equals_the_nodes()


def test_compact_of_a_full_segment_that_would_gain_nothing_changes_nothing(taken_over: World) -> None:
    """Rows that stay take as much in the new snapshot as in the log, and the last segment is left as it is."""
    node, blobs = History(taken_over.version), random.Random(1)
    row = "INSERT INTO vars (name, blobval) VALUES ('row-{}', x'{}')"
    taken_over.run([node.transaction(row.format(n, blobs.randbytes(1 << 20).hex())) for n in range(12)])
    taken_over.run([*node.notes(20)])
    assert len(list(taken_over.backup.glob("segment-*"))) > 1
    before = tree(taken_over.root)
    for _ in range(2):
        said = backup_cli("compact", taken_over.url)
        assert said.code == 0
        assert "a compaction would gain nothing now (the new snapshot would be larger" in said.err
    assert tree(taken_over.root) == before
    taken_over.assert_restored_equals_the_nodes()


def test_compact_beside_a_running_node_is_refused(lived: World, history: History) -> None:
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(3))
        before = tree(lived.backup)
        said = backup_cli("compact", lived.url)
        assert_refused(said, rf"another process \(pid {node.pid}, lightningd-backup\) is writing .*backup-compact")
        assert tree(lived.backup) == before
        node.play(history.notes(3))
    lived.assert_restored_equals_the_nodes()


def test_compact_after_a_kill_of_the_node_succeeds(grown: World) -> None:
    """The marker still says that somebody writes, but the lock in the backup is free: that process is dead."""
    node, history = grown.node(), History(grown.version)
    node.start()
    node.play(history.notes(3))
    node.die()
    said = backup_cli("compact", grown.url)
    assert said.code == 0
    assert " before, " in said.err
    grown.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("what", list(DAMAGED))
def test_compact_leaves_a_damaged_backup_alone(taken_over: World, what: str) -> None:
    DAMAGED[what](taken_over)
    before = tree(taken_over.root)
    assert_refused(backup_cli("compact", taken_over.url), "the backup is damaged", code=3)
    assert tree(taken_over.root) == before


def test_compact_of_a_damaged_snapshot_is_refused(grown: World) -> None:
    flip(snapshot(grown), 200)
    assert_refused(backup_cli("compact", grown.url), "the backup is damaged: .* in snapshot-", code=3)
    assert [path.name for path in grown.backup.glob("snapshot-*")] == ["snapshot-00000001"]


def test_compact_without_write_permission_changes_nothing(grown: World) -> None:
    grown.backup.chmod(0o500)
    before = tree(grown.root)
    try:
        said = spawned(*as_mortal(), *command("compact", grown.url))
        assert tree(grown.root) == before
    finally:
        grown.backup.chmod(0o700)
    assert_refused(said, "cannot be used: Permission denied")


def test_status_of_the_node_reports_that_its_last_run_failed(lived: World, history: History) -> None:
    """The backup itself may be whole, and could not be marked."""
    sync_point = lived.directory / "backup.witness"
    assert sync_point.exists()
    node = lived.node()
    node.start()
    node.play(history.notes(1))
    lived.backup.rename(lived.root / "pulled out")
    node.wire.listen(7.0)  # the plugin looks for its mark
    refused = history.note()
    with pytest.raises(Refused):
        node.play([refused])
    (lived.root / "pulled out").rename(lived.backup)
    seen = json.loads(backup_cli("status", "--lightning-dir", lived.directory, "--json").out)
    assert seen["health"] == "degraded"
    assert "the last run ended with a failure, so the next start begins with a new snapshot" in seen["troubles"][-1]
    lived.run([refused])
    assert backup_cli("status", "--lightning-dir", lived.directory).code == 0
    assert json.loads(backup_cli("status", "--lightning-dir", lived.directory, "--json").out)["health"] == "ok"


def test_overtaken_compact_leaves_the_other_ones_snapshot_alone(grown: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over nfs://, without locks. It used to remove everything that looked like an unfinished compaction, and the
    other one then failed."""
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)
    other = backup_in(LocalStorage(grown.backup))
    publish, theirs = Writer.publish_compaction, list[tuple[Writer, CompactedSnapshot]]()

    def overtaken(writer: Writer, compacted: CompactedSnapshot) -> None:
        monkeypatch.setattr(Writer, "publish_compaction", publish)
        made = compact_log(other.storage, grown.root)
        assert made is not None
        theirs.append((other.open(silent, compacted=made), made))
        writer.publish_compaction(compacted)

    monkeypatch.setattr(Writer, "publish_compaction", overtaken)
    said = CliRunner().invoke(cli, ["compact", grown.url])
    assert isinstance(said.exception, InUse)
    [(writer, made)] = theirs
    writer.publish_compaction(made)
    writer.close()
    grown.assert_restored_equals_the_nodes()
