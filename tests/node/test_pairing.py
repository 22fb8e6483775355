"""Whether a node's database or its backup is newer, and whose backup it is: every case of the decision."""

import pytest

from backends.base import MAX_ROLL_FORWARD, LastWriter
from backends.change import VERSIONS
from backends.node.pairing import (
    BackupEnd,
    Found,
    Identity,
    NextStart,
    NodeDatabase,
    Pairing,
    Relation,
    pair,
)

OURS = LastWriter("ours", "here", 1, 0, True)


def backup(
    version: int, *, empty: bool = False, node: str | None = None, writer: LastWriter | None = OURS
) -> BackupEnd:
    return BackupEnd("id", node, version, empty, False, 0, writer)


def paired(database: NodeDatabase, end: BackupEnd, sessions: list[str] | None = ["ours"]) -> Pairing:  # noqa: B006
    return pair(database, end, "id", sessions)


def at(version: int) -> NodeDatabase:
    return NodeDatabase(Found.VERSION, version, "node")


NOTHING, NO_VERSION = NodeDatabase(Found.NOTHING), NodeDatabase(Found.NO_VERSION)


@pytest.mark.parametrize(
    ("database", "end", "relation", "distance"),
    [
        (at(5), backup(5), Relation.EQUAL, 0),
        (at(7), backup(5), Relation.AHEAD, 2),
        (at(5), backup(7), Relation.BEHIND, -2),
        (at(0), backup(VERSIONS - 1), Relation.AHEAD, 1),
        (at(VERSIONS - 1), backup(1), Relation.BEHIND, -2),
        (at(0), backup(3_000_000_000), Relation.BEHIND, -3_000_000_000),
        (at(5), backup(0, empty=True), Relation.AHEAD, 5),
        (at(0), backup(0, empty=True), Relation.AHEAD, 1),
        (NOTHING, backup(0, empty=True), Relation.BOTH_EMPTY, 0),
        (NOTHING, backup(5), Relation.NO_DATABASE, -5),
        (NOTHING, backup(0), Relation.NO_DATABASE, 0),
        (NO_VERSION, backup(0), Relation.NO_VERSION, 0),
        (NO_VERSION, backup(5), Relation.BEHIND, -5),
        (NO_VERSION, backup(0, empty=True), Relation.AHEAD, 1),
        (NodeDatabase(Found.CORRUPT), backup(5), Relation.CORRUPT, 0),
        (NodeDatabase(Found.UNREADABLE), backup(5), Relation.UNREADABLE, 0),
        (NodeDatabase(Found.IN_USE), backup(5), Relation.RUNNING, 0),
    ],
)
def test_relation_and_distance_of_database_to_backup(
    database: NodeDatabase, end: BackupEnd, relation: Relation, distance: int
) -> None:
    found = paired(database, end)
    assert (found.relation, found.distance) == (relation, distance)


@pytest.mark.parametrize(
    ("expected", "node", "sessions", "identity"),
    [
        ("id", None, ["ours"], Identity.OURS),
        (None, "node", None, Identity.OURS),
        ("another", None, ["ours"], Identity.OTHER_BACKUP),
        ("id", "another", ["ours"], Identity.OTHER_NODE),
        ("id", "node", ["former"], Identity.TAKEN_OVER),
        ("id", "node", [], Identity.TAKEN_OVER),
    ],
)
def test_identity_of_backup_and_refusal_of_any_but_ours(
    expected: str | None, node: str | None, sessions: list[str] | None, identity: Identity
) -> None:
    found = pair(at(5), backup(5, node=node), expected, sessions)
    assert found.identity is identity
    if identity is not Identity.OURS:
        assert found.next_start(lambda: True) is NextStart.REFUSE
        assert not found.database_surely_newest


@pytest.mark.parametrize(
    ("lost", "proved", "sessions", "start"),
    [
        (1, True, ["ours"], NextStart.ROLL_FORWARD),
        (MAX_ROLL_FORWARD, True, ["ours"], NextStart.ROLL_FORWARD),
        (MAX_ROLL_FORWARD + 1, True, ["ours"], NextStart.REFUSE),
        (1, False, ["ours"], NextStart.REFUSE),
        (1, True, None, NextStart.REFUSE),
    ],
)
def test_next_start_rolls_forward_a_few_proved_changes_and_refuses_more(
    lost: int, proved: bool, sessions: list[str] | None, start: NextStart
) -> None:
    assert paired(at(100), backup(100 + lost), sessions).next_start(lambda: proved) is start


@pytest.mark.parametrize(
    ("database", "end", "may_replace_backup", "may_be_replaced"),
    [
        (at(5), backup(5), True, True),
        (at(6), backup(5), True, False),
        (at(5), backup(6), False, True),
        (NOTHING, backup(5), False, True),
        (NOTHING, backup(0, empty=True), True, True),
        (NO_VERSION, backup(0), False, False),
        (NodeDatabase(Found.CORRUPT), backup(5), False, False),
        (NodeDatabase(Found.UNREADABLE), backup(5), False, False),
        (NodeDatabase(Found.IN_USE), backup(5), False, False),
        (at(5), backup(6, node="another"), False, False),
    ],
)
def test_database_or_backup_replaces_the_other_unasked_only_when_surely_newest(
    database: NodeDatabase, end: BackupEnd, may_replace_backup: bool, may_be_replaced: bool
) -> None:
    found = paired(database, end)
    assert found.database_surely_newest is may_replace_backup
    assert found.backup_surely_newest is may_be_replaced
