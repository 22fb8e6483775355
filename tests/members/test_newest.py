"""Which member holds the newest state: never the longest log, the highest version or the latest time alone."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import Unreachable
from backends.log.format.members import Epoch
from backends.members.newest import Diverged, SeenMember, newest, newest_epoch
from tests.members.seen import OURS, THEIRS, seen

TWO, ALL = ("stick", "nas"), ("stick", "nas", "disk")


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
    with pytest.raises(
        Unreachable, match=r"hold the newest state is whole \(nas: a record is missing\).*Nothing was changed"
    ):
        newest([seen("stick", 4, ALL), seen("nas", 5, ("nas",), end=None)])


def test_trailing_member_never_replaces_the_damaged_member_in_sync() -> None:
    with pytest.raises(Unreachable, match=r"hold the newest state is whole \(nas: a record is missing\)"):
        newest([seen("far", 5, ("nas",)), seen("nas", 5, ("nas",), end=None)])


def test_trailing_member_with_longer_log_than_the_member_in_sync_is_the_newest() -> None:
    """What trails was copied from a member in sync: the one in sync is an old copy of itself, of the same epoch."""
    assert newest([seen("far", 5, ("nas",), end=102), seen("nas", 5, ("nas",), end=100)]).name == "far"


def test_trailing_member_as_long_as_the_member_in_sync_is_passed_over() -> None:
    assert newest([seen("far", 5, ("nas",)), seen("nas", 5, ("nas",))]).name == "nas"


def test_trailing_member_of_an_older_epoch_is_passed_over_however_long_its_log_is() -> None:
    assert newest([seen("far", 4, ("nas",), end=900), seen("nas", 5, ("nas",))]).name == "nas"


def test_trailing_member_with_longer_log_beside_a_damaged_and_a_whole_member_in_sync_is_the_newest() -> None:
    members = [seen("far", 5, TWO, end=102), seen("nas", 5, TWO, end=100), seen("stick", 5, TWO, end=None)]
    assert newest(members).name == "far"


def test_damaged_trailing_member_is_passed_over() -> None:
    assert newest([seen("far", 5, ("nas",), end=None), seen("nas", 5, ("nas",))]).name == "nas"


def test_trailing_member_is_the_newest_where_no_member_in_sync_was_seen() -> None:
    assert newest([seen("far", 5, ("nas",)), seen("stick", 4, ALL, end=200)]).name == "far"


def test_no_member_at_all_is_unreachable() -> None:
    with pytest.raises(
        Unreachable, match=r"no member of the backup can be reached that holds a whole state. Nothing was changed"
    ):
        newest([])


def test_one_epoch_begun_by_two_nodes_has_diverged() -> None:
    two = [seen("stick", 6, ("stick",)), seen("nas", 6, ("nas",), session=THEIRS), seen("disk", 5, ALL)]
    with pytest.raises(Diverged, match=r"two nodes with the same keys lose money.*--without") as caught:
        newest(two)
    assert set(caught.value.names) == {"stick", "nas"}


@pytest.mark.parametrize("number", [6, 7, 8, 90])
def test_two_nodes_that_went_on_from_one_past_have_diverged_whatever_their_numbers(number: int) -> None:
    """Both knew epoch 5. One of them began more epochs than the other since, which says nothing about the time."""
    theirs = seen("nas", number, ("nas",), session=THEIRS, history={OURS: 5, THEIRS: number})
    for members in permutations([seen("stick", 7, ("stick",)), theirs, seen("disk", 5, ALL)]):
        with pytest.raises(Diverged, match=r"two nodes that did not know of each other") as caught:
            newest(members)
        assert set(caught.value.names) == {"stick", "nas"}


def test_two_nodes_below_the_newest_epoch_have_diverged_unless_it_came_after_both() -> None:
    ours, theirs = seen("stick", 6, ("stick",)), seen("nas", 6, ("nas",), session=THEIRS)
    after_both = seen("disk", 7, ("disk",), session=THEIRS, history={OURS: 6, THEIRS: 7})
    assert newest([ours, theirs, after_both]).name == "disk"
    with pytest.raises(Diverged):
        newest([ours, theirs, seen("disk", 7, ("disk",), session=THEIRS, history={OURS: 5, THEIRS: 7})])


def test_what_a_session_did_after_the_newest_epoch_went_on_from_it_has_diverged() -> None:
    """A node directory was set back to its epoch 5 and went on under a new session; meanwhile it had begun 6 itself."""
    with pytest.raises(Diverged):
        newest([seen("stick", 6, ("stick",)), seen("nas", 8, ("nas",), session="later", history={OURS: 5, "later": 8})])


def test_epochs_up_to_the_floor_are_history_whoever_began_them() -> None:
    top = seen("disk", 9, ("disk",), history={OURS: 9})
    raised = replace(top, document=replace(top.document, floor=6))
    old = [seen("stick", 6, ("stick",), session="too old to be listed"), seen("nas", 7, ("nas",), session=THEIRS)]
    assert newest([raised, old[0]]).name == "disk"
    with pytest.raises(Diverged):
        newest([raised, old[1]])


def test_member_being_filled_never_counts() -> None:
    filling = seen("stick", 0, (), end=900, session="of any node", history={"x": 0})
    assert newest([filling, seen("nas", 5, ("nas",))]).name == "nas"
    assert newest_epoch([filling, seen("nas", 5, ("nas",))]) == Epoch(5, OURS)
    with pytest.raises(Unreachable, match=r"no member of the backup can be reached that holds a whole state"):
        newest([filling])


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
