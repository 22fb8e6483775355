"""What a node remembers of its backup, held against where the backup ends."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Standing
from backends.node.memory import Memory, judge, note_beginning
from backends.node.sync_point import LogEnd, Witness, read_witness, write_witness

NOTE = Witness("b" * 32, 5, 50, 555, None, None)
"""The node had change 5 acknowledged."""

END = Standing(50, 5, 555)
ANEW = Standing(50, 5, 999)
"""A generation that begins where change 5 was."""


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (END, Memory.AGREES),
        (Standing(51, 6, 1), Memory.AGREES),
        (Standing(49, 4, 1), Memory.OLDER),
        (ANEW, Memory.REWRITTEN),
        (Standing(51, 5, 555), Memory.REWRITTEN),
    ],
)
def test_end_of_the_log_against_the_last_change_acknowledged(end: Standing, verdict: Memory) -> None:
    assert judge(NOTE, end, "session").verdict is verdict


def test_log_that_goes_on_after_a_session_that_has_ended_is_foreign() -> None:
    ended = replace(NOTE, written=LogEnd("session", 5, 50, 555))
    assert judge(ended, Standing(51, 6, 1), "session").verdict is Memory.FOREIGN
    assert judge(ended, Standing(51, 6, 1), "a later session").verdict is Memory.AGREES


def noted(directory: Path, note: Witness, *generations: tuple[Standing, Standing]) -> Witness:
    write_witness(directory, note)
    for before, begins in generations:
        note_beginning(directory, note.backup_id, before, begins)
    after = read_witness(directory)
    assert after is not None
    return after


def test_generation_that_was_announced_agrees_published_or_not(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW))
    assert judge(note, END, None).verdict is Memory.AGREES
    assert judge(note, ANEW, None).verdict is Memory.AGREES
    assert judge(note, Standing(50, 5, 998), None).verdict is Memory.REWRITTEN
    assert judge(note, Standing(49, 4, 999), None).verdict is Memory.OLDER


def test_second_generation_without_a_change_between_agrees_published_or_not(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW), (ANEW, Standing(50, 5, 111)))
    assert judge(note, ANEW, None).verdict is Memory.AGREES
    assert judge(note, Standing(50, 5, 111), None).verdict is Memory.AGREES
    assert judge(note, END, None).verdict is Memory.REWRITTEN  # it was replaced


def test_second_generation_after_one_that_was_never_published(tmp_path: Path) -> None:
    note = noted(tmp_path, NOTE, (END, ANEW), (END, Standing(50, 5, 111)))
    assert judge(note, END, None).verdict is Memory.AGREES
    assert judge(note, Standing(50, 5, 111), None).verdict is Memory.AGREES
    assert judge(note, ANEW, None).verdict is Memory.REWRITTEN


def test_beginning_of_long_ago_counts_for_nothing(tmp_path: Path) -> None:
    note = replace(noted(tmp_path, NOTE, (END, ANEW)), sequence=9, data_version=54)
    assert judge(note, ANEW, None).verdict is Memory.OLDER


def test_nothing_is_noted_of_another_backup(tmp_path: Path) -> None:
    write_witness(tmp_path, NOTE)
    note_beginning(tmp_path, "c" * 32, END, ANEW)
    assert read_witness(tmp_path) == NOTE
