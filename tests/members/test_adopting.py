"""Going on from what a member says: its epoch and all that lead to it become the node's own history, and no other."""

from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.format.members import MEMBERS, Epoch, MembersDocument, OutOfSync
from backends.members.adopting import adopted, first_epoch, note_of
from backends.node.members_note import MembersNote
from backends.storage.local import LocalStorage
from tests.members.seen import BACKUP, OURS, THEIRS
from tests.members.seen import MEMBERS as CONFIGURED

DOCUMENT = MembersDocument(
    BACKUP,
    "nas",
    Epoch(7, THEIRS),
    ("nas",),
    CONFIGURED,
    1,
    {"stick": OutOfSync(1_764_000_000, "it was unplugged")},
    {OURS: 4, THEIRS: 7},
    2,
)


def known(note: MembersNote, session: str) -> int:
    """The last epoch of this session that the node knows."""
    return max(number for number in range(20) if note.knows(Epoch(number, session)))


def test_restored_node_knows_what_led_to_its_document_and_nothing_else() -> None:
    note = note_of(DOCUMENT)
    assert (note.epoch, note.in_sync, note.intent) == (Epoch(7, THEIRS), ("nas",), None)
    assert note.out == DOCUMENT.out
    assert [known(note, session) for session in (THEIRS, OURS, "another")] == [7, 4, 2]


def test_epoch_of_a_document_without_history_is_adopted() -> None:
    note = note_of(MembersDocument(BACKUP, "nas", Epoch(7, THEIRS), ("nas",), CONFIGURED, 1))
    assert [known(note, session) for session in (THEIRS, OURS)] == [7, 0]


def test_adopting_keeps_sessions_mounts_and_history_of_the_node_and_forgets_its_intent() -> None:
    before = MembersNote(
        BACKUP,
        Epoch(5, OURS),
        ("stick",),
        Epoch(6, OURS),
        sessions=(OURS,),
        history={"long ago": 3, OURS: 6},
        adopted=1,
        mounts={"stick": "/mnt/stick"},
    )
    note = adopted(before, DOCUMENT)
    assert (note.epoch, note.in_sync, note.intent) == (Epoch(7, THEIRS), ("nas",), None)
    assert (note.sessions, note.mounts) == ((OURS,), {"stick": "/mnt/stick"})
    assert [known(note, session) for session in (THEIRS, "long ago", "another")] == [7, 3, 2]


def test_first_epoch_of_several_members_is_above_what_a_killed_attempt_has_left(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert first_epoch(storage) == Epoch(1, "")
    storage.publish(MEMBERS, DOCUMENT.encode())
    assert first_epoch(storage) == Epoch(8, "")
    storage.publish(MEMBERS, b"senseless")
    with pytest.raises(Damaged):
        first_epoch(storage)
