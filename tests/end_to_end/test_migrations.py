"""Migrations with their lone PRAGMAs, and transactions so large that a killed node leaves a hot journal."""

from functools import partial

import pytest

from tests.end_to_end.crash import Death, Life
from tests.end_to_end.world import World, snapshots_taken
from tests.fake_lightningd import Call, History, Moment, SeparateDatabase, Victim, contents, has_hot_journal

moments = pytest.mark.parametrize("moment", Moment)
victims = pytest.mark.parametrize("victim", Victim)


def migration(history: History) -> list[Call]:
    """As lightningd does it when it drops a column: children must survive the DROP of their parents' table."""
    return [
        history.transaction(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY, old TEXT, kept TEXT)",
            "CREATE TABLE children (id INTEGER PRIMARY KEY, parent REFERENCES parents(id) ON DELETE CASCADE)",
            "INSERT INTO parents VALUES (1, 'x', 'one'), (2, 'y', 'two')",
            "INSERT INTO children (parent) VALUES (1), (1), (2)",
        ),
        history.foreign_keys(on=False),
        history.transaction(
            "CREATE TABLE parents_new (id INTEGER PRIMARY KEY, kept TEXT)",
            "INSERT INTO parents_new SELECT id, kept FROM parents",
            "DROP TABLE parents",
            "ALTER TABLE parents_new RENAME TO parents",
        ),
        history.foreign_keys(on=True),
        history.transaction("DELETE FROM parents WHERE id = 1"),
    ]


@moments
@victims
def test_death_in_each_call_of_a_migration_loses_no_row(
    lived: World, history: History, moment: Moment, victim: Victim
) -> None:
    life = Life(lived)
    life.play(migration(history), {number: Death(moment, victim, delay=0.0005) for number in range(1, 6)})
    life.play(history.notes(2))
    life.stop()
    restored = contents(lived.assert_restored_equals_the_nodes())
    assert len(restored["children"]) == 1  # the cascade of the last transaction, and no other


def test_restart_after_a_death_with_foreign_keys_off_has_them_on_in_the_backup(lived: World, history: History) -> None:
    """The node's connection forgets the PRAGMA: a DELETE after that cascades, in the backup as in the database."""
    first, off, *_ = migration(history)
    life = Life(lived)
    life.play([first, off])
    life.node.die()
    lived.run([History(lived.version).transaction("DELETE FROM parents")])
    assert contents(lived.assert_restored_equals_the_nodes())["children"] == []


def test_restart_after_a_clean_stop_with_foreign_keys_off_has_them_on_in_the_backup(
    lived: World, history: History
) -> None:
    """A clean stop, without a snapshot in between that would hide a mistake."""
    first, off, *_ = migration(history)
    lived.run([first, off])
    node = lived.run([History(lived.version).transaction("DELETE FROM parents")])
    assert snapshots_taken(node) == []
    assert contents(lived.assert_restored_equals_the_nodes())["children"] == []


# Hot journals


small_cache = partial(SeparateDatabase, cache_pages=10)


@moments
def test_node_killed_with_a_hot_journal_goes_on(lived: World, history: History, moment: Moment) -> None:
    big, small = history.big(), history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'")
    node = lived.node(database=small_cache)
    node.start()
    node.play([big])
    node.die_at(moment, small, delay=0.002)
    assert has_hot_journal(lived.directory)
    go_on(lived, [small, *history.notes(2)])
    lived.assert_restored_equals_the_nodes()


def test_hot_journal_twice_in_a_row_is_rolled_forward_each_time(lived: World, history: History) -> None:
    """The database is one behind each time, and is brought forward before lightningd locks it."""
    lived.run([history.big()])
    for value in range(2):
        node = lived.node(database=small_cache)
        node.start()
        change = f"UPDATE vars SET blobval = x'0{value}' WHERE substr(name, 1, 3) = 'big'"
        node.die_at(Moment.BEFORE_COMMIT, History(lived.version).transaction(change))
    with lived.node(database=small_cache) as node:
        assert lived.version == history.version + 2
        node.play(History(lived.version).notes(2))
    assert snapshots_taken(node) == []
    lived.assert_restored_equals_the_nodes()


def go_on(world: World, calls: list[Call]) -> None:
    """Make these calls, except those that the plugin replayed before the node opened its database."""
    with world.node() as node:
        node.play([call for call in calls if call.data_version > world.version])


def test_first_transaction_that_locks_the_database_still_gets_its_snapshot(lived: World, history: History) -> None:
    """lightningd locks its database as soon as its cache overflows; the plugin has copied it before that."""
    lived.run([history.big()])
    lived.run_without_plugin(history.notes(1))
    large = history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'")
    node = lived.run([large, *history.notes(1)], database=small_cache)
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()
