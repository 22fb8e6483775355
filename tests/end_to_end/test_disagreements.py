"""When database and backup disagree at a start: after deaths, runs without the plugin, and refusals of others."""

import shutil
from dataclasses import replace

import pytest

from backends.node.sync_point import read_sync_point, write_sync_point
from tests.end_to_end.crash import Death, Life
from tests.end_to_end.world import World, backup_cli, said_at, snapshots_taken
from tests.fake_lightningd import (
    Call,
    History,
    Moment,
    PluginDied,
    Refused,
    Victim,
    contents,
    transaction,
)

moments = pytest.mark.parametrize("moment", Moment)
victims = pytest.mark.parametrize("victim", Victim)


def die_before_commit(world: World, call: Call) -> None:
    """The backup gets a change that the database never does."""
    node = world.node()
    node.start()
    node.die_at(Moment.BEFORE_COMMIT, call)


# The two agree


def test_start_after_a_clean_stop_continues_the_log_without_a_snapshot(lived: World, history: History) -> None:
    for _ in range(3):
        node = lived.run(history.notes(2))
        assert said_at(node, "unusual") == []
    assert lived.status()["generation"] == 1
    lived.assert_restored_equals_the_nodes()


def test_start_and_stop_without_a_change_logs_nothing(lived: World, history: History) -> None:
    for _ in range(2):
        node = lived.run([])
        assert node.logs == []
    assert said_at(lived.run(history.notes(1)), "unusual") == []
    lived.assert_restored_equals_the_nodes()


def test_kill_while_the_node_is_idle_costs_no_snapshot(lived: World, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    assert not node.wire.listen(3.0)  # long enough to count as idle
    node.die()
    assert said_at(lived.run(history.notes(2)), "unusual") == []
    lived.assert_restored_equals_the_nodes()


# One behind


@pytest.mark.parametrize("again", [1, 3])
def test_acknowledged_change_that_was_never_committed_is_made_again_at_the_next_start(
    lived: World, history: History, again: int
) -> None:
    """Also when the node dies in the same way again and again."""
    for _ in range(again):
        die_before_commit(lived, history.note("never committed, until now"))
    node = lived.run(history.notes(2))
    (line,) = said_at(node, "unusual")
    assert "1 change behind its backup" in line
    assert f"now at version {history.version - 2}, like the backup" in line
    lived.assert_restored_equals_the_nodes()


def test_refusal_by_another_plugin_keeps_backup_and_database_equal(lived: World, history: History) -> None:
    """Our plugin has answered continue, the other one has not: lightningd aborts."""
    call = history.note()
    node = lived.node()
    node.start()
    node.execute(call)
    node.ask(call)
    node.die(Victim.NODE)
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_refusal_by_another_plugin_at_the_first_call_keeps_both_equal(world: World, history: History) -> None:
    call = history.first()
    die_before_commit(world.init(), call)
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


def test_backup_restored_after_a_crash_holds_the_acknowledged_change(lived: World, history: History) -> None:
    """Nobody can know that it was not committed: if the node's disk died with it, this is the newest state."""
    call = history.note()
    die_before_commit(lived, call)
    restored = lived.restore()
    lived.run_without_plugin([call])
    assert contents(restored) == contents(lived.database)


# Ahead


@pytest.mark.parametrize("ahead", [1, 2, 40])
def test_run_without_the_plugin_takes_one_new_snapshot(lived: World, history: History, ahead: int) -> None:
    lived.run_without_plugin(history.notes(ahead))
    node = lived.run(history.notes(3))
    assert f"the database is {ahead} ahead" in said_at(node, "unusual")[0]
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()


def test_run_without_the_plugin_before_its_first_run_takes_one_snapshot(world: World, history: History) -> None:
    """A backup that was made for a node which had not started, and was then forgotten in the configuration."""
    world.init().run_without_plugin([history.first(), *history.notes(3)])
    assert len(snapshots_taken(world.run(history.notes(3)))) == 1
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("late", [1, 3])
def test_writes_after_the_plugin_was_stopped_are_found_ahead_at_the_next_start(
    lived: World, history: History, late: int
) -> None:
    for _ in range(2):
        node = lived.node()
        node.start()
        node.play(history.notes(2))
        assert node.stop(late=history.notes(late)) == 0
    node = lived.run(history.notes(1))
    assert f"the database is {late} ahead" in said_at(node, "unusual")[0]
    lived.assert_restored_equals_the_nodes()


def test_writes_after_a_plain_plugin_died_unnoticed_are_in_the_next_backup(lived: World, history: History) -> None:
    with lived.node(important=False) as node:
        node.play(history.notes(2))
        node.die(Victim.PLUGIN)
        node.play(history.notes(7))
        node.die()
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_downgrade_without_the_plugin_is_in_the_next_backup(lived: World, history: History) -> None:
    """lightning-downgrade changes tables, and the version with them."""
    lived.run_without_plugin(
        [history.transaction("ALTER TABLE vars DROP COLUMN blobval", "DELETE FROM db_upgrades WHERE 1")]
    )
    lived.run([history.transaction("ALTER TABLE vars ADD COLUMN blobval BLOB"), *history.notes(2)])
    lived.assert_restored_equals_the_nodes()


# The same version, other content


def test_uncommitted_change_and_another_at_its_version_takes_a_snapshot(lived: World, history: History) -> None:
    version = lived.version
    die_before_commit(lived, history.note("one"))
    lived.run_without_plugin([transaction(version + 1, "INSERT INTO vars (name, val) VALUES ('note 7', 'other')")])
    node = lived.run(History(version + 1).notes(2))
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()


@moments
def test_crash_in_a_call_and_another_change_at_its_version_is_found_out(
    lived: World, history: History, moment: Moment
) -> None:
    """The backup may or may not hold the call that the node died in: both are found out."""
    node = lived.node()
    node.start()
    node.play(history.notes(3))
    version = lived.version
    node.die_at(moment, history.note("one"), delay=0.002)
    lived.run_without_plugin([transaction(version + 1, "INSERT INTO vars (name, val) VALUES ('note 10', 'other')")])
    lived.run(History(version + 1).notes(2))
    lived.assert_restored_equals_the_nodes()


def test_crash_after_idle_time_and_another_change_at_its_version_is_found_out(lived: World, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    node.wire.listen(3.0)
    version = lived.version
    node.die_at(Moment.BEFORE_COMMIT, history.note("one"))
    lived.run_without_plugin([transaction(version + 1, "INSERT INTO vars (name, val) VALUES ('note 9', 'other')")])
    assert len(snapshots_taken(lived.run(History(version + 1).notes(2)))) == 1
    lived.assert_restored_equals_the_nodes()


def test_database_edited_at_the_same_version_takes_a_snapshot(lived: World, history: History) -> None:
    """By hand, or by a tool that knows nothing of versions."""
    lived.run_without_plugin([Call(lived.version, ("UPDATE vars SET val = 'edited' WHERE name = 'note 2'",))])
    assert len(snapshots_taken(lived.run(history.notes(1)))) == 1
    lived.assert_restored_equals_the_nodes()


def test_database_copied_and_put_back_restores_exactly(lived: World, history: History) -> None:
    """The same bytes in another file cost at most a snapshot."""
    aside = lived.directory / "aside"
    shutil.copy(lived.database, aside)
    lived.database.unlink()
    aside.rename(lived.database)
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def test_refused_change_and_another_at_its_version_takes_a_snapshot(lived: World, history: History) -> None:
    """The plugin failed to save a change; whatever reached the destination is not built upon."""
    node = lived.node()
    node.start()
    node.play(history.notes(1))
    with pytest.raises(Refused, match="PRAGMA"):
        node.db_write(Call(lived.version, ("PRAGMA odd",)))
    node = lived.run(history.notes(2))
    assert "the last run ended with a failure" in said_at(node, "unusual")[0]
    assert "generation 2 (the last run ended with a failure)\n" in backup_cli("status", lived.url).out
    lived.assert_restored_equals_the_nodes()


def test_change_that_was_saved_despite_a_failed_write_is_made_again(lived: World, history: History) -> None:
    """The change is what the node would have committed; but the log is not continued from what a failed disk
    returns."""
    call = history.note()
    die_before_commit(lived, call)
    sync_point = read_sync_point(lived.directory)
    assert sync_point is not None
    write_sync_point(lived.directory, replace(sync_point, failure="Input/output error"))
    node = lived.run(history.notes(2))
    assert "1 change behind its backup" in said_at(node, "unusual")[0]
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()


# The wrap of the version


def test_crashes_across_the_wrap_of_the_version_lose_nothing(world: World) -> None:
    """lightningd's own lock on the version does not survive it: SQLite counts on where 32 bits end. Ours must."""
    history = History()
    world.run_without_plugin([history.first(), Call(1, ("UPDATE vars SET intval = 4294967292",))])
    world.init()
    history.version = 4294967292
    death = Death(Moment.BEFORE_COMMIT, Victim.BOTH)
    life = Life(world)
    life.play(history.notes(4), {2: death, 4: death})
    assert history.version == 0
    life.kill()
    world.assert_restored_equals_the_nodes()


def test_death_of_an_important_plugin_in_the_hook_stops_the_node(lived: World, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(1))
    with pytest.raises(PluginDied):
        node.die_at(Moment.IN_HOOK, history.note(), Victim.PLUGIN)
    with lived.node() as node:  # which may have made the change again
        node.play(History(lived.version).notes(1))
    lived.assert_restored_equals_the_nodes()
