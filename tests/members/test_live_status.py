"""What a running node says of each of its members."""

from typing import Any

import pytest

from backends.base import Position
from backends.log.format.members import Member, OutOfSync
from backends.log.member_status import MemberState, MemberStatus
from backends.members import live_status
from backends.members.examine import Obstacle
from backends.storage.base import Space

NAS, USB, FAR = Member("nas", "file:///nas"), Member("usb", "usb://usb/b"), Member("far", "nfs://far/b", trailing=True)
OUT = OutOfSync(1_700_000_000, "Input/output error")
END = Position(50, 50, 1, 900)


def statuses(**known: Any) -> dict[str, MemberStatus]:
    facts: dict[str, Any] = {"in_sync": ("nas",), "out": {"usb": OUT}, "end": END, "reached": {}, "obstacles": {}}
    facts |= {"spaces": {}, "latencies": {}, **known}
    return {status.name: status for status in live_status.statuses([NAS, USB, FAR], **facts)}


def test_member_in_sync_has_latency_space_and_no_lag() -> None:
    nas = statuses(spaces={"nas": Space(5, 9)}, latencies={"nas": 0.25, "usb": 1.0}, stored=77)["nas"]
    assert (nas.state, nas.lag_changes, nas.lag_seconds) == (MemberState.IN_SYNC, 0, 0.0)
    assert (nas.free_bytes, nas.total_bytes, nas.stored_bytes, nas.latency) == (5, 9, 77, 0.25)


def test_member_that_nothing_obstructs_is_catching_up_with_its_lag() -> None:
    usb = statuses(reached={"usb": Position(30, 30, 1, 700)}, latencies={"usb": 1.0}, stored=77)["usb"]
    assert (usb.state, usb.since, usb.why) == (MemberState.CATCHING_UP, OUT.since, OUT.why)
    assert (usb.lag_changes, usb.lag_seconds, usb.latency, usb.stored_bytes) == (20, 200.0, None, None)
    assert statuses()["usb"].lag_changes is None, "before the first pass nobody knows"


@pytest.mark.parametrize("obstacle", list(Obstacle))
def test_member_that_is_obstructed_is_out_of_sync_with_both_reasons(obstacle: Obstacle) -> None:
    usb = statuses(obstacles={"usb": (obstacle, "not plugged in")})["usb"]
    assert (usb.state, usb.why) == (MemberState.OUT_OF_SYNC, "Input/output error; now: not plugged in")
    assert statuses(obstacles={"usb": (obstacle, OUT.why)})["usb"].why == OUT.why


def test_trailing_member_trails_with_its_lag_and_is_out_of_reach_if_obstructed() -> None:
    assert statuses(reached={"far": END})["far"].lag_changes == 0
    assert statuses()["far"].state is MemberState.TRAILING
    away = statuses(obstacles={"far": (Obstacle.NOT_THERE, "No route to host")})["far"]
    assert (away.state, away.why, away.trailing) == (MemberState.UNREACHABLE, "No route to host", True)
    taken = statuses(obstacles={"far": (Obstacle.OTHER_BACKUP, "another")})["far"]
    assert taken.state is MemberState.OUT_OF_SYNC


def test_member_that_has_joined_again_shows_nothing_of_its_last_failure() -> None:
    usb = statuses(in_sync=("nas", "usb"), obstacles={"usb": (Obstacle.NOT_THERE, "gone")})["usb"]
    assert (usb.state, usb.since, usb.why) == (MemberState.IN_SYNC, None, "")
