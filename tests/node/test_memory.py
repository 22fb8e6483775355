"""What a node remembers of its backup, compared with where the backup ends."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Position
from backends.node.memory import Memory, judge, record_beginning
from backends.node.sync_point import SavedEnd, SyncPoint, read_sync_point, write_sync_point

NOTE = SyncPoint("b" * 32, 5, 50, 555, None, None)
"""The node's note that change 5 was acknowledged."""

END = Position(50, 5, 555)
ANEW = Position(50, 5, 999)
"""The position of a new generation that begins after change 5."""


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (END, Memory.AGREES),
        (Position(51, 6, 1), Memory.AGREES),
        (Position(49, 4, 1), Memory.OLDER),
        (ANEW, Memory.REWRITTEN),
        (Position(51, 5, 555), Memory.REWRITTEN),
    ],
)
def test_end_of_log_is_judged_against_last_acknowledged_change(end: Position, verdict: Memory) -> None:
    assert judge(NOTE, end, "session").verdict is verdict


def test_log_continued_after_an_ended_session_is_foreign() -> None:
    ended = replace(NOTE, written=SavedEnd("session", 5, 50, 555))
    assert judge(ended, Position(51, 6, 1), "session").verdict is Memory.FOREIGN
    assert judge(ended, Position(51, 6, 1), "a later session").verdict is Memory.AGREES


def noted(directory: Path, note: SyncPoint, *generations: tuple[Position, Position]) -> SyncPoint:
    write_sync_point(directory, note)
    for before, begins in generations:
        record_beginning(directory, note.backup_id, before, begins)
    after = read_sync_point(directory)
    assert after is not None
    return after


def test_announced_generation_agrees_whether_published_or_not(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW))
    assert judge(note, END, None).verdict is Memory.AGREES
    assert judge(note, ANEW, None).verdict is Memory.AGREES
    assert judge(note, Position(50, 5, 998), None).verdict is Memory.REWRITTEN
    assert judge(note, Position(49, 4, 999), None).verdict is Memory.OLDER


def test_second_announced_generation_agrees_whether_published_or_not(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW), (ANEW, Position(50, 5, 111)))
    assert judge(note, ANEW, None).verdict is Memory.AGREES
    assert judge(note, Position(50, 5, 111), None).verdict is Memory.AGREES
    assert judge(note, END, None).verdict is Memory.REWRITTEN  # it was replaced


def test_generation_never_published_is_rewritten_once_a_second_is_announced(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW), (END, Position(50, 5, 111)))
    assert judge(note, END, None).verdict is Memory.AGREES
    assert judge(note, Position(50, 5, 111), None).verdict is Memory.AGREES
    assert judge(note, ANEW, None).verdict is Memory.REWRITTEN


def test_generation_announced_before_newer_changes_is_older(tmp_path: Path) -> None:
    note = replace(noted(tmp_path, NOTE, (END, ANEW)), sequence=9, data_version=54)
    assert judge(note, ANEW, None).verdict is Memory.OLDER


def test_generation_of_another_backup_is_not_noted(tmp_path: Path) -> None:
    write_sync_point(tmp_path, NOTE)
    record_beginning(tmp_path, "c" * 32, END, ANEW)
    assert read_sync_point(tmp_path) == NOTE
