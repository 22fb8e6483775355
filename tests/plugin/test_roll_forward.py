"""Which changes a database lacks, and whether that is proven: the whole table, and any history of a log."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import MAX_ROLL_FORWARD
from backends.change import DATABASE_HEADER, VERSIONS, database_fingerprint
from backends.log.format.records import RECORD_MAGIC, Flag, RecordHeader, RecordKind
from backends.log.reader.last_changes import LastChanges, LoggedChange
from backends.sqlite.as_found import AsFound, Unclear
from backends.sqlite.source import DatabaseState
from plugin.at_start import WhyLeft
from plugin.missing_changes import MAX_SQL, SOON, Facts, missing_changes

TIME = 1_700_000_000


def header_at(version: int) -> bytes:
    """How the database file begins at this version."""
    return b"SQLite format 3\0" + version.to_bytes(DATABASE_HEADER - 16, "big")


def found(version: int, header: bytes | None = None, node_id: str | None = "02aa") -> AsFound:
    """A database at this version."""
    state = DatabaseState(version, node_id, is_lightningd=True, empty=False)
    return AsFound(state, header_at(version) if header is None else header)


EMPTY = AsFound(DatabaseState(None, None, is_lightningd=False, empty=True), b"")


def logged(version: int, database: int | None = None, *, advances: bool = True, size: int = 100) -> LoggedChange:
    """A change that led to this version, or a lone PRAGMA at it."""
    before = (version - 1) % VERSIONS if advances else version
    looked = database_fingerprint(header_at(before)) if database is None else database
    flags = Flag.ADVANCES if advances else 0
    header = RecordHeader(RECORD_MAGIC, RecordKind.CHANGE, flags, 50, size, version, 0, TIME, looked, 0, 0)
    return LoggedChange(header, 0, 64, 64, 0)


def log(*changes: LoggedChange, whole: bool = False) -> LastChanges:
    """A log that ends with these."""
    return LastChanges(99, 7, changes[-1].header.data_version, TIME, changes, whole)


FACTS = Facts(
    found=found(8),
    end=log(*(logged(version) for version in range(5, 11))),
    backup_id="b",
    expected_id="b",
    last_session="s",
    sessions=["r", "s"],
    same_directory=True,
    node_id="02aa",
    written=TIME + 1.0,
)
"""The database is two changes behind, and provably so."""


def versions(facts: Facts) -> list[int] | WhyLeft:
    """The versions of the missing changes, or why the database is left alone."""
    missing = missing_changes(facts)
    return missing if isinstance(missing, WhyLeft) else [change.header.data_version for change in missing]


TABLE: list[tuple[dict[str, Any], list[int] | WhyLeft]] = [
    ({}, [9, 10]),
    ({"found": found(9)}, [10]),
    ({"found": found(4)}, [5, 6, 7, 8, 9, 10]),
    ({"found": found(10)}, []),
    ({"found": found(10, b"anything")}, []),
    ({"found": found(11)}, []),
    ({"found": found(3)}, WhyLeft.TOO_FAR),
    ({"found": found(8, header_at(7))}, WhyLeft.OTHER_HISTORY),
    ({"found": found(8, b"")}, WhyLeft.OTHER_HISTORY),
    ({"node_id": None}, [9, 10]),
    ({"found": found(8, node_id=None)}, [9, 10]),
    ({"node_id": "02bb"}, WhyLeft.OTHER_NODE),
    ({"backup_id": "c"}, WhyLeft.OTHER_BACKUP),
    ({"last_session": "x"}, WhyLeft.OTHER_WRITER),
    ({"last_session": None}, WhyLeft.OTHER_WRITER),
    ({"sessions": None}, WhyLeft.OTHER_WRITER),
    ({"sessions": []}, WhyLeft.OTHER_WRITER),
    ({"same_directory": False}, WhyLeft.COPIED_DIRECTORY),
    ({"written": TIME + SOON + 1}, WhyLeft.TOUCHED),
    ({"written": 0.0}, [9, 10]),
    ({"end": log(logged(9, 0), logged(10))}, WhyLeft.NO_FINGERPRINT),
    ({"end": log(logged(9), logged(10, 0))}, [9, 10]),
    ({"end": log(logged(9, size=MAX_SQL), logged(10))}, WhyLeft.TOO_LARGE),
    ({"end": log(logged(8), logged(8, advances=False), logged(9), logged(9, advances=False))}, [9, 9]),
    ({"found": EMPTY, "end": log(logged(1, 1), logged(2), whole=True), "begins_empty": True}, [1, 2]),
    ({"found": EMPTY, "end": log(logged(1, 1), logged(2), whole=True)}, WhyLeft.EMPTY),
    ({"found": EMPTY, "end": log(logged(1, 1), logged(2)), "begins_empty": True}, WhyLeft.EMPTY),
    ({"found": EMPTY}, WhyLeft.TOO_FAR),
    ({"found": found(VERSIONS - 1), "end": log(logged(VERSIONS - 1), logged(0))}, [0]),
    ({"found": found(0), "end": log(logged(VERSIONS - 1))}, []),
]


@pytest.mark.parametrize(("facts", "expected"), TABLE)
def test_missing_changes_in_each_case_of_the_table(facts: dict[str, Any], expected: list[int] | WhyLeft) -> None:
    assert versions(replace(FACTS, **facts)) == expected


@pytest.mark.parametrize("unclear", Unclear)
def test_unreadable_database_is_left_alone(unclear: Unclear) -> None:
    assert missing_changes(replace(FACTS, found=unclear)) is WhyLeft[unclear.name]


@pytest.mark.parametrize("header", [b"\0" * 18 + b"\2\2" + b"\0" * 76, header_at(8)])
def test_unknown_fingerprint_proves_nothing(header: bytes) -> None:
    """Not even if both are unknown, as with a database in WAL mode."""
    end = log(logged(9, 0), logged(10, 0))
    assert missing_changes(replace(FACTS, found=found(8, header), end=end)) is WhyLeft.NO_FINGERPRINT


@given(
    st.integers(0, VERSIONS - 1),
    st.lists(st.booleans(), min_size=1, max_size=3 * MAX_ROLL_FORWARD),
    st.integers(0, MAX_ROLL_FORWARD),
)
def test_missing_changes_always_lead_to_the_end_of_the_log(start: int, kinds: list[bool], behind: int) -> None:
    """Any log of changes and lone PRAGMAs, and a database at any of its versions."""
    version, changes = start, []
    for advances in kinds:
        version = (version + advances) % VERSIONS
        changes.append(logged(version, advances=advances))
    at = (version - behind) % VERSIONS
    missing = missing_changes(replace(FACTS, found=found(at), end=log(*changes)))
    if behind > sum(kinds):
        assert missing is WhyLeft.TOO_FAR
        return
    assert not isinstance(missing, WhyLeft)
    assert sum(change.advances for change in missing) == behind
    assert list(missing) == changes[len(changes) - len(missing) :]
