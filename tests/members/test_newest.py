"""Which member holds the newest state: never the longest log, the highest version or the latest time alone."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import Unreachable
from backends.members.newest import Diverged, SeenMember, newest, newest_epoch
from tests.members.seen import THEIRS, seen

ALL = ("stick", "nas", "disk")


def test_higher_epoch_wins_over_longer_log() -> None:
    """The longer log has a change that no member acknowledged: its member was put out of sync because of it."""
    left_behind = seen("stick", 4, ALL, end=101)
    assert newest([left_behind, seen("nas", 5, ("nas",), end=100)]).name == "nas"


def test_longest_log_wins_within_an_epoch() -> None:
    """The node was stopped while it appended a change, which one member had saved and one had not."""
    assert newest([seen("stick", 5, ALL, end=100), seen("nas", 5, ALL, end=101)]).name == "nas"


def test_damaged_member_in_sync_is_passed_over_for_a_whole_one() -> None:
    assert newest([seen("stick", 5, ALL, end=None), seen("nas", 5, ALL)]).name == "nas"


def test_member_of_older_epoch_never_replaces_the_damaged_member_in_sync() -> None:
    """It would be whole, and would lack what was acknowledged without it."""
    with pytest.raises(Unreachable, match=r"none of them is whole \(nas: a record is missing\).*Nothing was changed"):
        newest([seen("stick", 4, ALL), seen("nas", 5, ("nas",), end=None)])


def test_trailing_member_never_replaces_the_damaged_member_in_sync() -> None:
    with pytest.raises(Unreachable, match="none of them is whole"):
        newest([seen("far", 5, ("nas",)), seen("nas", 5, ("nas",), end=None)])


def test_trailing_member_with_longer_log_is_passed_over_for_the_member_in_sync() -> None:
    assert newest([seen("far", 5, ("nas",), end=102), seen("nas", 5, ("nas",), end=100)]).name == "nas"


def test_trailing_member_is_the_newest_where_no_member_in_sync_was_seen() -> None:
    assert newest([seen("far", 5, ("nas",)), seen("stick", 4, ALL, end=200)]).name == "far"


def test_no_member_at_all_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"no member of the backup can be reached. Nothing was changed"):
        newest([])


def test_one_epoch_begun_by_two_nodes_has_diverged() -> None:
    two = [seen("stick", 6, ("stick",)), seen("nas", 6, ("nas",), session=THEIRS), seen("disk", 5, ALL)]
    with pytest.raises(Diverged, match=r"two nodes with the same keys lose money.*--without") as caught:
        newest(two)
    assert set(caught.value.names) == {"stick", "nas"}


def test_two_nodes_below_the_newest_epoch_are_history() -> None:
    members = [
        seen("stick", 6, ("stick",)),
        seen("nas", 6, ("nas",), session=THEIRS),
        seen("disk", 7, ("disk",), session=THEIRS),
    ]
    assert newest(members).name == "disk"


members = st.lists(
    st.builds(
        lambda name, epoch, in_sync, end: seen(name, epoch, in_sync, end=end),
        st.sampled_from((*ALL, "far")),
        st.integers(1, 4),
        st.sets(st.sampled_from(ALL), min_size=1).map(sorted),
        st.none() | st.integers(0, 5),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda member: member.name,
)


def outcome(members: list[SeenMember]) -> tuple[int, int] | None:
    try:
        member = newest(members)
    except Unreachable:
        return None
    assert member.end is not None
    return member.document.epoch.number, member.end.sequence


@settings(deadline=None)
@given(members)
def test_newest_state_is_the_same_in_whatever_order_members_were_reached(members: list[SeenMember]) -> None:
    assert {outcome(list(order)) for order in permutations(members)} == {outcome(members)}


@settings(deadline=None)
@given(members)
def test_newest_member_is_whole_and_of_the_highest_epoch(members: list[SeenMember]) -> None:
    assert newest_epoch(members).number == max(member.document.epoch.number for member in members)
    found = outcome(members)
    assert found is None or found[0] == newest_epoch(members).number
