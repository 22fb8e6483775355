"""A database that may not run, and calls that cannot be understood: refused, and nothing in the backup changes."""

import os
import shlex

import pytest

from tests.end_to_end.db_compare import differences, everything
from tests.end_to_end.refusal import assert_matches, refusal
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import Call, History, Node, Refused, Victim, transaction

# The database


def test_database_far_behind_is_refused_with_the_restore_command(world: World, history: History) -> None:
    world.init().run([history.first(), *history.notes(5)])
    old = world.database.read_bytes()
    world.run(history.notes(17))
    newest = everything(world.database)
    world.database.write_bytes(old)
    message = refusal(world, History(world.version).note())
    assert_matches(message, "at version 6 and its backup at 23: the database has lost 17 change.*backup-cli restore")
    assert everything(world.restore()) == newest


@pytest.mark.parametrize("stop", ["clean stop", "killed while idle"])
def test_old_copy_that_is_one_behind_is_brought_forward(lived: World, history: History, stop: str) -> None:
    """The node was seen to have committed the last change, and it is never given up."""
    old = lived.database.read_bytes()
    node = lived.node()
    node.start()
    node.play(history.notes(1))
    if stop == "clean stop":
        node.stop()
    else:
        node.wire.listen(3.0)
        node.die()
    newest = everything(lived.database)
    lived.database.write_bytes(old)
    with lived.node() as node:
        assert everything(lived.database) == newest
        node.play(History(lived.version).notes(1))
    lived.assert_restored_equals_the_nodes()


def test_lost_database_is_refused_and_the_printed_command_restores_it(taken_over: World) -> None:
    newest = everything(taken_over.database)
    taken_over.database.unlink()
    message = refusal(taken_over, History().first())
    assert_matches(message, "at version 0 and its backup at 12.*backup-cli restore")
    typed = shlex.split(message[message.index("backup-cli restore") :])
    assert backup_cli(*typed[1:]).code == 0, "the command of the message, as it stands"
    assert everything(taken_over.database) == newest
    taken_over.run(History(taken_over.version).notes(1))
    newest = everything(taken_over.database)
    assert everything(taken_over.restore()) == newest


@pytest.mark.parametrize("version", [(1 << 32) - 9, (1 << 32) - 70_000, 1 << 31])
def test_lost_database_whose_backup_is_at_a_huge_version_is_refused(world: World, version: int) -> None:
    """Counted modulo 2^32, an empty database must not look as if it were ahead of its backup."""
    history = History()
    world.run_without_plugin([history.first(), transaction_to(version)])
    world.init().run(History(version).notes(3))
    newest = everything(world.database)
    world.database.unlink()
    assert_matches(refusal(world, History().first()), "backup-cli restore")
    assert everything(world.restore()) == newest


def transaction_to(version: int) -> Call:
    """A call that jumps to this version. A real node would take many years to get there."""
    return Call(version, (f"UPDATE vars SET intval = {version} WHERE name = 'data_version'",))


def test_lost_database_without_a_version_column_is_refused(world: World) -> None:
    """An old node's backup is at version 0, as an empty database is: the empty one must not replace the backup."""
    world.run_without_plugin(
        [
            Call(
                0,
                (
                    "CREATE TABLE version (version INTEGER)",
                    "INSERT INTO version VALUES (60)",
                    "CREATE TABLE vars (name VARCHAR(32), val VARCHAR(255), PRIMARY KEY (name))",
                    "INSERT INTO vars VALUES ('next_pay_index', '7')",
                ),
            )
        ]
    )
    world.init()
    newest = everything(world.database)
    world.database.unlink()
    assert_matches(refusal(world, History().first()), "empty.*backup-cli restore")
    assert everything(world.restore()) == newest


def test_database_of_another_node_at_the_same_version_is_refused(taken_over: World, history: History) -> None:
    """The same version, but not the node whose backup this is."""
    set_id = "INSERT INTO vars (name, blobval) VALUES ('node_id', x'{}')"
    taken_over.run([history.transaction(set_id.format("02" * 33))])
    taken_over.run_without_plugin(
        [history.transaction("UPDATE vars SET blobval = x'" + "03" * 33 + "' WHERE name = 'node_id'")]
    )
    assert_matches(refusal(taken_over, history.note()), "belongs to the node 0303.*backup-cli init")


def test_database_that_is_not_the_file_in_the_directory_is_refused(lived: World) -> None:
    """`--wallet` names another file: the one in the directory is not lightningd's, and no snapshot of it may be
    taken."""
    node = lived.node()
    node.start()
    with pytest.raises(Refused, match=r"says its database is at version 9, but the file .* is at 6.*--wallet"):
        node.ask(transaction(10, "DELETE FROM db_upgrades"))
    assert lived.status()["data_version"] == 6
    lived.assert_restored_equals_the_nodes()


def test_right_database_put_back_after_a_refusal_goes_on(world: World, history: History) -> None:
    world.init().run([history.first(), *history.notes(5)])
    old = world.database.read_bytes()
    world.run(history.notes(17))
    right = world.database.read_bytes()
    world.database.write_bytes(old)
    refusal(world, History(world.version).note())
    world.database.write_bytes(right)
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


# What lightningd says


def test_postgresql_call_without_statements_is_refused_at_any_version(taken_over: World) -> None:
    """Its changes come without statements, whatever the version."""
    for version in (0, 1, taken_over.version, taken_over.version + 1):
        assert_matches(refusal(taken_over, Call(version, ())), "PostgreSQL.*Remove it from")


def test_postgresql_node_without_a_database_file_is_refused(world: World) -> None:
    world.init()
    assert_matches(refusal(world, Call(1, ())), "PostgreSQL.*Remove it from")


def test_unknown_pragma_is_refused(taken_over: World) -> None:
    call = Call(taken_over.version, ("PRAGMA secure_delete = ON;",))
    assert_matches(refusal(taken_over, call), "PRAGMA that this release does not know.*update lightningd-backup")


def test_statement_with_a_nul_byte_is_refused(taken_over: World, history: History) -> None:
    """SQLite could not execute it, so lightningd cannot have."""
    node = taken_over.node()
    node.start()
    version = taken_over.version
    with pytest.raises(Refused, match="NUL"):
        node.ask(transaction(version + 1, "INSERT INTO vars (name, val) VALUES ('a\0b', 'c')"))
    taken_over.run(history.notes(1))
    taken_over.assert_restored_equals_the_nodes()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"data_version": 13},
        {"writes": ["SELECT 1"]},
        {"data_version": "13", "writes": ["SELECT 1"]},
        {"data_version": 13, "writes": [1, 2]},
        {"data_version": 13, "writes": None},
        {"data_version": None, "writes": ["SELECT 1"]},
        {"data_version": -1, "writes": ["SELECT 1"]},
        {"data_version": 1 << 70, "writes": ["SELECT 1"]},
        {"data_version": 13, "writes": ["LONE"]},
    ],
    ids=str,
)
def test_call_with_malformed_parameters_never_gets_continue(
    taken_over: World, history: History, params: dict[str, object]
) -> None:
    """Anything but `continue` stops lightningd; a plugin that goes on afterwards must not say it either."""
    # A lone surrogate can be written in JSON, and in nothing else.
    node = taken_over.node(delivery=lambda data: [data.replace(b"LONE", b"\\ud800")])
    node.start()
    for _ in range(2):
        reply = node.wire.reply(node.wire.post("db_write", params))
        assert reply.get("result") != {"result": "continue"}
    node.die(Victim.NODE)
    taken_over.run(history.notes(1))
    taken_over.assert_restored_equals_the_nodes()


def test_calls_after_a_refusal_are_all_refused(taken_over: World, history: History) -> None:
    """lightningd stops at once; should it not, it does not get a `continue` for a later change."""
    (taken_over.directory / "backup.lock").rename(taken_over.directory / "away")
    node: Node = taken_over.node()
    node.start()
    for number in range(3):
        call = history.note()
        reply = node.wire.reply(node.post(call))
        assert reply["result"]["result"] == "fail", number
        (taken_over.directory / "away").touch()
    assert node.rpc("backup-status")["health"] == "refused"
    assert node.rpc("backup-compact")["started"] is False
    node.stop()


def test_garbage_in_sync_point_and_session_list_costs_one_snapshot_only(taken_over: World, history: History) -> None:
    """Garbage in them costs a snapshot, nothing else."""
    for name in ("backup.witness", "backup.session"):
        (taken_over.directory / name).write_bytes(os.urandom(99))
    node = taken_over.run(history.notes(2))
    assert [line for line in said_at(node, "unusual") if "new snapshot taken" in line]
    taken_over.assert_restored_equals_the_nodes()


def test_refused_call_leaves_a_backup_that_restores_exactly(taken_over: World, history: History) -> None:
    before = everything(taken_over.database)
    refusal(taken_over, Call(taken_over.version, ()))
    assert differences(taken_over.restore(), taken_over.database) == []
    assert everything(taken_over.database) == before
    taken_over.run(history.notes(1))
    taken_over.assert_restored_equals_the_nodes()
