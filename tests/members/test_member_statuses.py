"""What is said of each member, from backup.lock, the node's note and what the members say."""

from dataclasses import replace

import pytest

from backends.base import Position
from backends.errors import Damaged
from backends.log.format.members import Epoch, Member, MembersDocument, OutOfSync
from backends.log.member_status import MemberState, MemberStatus
from backends.members.member_statuses import MAX_LAG, Found, ReadAlone, member_statuses
from backends.members.newest import Diverged, SeenMember
from backends.members.survey import Absence, Survey
from backends.node.members_note import MembersNote
from tests.log.statuses import FINE

ID = "ab" * 16
NAS, USB, FAR = Member("nas", "file:///nas"), Member("usb", "usb://usb/b"), Member("far", "nfs://far/b", trailing=True)
ALL = (NAS, USB, FAR)
OUT = OutOfSync(1_700_000_000, "No space left on device")


def seen(
    name: str,
    sequence: int | None,
    *,
    epoch: int = 1,
    in_sync: tuple[str, ...] = ("nas", "usb"),
    out: dict[str, OutOfSync] | None = None,
    time: int = 1000,
    session: str = "s",
) -> SeenMember:
    document = MembersDocument(ID, name, Epoch(epoch, session), in_sync, ALL, 1, out or {}, {session: epoch})
    end = None if sequence is None else Position(sequence, sequence, 7, time)
    return SeenMember(name, document, end, "" if end else "it is damaged: a hole in segment-000001 at byte 12")


def found(
    *members: SeenMember,
    missing: dict[str, tuple[str, Absence]] | None = None,
    note: MembersNote | None = None,
    alone: dict[str, ReadAlone] | None = None,
) -> Found:
    missing = missing or {}
    clauses = {name: why for name, (why, _) in missing.items()}
    survey = Survey(members, clauses, {name: absence for name, (_, absence) in missing.items()})
    asked = {*missing, *(member.name for member in members)}
    return Found(tuple(member for member in ALL if member.name in asked), survey, note, alone or {})


def statuses(what: Found) -> dict[str, MemberStatus]:
    return {status.name: status for status in member_statuses(what)}


def test_members_of_the_newest_epoch_are_in_sync_without_a_lag() -> None:
    """One is asked a moment later than the other, while the node goes on: that is no lag."""
    said = statuses(found(seen("nas", 7, time=10), seen("usb", 9, time=20)))
    assert {member.state for member in said.values()} == {MemberState.IN_SYNC}
    assert {(member.lag_changes, member.lag_seconds) for member in said.values()} == {(0, 0.0)}


def test_trailing_member_lags_in_changes_and_in_the_time_of_its_last_record() -> None:
    far = statuses(found(seen("nas", 12, time=500), seen("usb", 12, time=500), seen("far", 5, time=430)))["far"]
    assert (far.state, far.trailing, far.lag_changes, far.lag_seconds) == (MemberState.TRAILING, True, 7, 70.0)


def test_trailing_member_with_the_newest_change_does_not_lag_whatever_its_clock_says() -> None:
    far = statuses(found(seen("nas", 12, time=500), seen("far", 12, time=430)))["far"]
    assert (far.lag_changes, far.lag_seconds) == (0, 0.0)


def test_member_out_of_sync_says_since_when_why_and_its_lag() -> None:
    newest = seen("nas", 20, epoch=2, in_sync=("nas",), out={"usb": OUT}, time=900)
    usb = statuses(found(newest, seen("usb", 8, time=300)))["usb"]
    assert usb.state is MemberState.OUT_OF_SYNC
    assert (usb.since, usb.why) == (OUT.since, OUT.why)
    assert (usb.lag_changes, usb.lag_seconds) == (12, 600.0)


def test_log_of_a_member_out_of_sync_that_is_longer_has_no_negative_lag() -> None:
    """What it has beyond the others was never acknowledged."""
    newest = seen("nas", 20, epoch=2, in_sync=("nas",), out={"usb": OUT})
    assert statuses(found(newest, seen("usb", 21)))["usb"].lag_changes == 0


def test_lag_to_a_log_begun_anew_after_damage_is_not_counted_in_changes() -> None:
    newest = seen("nas", 20 + (1 << 32), epoch=2, in_sync=("nas",), out={"usb": OUT}, time=900)
    usb = statuses(found(newest, seen("usb", 20, time=300)))["usb"]
    assert (usb.lag_changes, usb.lag_seconds) == (None, 600.0)
    assert MAX_LAG < 1 << 32


def test_lag_to_a_member_without_the_time_of_its_last_record_has_no_seconds() -> None:
    newest = seen("nas", 20, epoch=2, in_sync=("nas",), out={"usb": OUT}, time=900)
    usb = statuses(found(newest, seen("usb", 0, time=0)))["usb"]
    assert (usb.lag_changes, usb.lag_seconds) == (20, None)


def test_lag_is_unknown_if_no_member_in_sync_can_be_read() -> None:
    away = {"nas": ("not mounted", Absence.UNREACHABLE)}
    newest = seen("far", 20, epoch=2, in_sync=("nas",), out={"usb": OUT})
    said = statuses(found(newest, seen("usb", 8), missing=away))
    assert (said["usb"].lag_changes, said["far"].lag_changes) == (None, None)


def test_old_copy_of_a_member_is_out_of_sync_although_its_epoch_had_it_in_sync() -> None:
    usb = statuses(found(seen("nas", 20, epoch=5), seen("usb", 8, epoch=3)))["usb"]
    assert usb.state is MemberState.OUT_OF_SYNC
    assert "it is of epoch 3, and the newest is 5: it may be an older copy of itself" in usb.why


def test_newer_epoch_in_the_nodes_note_counts_more_than_the_members() -> None:
    """All members that are there may be old copies; only the node's own side knows."""
    note = MembersNote(ID, Epoch(7, "s"), ("usb",), out={"nas": OUT})
    said = statuses(found(seen("nas", 20, epoch=5), missing={"usb": ("gone", Absence.UNREACHABLE)}, note=note))
    assert (said["nas"].state, said["nas"].why) == (MemberState.OUT_OF_SYNC, OUT.why)
    assert said["usb"].why == "gone; when it was last heard of, it was in sync"


def test_note_of_the_node_about_another_backup_counts_nothing() -> None:
    note = MembersNote("cd" * 16, Epoch(7, "s"), ("usb",))
    assert statuses(found(seen("nas", 20), note=note))["nas"].state is MemberState.IN_SYNC


@pytest.mark.parametrize("absence", list(Absence))
def test_absent_member_is_unreachable_or_proved_to_hold_something_else(absence: Absence) -> None:
    usb = statuses(found(seen("nas", 20), missing={"usb": ("the reason", absence)}))["usb"]
    unknown = absence in (Absence.NO_ANSWER, Absence.UNREACHABLE, Absence.LATER_RELEASE)
    assert usb.state is (MemberState.UNREACHABLE if unknown else MemberState.OUT_OF_SYNC)
    assert usb.why.startswith("the reason; when it was last heard of, it was in sync")
    assert (usb.lag_changes, usb.free_bytes) == (None, None)


def test_absent_member_that_was_out_of_sync_keeps_since_when_and_why() -> None:
    newest = seen("nas", 20, epoch=2, in_sync=("nas",), out={"usb": OUT})
    usb = statuses(found(newest, missing={"usb": ("not plugged in", Absence.UNREACHABLE)}))["usb"]
    assert usb.since == OUT.since
    assert usb.why == "not plugged in; it was out of sync before (No space left on device)"
    again = statuses(found(newest, missing={"usb": (OUT.why, Absence.UNREACHABLE)}))["usb"]
    assert again.why == "No space left on device; it was out of sync before for the same reason"


def test_members_of_which_none_was_seen_are_unreachable() -> None:
    away = {name: ("gone", Absence.NO_ANSWER) for name in ("nas", "usb")}
    assert {each.state for each in member_statuses(found(missing=away))} == {MemberState.UNREACHABLE}


def test_member_with_a_damaged_end_is_out_of_sync_and_tells_how_to_repair_it() -> None:
    usb = statuses(found(seen("nas", 20), seen("usb", None)))["usb"]
    assert usb.state is MemberState.OUT_OF_SYNC
    assert usb.why == (
        "it is damaged: a hole in segment-000001 at byte 12; to repair it from another member, run: backup-cli verify "
        "--repair"
    )


def test_member_damaged_in_the_middle_of_its_log_is_out_of_sync() -> None:
    rotten = ReadAlone(damage=Damaged("a checksum", "segment-000002", 99))
    said = statuses(found(seen("nas", 20), seen("usb", 20), alone={"usb": rotten}))
    assert said["nas"].state is MemberState.IN_SYNC
    assert said["usb"].state is MemberState.OUT_OF_SYNC
    assert said["usb"].why.startswith("it is damaged: a checksum in segment-000002 at byte 99; ")


def test_trailing_member_that_is_damaged_is_not_called_trailing_only() -> None:
    assert statuses(found(seen("nas", 20), seen("far", None)))["far"].state is MemberState.OUT_OF_SYNC


def test_member_that_was_read_shows_its_space_and_what_is_stored() -> None:
    read = ReadAlone(replace(FINE, snapshot_bytes=100, segment_bytes=23, free_bytes=5, total_bytes=9))
    nas = statuses(found(seen("nas", 20), alone={"nas": read}))["nas"]
    assert (nas.stored_bytes, nas.free_bytes, nas.total_bytes, nas.latency) == (123, 5, 9, None)


def test_two_histories_are_reported_and_no_state_is_made_up() -> None:
    with pytest.raises(Diverged):
        member_statuses(found(seen("nas", 20, session="one"), seen("usb", 20, session="two")))


def test_member_that_is_being_filled_for_the_first_time_is_not_called_damaged() -> None:
    """From a real run: status advised `verify --repair` for a member that had just been added."""
    said = statuses(found(seen("nas", 7), seen("usb", None, epoch=0, session="", in_sync=())))
    assert (said["usb"].state, said["usb"].why) == (MemberState.OUT_OF_SYNC, "it is being filled for the first time")
