"""What each member of a backup with several destinations adds to its status."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import SPACE_WANTED, Trouble, TroubleKind
from backends.log.status_of_members import is_need_not_met_soon, listed, with_members
from backends.times import moment
from tests.log.statuses import FINE

NAS = MemberStatus("nas", "file:///nas", MemberState.IN_SYNC, free_bytes=1 << 40, total_bytes=1 << 41)
USB = MemberStatus("usb", "usb://usb/b", MemberState.IN_SYNC, free_bytes=1 << 39, total_bytes=1 << 40)
FAR = MemberStatus("far", "nfs://far/b", MemberState.TRAILING, lag_changes=4, lag_seconds=9.0, trailing=True)
SINCE = 1_700_000_000
AWAY = replace(USB, state=MemberState.OUT_OF_SYNC, since=SINCE, why="No space left on device")


def kinds(members: Sequence[MemberStatus], need: int = 1) -> list[TroubleKind]:
    return [trouble.kind for trouble in with_members(FINE, members, need, 4).troubles]


def sentences(members: Sequence[MemberStatus], need: int = 1) -> list[str]:
    return [trouble.sentence for trouble in with_members(FINE, members, need, 4).troubles]


def test_status_of_one_destination_says_nothing_about_members() -> None:
    document = FINE.as_json()
    assert not {"members", "need", "epoch"} & set(document)
    assert list(document) == [
        *("health", "url", "backup_id", "node_id", "data_version", "last_change", "records", "generation"),
        *("generation_begun", "generation_reason", "last_compaction", "snapshot_bytes", "segment_bytes"),
        *("free_bytes", "total_bytes", "damaged", "troubles", "known_damage", "encrypted", "key_id"),
        *("key_slots", "key_slots_damaged", "history_generations", "history_bytes", "history_oldest", "trouble_kinds"),
    ]


def test_status_of_several_destinations_lists_them_in_json() -> None:
    document = json.loads(json.dumps(with_members(FINE, [NAS, FAR], 1, 4).as_json()))
    assert (document["health"], document["need"], document["epoch"]) == ("ok", 1, 4)
    assert document["members"][0]["state"] == "in_sync"
    assert document["members"][1] == {
        **{"name": "far", "url": "nfs://far/b", "state": "trailing", "since": None, "why": ""},
        **{"lag_changes": 4, "lag_seconds": 9.0, "free_bytes": None, "total_bytes": None, "stored_bytes": None},
        **{"latency": None, "trailing": True},
    }


def test_status_with_every_member_in_sync_is_ok() -> None:
    assert with_members(FINE, [NAS, USB, FAR], 1, 4).health == "ok"


def test_member_out_of_sync_degrades_and_tells_since_when_why_and_what_to_do() -> None:
    status = with_members(FINE, [NAS, replace(USB, name="disk"), AWAY], 1, 4)
    assert status.health == "degraded"
    (trouble,) = status.troubles
    assert trouble == Trouble(
        TroubleKind.MEMBER_OUT_OF_SYNC,
        f"usb has been out of sync since {moment(SINCE, '%a %Y-%m-%d %H:%M')} (No space left on device). It may lack "
        "the newest changes, which nas and disk hold. Plug it in, mount it, or free some space there, whichever it "
        "needs; the running node then brings it up to date by itself",
    )


def test_member_out_of_sync_since_an_unknown_time_is_named_without_one() -> None:
    (first, _) = sentences([NAS, replace(AWAY, since=None, why="")])
    assert first.startswith("usb is out of sync. It may lack the newest changes, which nas holds. ")


def test_member_that_is_catching_up_degrades_and_needs_nothing_to_be_done() -> None:
    catching_up = replace(AWAY, state=MemberState.CATCHING_UP, lag_changes=1)
    assert kinds([NAS, catching_up]) == [TroubleKind.MEMBER_OUT_OF_SYNC, TroubleKind.NEED_NOT_MET_SOON]
    assert "bringing it up to date now (1 change to go); nothing needs to be done" in sentences([NAS, catching_up])[0]


def test_unreachable_member_is_a_trouble_also_if_it_trails() -> None:
    gone = replace(FAR, state=MemberState.UNREACHABLE, why="it has not answered for 20 seconds")
    assert kinds([NAS, USB, gone]) == [TroubleKind.MEMBER_UNREACHABLE]
    assert sentences([NAS, USB, gone])[0].startswith("far cannot be read now (it has not answered for 20 seconds), so")


def test_trailing_member_that_lags_is_no_trouble() -> None:
    assert kinds([NAS, USB, replace(FAR, lag_seconds=1e6)]) == []


@pytest.mark.parametrize(
    ("members", "need", "expected"),
    [
        ([NAS, USB], 1, False),
        ([NAS, USB], 2, False),  # as configured: no member may fail
        ([NAS, AWAY], 1, True),
        ([NAS, AWAY], 2, True),
        ([NAS, FAR], 1, False),  # one that trails never counts
        ([NAS, replace(USB, name="disk"), AWAY], 1, False),
        ([NAS, replace(USB, name="disk"), AWAY], 2, True),
        ([AWAY, FAR], 1, True),
    ],
)
def test_need_is_not_met_soon_if_no_further_member_may_fail(
    members: list[MemberStatus], need: int, expected: bool
) -> None:
    assert is_need_not_met_soon(members, need) is expected
    assert (TroubleKind.NEED_NOT_MET_SOON in kinds(members, need)) is expected


def test_need_that_the_next_failure_breaks_names_the_members_that_count() -> None:
    assert sentences([NAS, AWAY])[-1] == (
        "the node needs 1 member in sync, and has no more than that. If nas fails as well, the node stops. Bring back "
        "usb soon"
    )
    assert "If one of nas and disk fails as well" in sentences([NAS, replace(USB, name="disk"), AWAY], 2)[-1]


def test_need_that_is_broken_already_says_that_nothing_is_committed() -> None:
    assert sentences([NAS, AWAY], 2)[-1] == (
        "the node needs 2 members in sync, and only nas is. It commits nothing until more are, so nothing can be lost "
        "meanwhile. Bring back usb"
    )
    assert "and none is. It" in sentences([AWAY, FAR])[-1]


def test_space_is_that_of_the_member_with_the_least_and_low_space_names_it() -> None:
    full = replace(USB, free_bytes=SPACE_WANTED - 1, total_bytes=77)
    log = replace(FINE, troubles=(Trouble(TroubleKind.SPACE_LOW, "of the member that was read"),))
    status = with_members(log, [NAS, full], 1, 4)
    assert (status.free_bytes, status.total_bytes) == (SPACE_WANTED - 1, 77)
    (trouble,) = status.troubles
    assert trouble.kind is TroubleKind.SPACE_LOW
    assert trouble.sentence.startswith("only 255 MiB are free at usb, and 256 MiB should be")
    assert with_members(log, [NAS], 1, 4).troubles == ()


def test_low_space_stays_reported_if_no_members_space_is_known() -> None:
    log = replace(FINE, troubles=(Trouble(TroubleKind.SPACE_LOW, "low"),))
    assert with_members(log, [replace(NAS, free_bytes=None)], 1, 4).troubles == log.troubles


def test_stored_bytes_of_a_member_decide_how_much_space_it_should_have() -> None:
    large = replace(NAS, stored_bytes=1 << 40, free_bytes=1 << 40)
    assert kinds([large, USB]) == [TroubleKind.SPACE_LOW]


@pytest.mark.parametrize(
    ("names", "words"),
    [([], ""), (["nas"], "nas"), (["nas", "usb"], "nas and usb"), (["disk", "nas", "usb"], "disk, nas and usb")],
)
def test_names_are_listed_in_words(names: list[str], words: str) -> None:
    assert listed(names) == words
