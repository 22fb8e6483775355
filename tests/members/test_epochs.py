"""How an epoch is changed: what is written in which order, what its documents say, and who may not go on alone."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.log.format.members import MAX_HISTORY, Epoch, MembersDocument
from backends.members.epochs import Epochs, NeedNotMet
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote, read_members_note
from tests.members.seen import BACKUP, MEMBERS, OURS, THEIRS

NOTE = MembersNote(
    BACKUP, Epoch(5, OURS), ("stick", "nas"), sessions=(OURS, "new"), history={THEIRS: 3, OURS: 5}, adopted=1
)


class Published:
    """The members' documents, as they are written; those in `failing` cannot be."""

    def __init__(self, directory: Path, *failing: str) -> None:
        self.directory, self.failing = directory, failing
        self.documents: dict[str, MembersDocument] = {}
        self.intents: list[Epoch | None] = []

    def __call__(self, documents: Mapping[str, bytes]) -> Mapping[str, Exception]:
        note = read_members_note(self.directory)
        assert note is not None
        self.intents.append(note.intent)
        decoded = {name: MembersDocument.decode(data) for name, data in documents.items()}
        assert all(note.knows(document.epoch) for document in decoded.values())
        self.documents |= {name: document for name, document in decoded.items() if name not in self.failing}
        return {name: OSError("full") for name in documents if name in self.failing}


def epochs(directory: Path, note: MembersNote = NOTE, need: int = 1) -> Epochs:
    return Epochs(directory, Settings(MEMBERS[0].url, BACKUP, MEMBERS, need), note, "new")


def test_documents_of_a_new_epoch_have_the_node_s_history_with_their_own_session(tmp_path: Path) -> None:
    published = Published(tmp_path)
    assert epochs(tmp_path).change(("stick", "nas"), published, {}) == {}
    assert published.intents == [Epoch(6, "new")]
    for name in ("stick", "nas"):
        document = published.documents[name]
        assert (document.name, document.epoch) == (name, Epoch(6, "new"))
        assert (document.history, document.floor) == ({THEIRS: 3, OURS: 5, "new": 6}, 1)
    note = read_members_note(tmp_path)
    assert note is not None
    assert (note.epoch, note.intent, note.history["new"]) == (Epoch(6, "new"), None, 6)


def test_history_has_the_last_epoch_that_may_have_been_begun_where_members_failed_meanwhile(tmp_path: Path) -> None:
    """The member that failed may still carry it, and is to be overwritten once it is back."""
    published, changing = Published(tmp_path, "nas"), epochs(tmp_path)
    assert changing.change(("stick", "nas"), published, {}).keys() == {"nas"}
    assert (changing.note.epoch, changing.note.in_sync) == (Epoch(7, "new"), ("stick",))
    assert published.documents["stick"].leads_from(Epoch(6, "new"))
    assert changing.note.knows(Epoch(6, "new"))
    assert not changing.note.knows(Epoch(8, "new"))


def test_sessions_too_many_for_a_document_raise_its_floor(tmp_path: Path) -> None:
    history = {f"session {number}": number for number in reversed(range(1, MAX_HISTORY + 11))}
    note = MembersNote(BACKUP, Epoch(MAX_HISTORY + 10, "x"), ("stick",), history=history, adopted=1)
    document = MembersDocument.decode(epochs(tmp_path, note).current_document("stick").encode())
    assert len(document.history) == MAX_HISTORY
    assert document.floor == 10
    assert all(document.leads_from(Epoch(number, session)) for session, number in history.items())
    assert not document.leads_from(Epoch(11, "another node's session"))


@pytest.mark.parametrize("in_sync", [("disk",), ("disk", "nas")])
def test_change_without_any_member_of_the_last_done_epoch_is_refused(tmp_path: Path, in_sync: tuple[str, ...]) -> None:
    """Another node may have taken over all of those while this one only began to join others."""
    note = MembersNote(BACKUP, Epoch(5, OURS), ("stick",), Epoch(6, OURS), history={OURS: 6})
    published, changing = Published(tmp_path), epochs(tmp_path, note)
    with pytest.raises(BackupError, match=r"had only begun to join.*What was saved until now is safe; stop") as caught:
        changing.change(in_sync, published, {})
    assert not isinstance(caught.value, NeedNotMet)
    assert (published.intents, changing.note) == ([], note)


def test_change_is_refused_once_the_last_member_of_the_done_epoch_fails_in_it(tmp_path: Path) -> None:
    published = Published(tmp_path, "stick", "nas")
    with pytest.raises(BackupError, match="disk had only begun to join"):
        epochs(tmp_path).change(("stick", "nas", "disk"), published, {})
    assert published.intents == [Epoch(6, "new")]
    note = read_members_note(tmp_path)
    assert note is not None
    assert (note.epoch, note.intent) == (NOTE.epoch, Epoch(6, "new"))


def test_change_of_no_member_at_all_does_not_meet_the_need(tmp_path: Path) -> None:
    with pytest.raises(NeedNotMet):
        epochs(tmp_path).change((), Published(tmp_path), {})


def test_change_without_any_member_of_the_last_done_epoch_begins_once_where_a_person_gave_them_up(
    tmp_path: Path,
) -> None:
    published, changing = Published(tmp_path), epochs(tmp_path)
    changing.goes_on_from = ("disk",)
    assert changing.change(("disk",), published, {}) == {}
    assert changing.note.in_sync == ("disk",)
    with pytest.raises(BackupError, match="nas had only begun to join"):
        changing.change(("nas",), published, {})
    changing.change(("disk", "nas"), published, {})
    changing.change(("nas",), published, {})
    with pytest.raises(BackupError, match="disk had only begun to join"):
        changing.change(("disk",), published, {})
