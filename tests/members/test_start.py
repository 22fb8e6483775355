"""Whether a node may start with the members that are here. Each row is what a history has left behind."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Position
from backends.errors import BackupError, Unreachable
from backends.log.format.members import Epoch, Member
from backends.members.missing import Left, Missing
from backends.members.newest import Diverged, SeenMember, newest
from backends.members.start import MAX_AGE, Rule, StartRefused, StartWith, may_start
from backends.node.members_note import MembersNote
from tests.members.seen import BACKUP, MEMBERS, OURS, THEIRS, seen

TWO, THREE = ("stick", "nas"), ("stick", "nas", "disk")


def note(
    epoch: int,
    in_sync: Sequence[str],
    *,
    intent: int | None = None,
    sessions: Sequence[str] = (OURS,),
    adopted: int = 0,
    session: str = OURS,
    backup_id: str = BACKUP,
) -> MembersNote:
    began = None if intent is None else Epoch(intent, OURS)
    history = {known: intent or epoch for known in sessions}
    return MembersNote(
        backup_id,
        Epoch(epoch, session),
        tuple(in_sync),
        began,
        sessions=tuple(sessions),
        history=history,
        adopted=adopted,
    )


@dataclass(frozen=True)
class Situation:
    """What a start finds; unless a row says otherwise, everything speaks for starting."""

    members: Sequence[SeenMember]
    note: MembersNote | None
    need: int = 1
    proven: bool = True
    changed_ago: float | None = 60.0
    without: Collection[str] = ()
    configured: Sequence[Member] = field(default=MEMBERS)
    missing: Mapping[str, Missing] = field(default_factory=dict)

    def start(self) -> StartWith:
        return may_start(
            self.members,
            self.configured,
            self.need,
            self.note,
            proven=self.proven,
            changed_ago=self.changed_ago,
            without=self.without,
            missing=self.missing,
        )


PAIR = MEMBERS[:2]
"""Without a note, every member that is configured is asked for."""

ALL_HERE = Situation([seen("stick", 5, TWO, end=101), seen("nas", 5, TWO)], note(5, TWO))
AWAY = Situation([seen("stick", 5, TWO)], note(5, TWO))
BEHIND = Situation([seen("stick", 4, TWO)], note(5, ["nas"]))


def without_document(session: str = OURS, end: int = 100) -> Situation:
    """Of the nas, only the document is lost; nothing shows that the database is the newest state."""
    left = Missing("its document is missing", Left(session, Position(end, end, 0)))
    return replace(AWAY, proven=False, changed_ago=None, missing={"nas": left})


DAMAGED = [seen("stick", 5, TWO), seen("nas", 5, TWO, end=None)]
OLD_COPY = [seen("stick", 5, TWO), seen("nas", 3, TWO)]
HALF_WRITTEN = [seen("stick", 6, TWO), seen("nas", 5, TWO)]
"""The node was stopped while it wrote epoch 6 to its members: only the stick has it."""

STARTS = {
    # All members that were in sync are here.
    "all_members_here": (ALL_HERE, "stick", TWO, ()),
    "all_members_here_and_database_not_proven_and_old": (
        replace(ALL_HERE, proven=False, changed_ago=None),
        "stick",
        TWO,
        (),
    ),
    "longest_log_within_the_epoch_is_not_the_first": (
        replace(ALL_HERE, members=[seen("stick", 5, TWO), seen("nas", 5, TWO, end=101)]),
        "nas",
        TWO,
        (),
    ),
    "killed_while_a_member_that_was_filled_joined": (
        Situation([seen("stick", 6, TWO), seen("nas", 0, ())], note(5, ["stick"], intent=6), proven=False),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "document_of_one_member_lost": (without_document(), "stick", ("stick",), ("nas",)),
    "document_lost_of_one_whose_log_ends_early": (without_document(end=90), "stick", ("stick",), ("nas",)),
    "first_start_after_init": (replace(ALL_HERE, note=note(5, TWO, sessions=())), "stick", TWO, ()),
    "all_members_here_without_note": (replace(ALL_HERE, note=None, configured=PAIR), "stick", TWO, ()),
    "all_members_here_and_one_trails_far_away_without_note": (
        replace(ALL_HERE, note=None, configured=[*PAIR, MEMBERS[3]]),
        "stick",
        TWO,
        (),
    ),
    "member_that_was_out_of_sync_here_without_note": (
        Situation([seen("stick", 5, ["stick"]), seen("nas", 4, TWO, end=900)], None, configured=PAIR),
        "stick",
        ("stick",),
        (),
    ),
    "all_members_here_with_note_of_an_earlier_backup": (
        replace(ALL_HERE, note=note(9, ["disk"], backup_id="another"), configured=PAIR),
        "stick",
        TWO,
        (),
    ),
    "all_members_here_with_need_of_two": (replace(ALL_HERE, need=2), "stick", TWO, ()),
    "intent_that_no_member_carries": (replace(ALL_HERE, note=note(5, TWO, intent=6)), "stick", TWO, ()),
    "note_of_an_intent_that_all_members_carry": (replace(ALL_HERE, note=note(4, TWO, intent=5)), "stick", TWO, ()),
    "member_being_filled_here": (
        Situation([*ALL_HERE.members, seen("disk", 0, (), end=900, session="of any node")], note(5, TWO)),
        "stick",
        TWO,
        (),
    ),
    "member_being_filled_in_place_of_one_in_sync": (
        Situation([seen("stick", 5, TWO), seen("nas", 0, (), end=None)], note(5, TWO)),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "another_node_went_on_from_an_epoch_left_behind": (
        Situation([*ALL_HERE.members, seen("disk", 4, ["disk"], session=THEIRS, end=900)], note(5, TWO)),
        "stick",
        TWO,
        (),
    ),
    "member_that_was_out_of_sync_is_away": (
        Situation([seen("stick", 5, ["stick"])], note(5, ["stick"]), proven=False, changed_ago=None),
        "stick",
        ("stick",),
        (),
    ),
    "member_that_was_out_of_sync_has_longer_log": (
        Situation([seen("stick", 5, ["stick"]), seen("nas", 4, TWO, end=900)], note(5, ["stick"])),
        "stick",
        ("stick",),
        (),
    ),
    "trailing_member_with_longer_log": (
        Situation([seen("far", 5, TWO, end=900), *ALL_HERE.members], note(5, TWO)),
        "stick",
        TWO,
        (),
    ),
    "restored_from_an_epoch_of_another_node": (
        Situation([seen("stick", 5, TWO, session=THEIRS), seen("nas", 5, TWO, session=THEIRS)],
                  note(5, TWO, session=THEIRS, sessions=(), adopted=5)),
        "stick",
        TWO,
        (),
    ),
    # The node was stopped while it wrote an epoch.
    "epoch_written_to_one_of_two_with_need_of_two": (
        Situation(HALF_WRITTEN, note(5, TWO, intent=6), need=2, proven=False, changed_ago=None),
        "stick",
        TWO,
        (),
    ),
    "epoch_not_yet_written_to_the_member_with_the_longer_log": (
        Situation([seen("stick", 6, TWO), seen("nas", 5, TWO, end=101)], note(5, TWO, intent=6)),
        "stick",
        TWO,
        (),
    ),
    "epoch_of_a_session_that_the_note_no_longer_lists": (
        Situation(HALF_WRITTEN, note(5, TWO, intent=6, sessions=())),
        "stick",
        TWO,
        (),
    ),
    "epoch_written_to_a_damaged_member_only": (
        Situation([seen("stick", 6, TWO, end=None), seen("nas", 5, TWO)], note(5, TWO, intent=6)),
        "nas",
        ("nas",),
        ("stick",),
    ),
    "epoch_written_in_two_attempts": (
        Situation([seen("stick", 7, TWO), seen("nas", 6, THREE)], note(5, THREE, intent=7), need=2),
        "stick",
        TWO,
        (),
    ),
    "epoch_not_yet_written_to_the_member_that_was_joining": (
        Situation([seen("stick", 6, TWO), seen("nas", 2, TWO)], note(5, ["stick"], intent=6)),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "trailing_member_holds_more_but_the_database_is_proven": (
        Situation([seen("stick", 5, ["stick"]), seen("far", 5, ["stick"], end=101)], note(5, ["stick"])),
        "stick",
        ("stick",),
        (),
    ),
    "trailing_member_holds_more_than_one_of_those_in_sync": (
        Situation(
            [*ALL_HERE.members, seen("far", 5, TWO, end=101)], note(5, TWO), proven=False, changed_ago=None
        ),
        "stick",
        TWO,
        (),
    ),
    "trailing_member_holds_more_of_an_older_epoch": (
        Situation([*ALL_HERE.members, seen("far", 4, TWO, end=900)], note(5, TWO), proven=False, changed_ago=None),
        "stick",
        TWO,
        (),
    ),
    # One is damaged: it shows its epoch, so it has not gone on without the others.
    "one_of_two_damaged": (
        Situation(DAMAGED, note(5, TWO), proven=False, changed_ago=None),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "one_of_two_damaged_without_note": (Situation(DAMAGED, None, configured=PAIR), "stick", ("stick",), ("nas",)),
    # One is away.
    "one_of_two_away": (AWAY, "stick", ("stick",), ("nas",)),
    "one_of_two_away_for_just_an_hour": (replace(AWAY, changed_ago=MAX_AGE), "stick", ("stick",), ("nas",)),
    "one_away_and_one_damaged": (
        Situation([seen("stick", 5, THREE), seen("nas", 5, THREE, end=None)], note(5, THREE)),
        "stick",
        ("stick",),
        ("nas", "disk"),
    ),
    "one_of_two_is_an_old_copy": (Situation(OLD_COPY, note(5, TWO)), "stick", ("stick",), ("nas",)),
    # A person has given up a member.
    "away_given_up_long_ago": (
        replace(AWAY, changed_ago=None, without=["nas"]),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "away_given_up_with_unproven_database": (
        replace(AWAY, proven=False, without=["nas"]),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "away_given_up_without_note": (
        replace(AWAY, note=None, without=["nas"], configured=PAIR),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "away_given_up_with_unfinished_intent": (
        replace(AWAY, note=note(5, TWO, intent=6), without=["nas"]),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "old_copy_given_up": (
        Situation(OLD_COPY, note(5, TWO), proven=False, without=["nas"]),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "whole_member_named_as_given_up_is_used": (replace(ALL_HERE, without=["nas"]), "stick", TWO, ()),
    "given_up_at_the_restore": (
        replace(AWAY, note=note(5, ["stick"], sessions=(), adopted=5), proven=False, changed_ago=None),
        "stick",
        ("stick",),
        ("nas",),
    ),
    "given_up_at_the_restore_and_back_with_a_longer_log": (
        Situation([seen("stick", 5, TWO), seen("nas", 5, TWO, end=103)],
                  note(5, ["stick"], sessions=(), adopted=5)),
        "stick",
        ("stick",),
        ("nas",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("situation", "source", "in_sync", "absent"), STARTS.values(), ids=STARTS)
def test_node_starts_with(situation: Situation, source: str, in_sync: tuple[str, ...], absent: tuple[str, ...]) -> None:
    for members in permutations(situation.members):
        found = replace(situation, members=members).start()
        assert (found.source.name, found.in_sync, found.absent, found.behind) == (source, in_sync, absent, False)


REFUSALS = {
    # A member whose document is lost may have gone on without the others.
    "document_lost_and_another_node_wrote_last": (without_document(THEIRS), Rule.MEMBER_AWAY, ("nas",)),
    "document_lost_and_the_log_is_longer": (without_document(end=101), Rule.MEMBER_AWAY, ("nas",)),
    "document_lost_while_the_members_in_sync_were_changed": (
        replace(without_document(), note=note(5, TWO, intent=6)),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "document_lost_and_no_note": (replace(without_document(), note=None), Rule.MEMBER_AWAY, ("nas", "disk")),
    "document_lost_and_the_rest_damaged": (
        replace(without_document(), missing={"nas": Missing("its document is missing")}),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    # The node's note knows of something newer.
    "newest_member_away_and_one_that_was_out_of_sync_here": (BEHIND, Rule.NEWER_ELSEWHERE, ("nas",)),
    "another_member_than_the_newest_given_up": (replace(BEHIND, without=["disk"]), Rule.NEWER_ELSEWHERE, ("nas",)),
    "one_of_the_two_newest_given_up": (
        Situation([seen("stick", 4, THREE)], note(5, ["nas", "disk"]), without=["nas"]),
        Rule.NEWER_ELSEWHERE,
        ("nas", "disk"),
    ),
    "every_member_is_an_old_copy": (
        Situation([seen("stick", 4, TWO), seen("nas", 4, TWO)], note(5, TWO)),
        Rule.NEWER_ELSEWHERE,
        TWO,
    ),
    "same_epoch_begun_twice_by_a_directory_that_was_set_back": (
        Situation([seen("nas", 6, ["nas"], session="our later session")],
                  note(6, ["stick"], sessions=(OURS, "our later session"))),
        Rule.NEWER_ELSEWHERE,
        ("stick",),
    ),
    # Another node.
    "newest_epoch_begun_by_another_node": (
        Situation([seen("stick", 6, TWO, session=THEIRS), seen("nas", 6, TWO, session=THEIRS)], note(5, TWO)),
        Rule.TAKEN_OVER,
        TWO,
    ),
    "newest_epoch_begun_by_another_node_although_given_up": (
        Situation([seen("stick", 6, TWO, session=THEIRS)], note(5, TWO), without=THREE),
        Rule.TAKEN_OVER,
        ("stick",),
    ),
    "same_number_begun_by_another_node": (
        Situation([seen("nas", 6, ["nas"], session=THEIRS)], note(6, ["stick"])),
        Rule.TAKEN_OVER,
        ("nas",),
    ),
    "number_of_the_intent_begun_by_another_node": (
        Situation([seen("nas", 6, ["nas"], session=THEIRS)], note(5, TWO, intent=6)),
        Rule.TAKEN_OVER,
        ("nas",),
    ),
    "member_left_out_at_the_restore_is_back_with_a_newer_epoch": (
        Situation([seen("stick", 5, TWO, session=THEIRS), seen("nas", 6, ["nas"], session=THEIRS)],
                  note(5, ["stick"], session=THEIRS, sessions=(), adopted=5)),
        Rule.TAKEN_OVER,
        ("nas",),
    ),
    # The node's own directory was set back: its note ends before what its own session did later.
    "own_session_went_on_after_the_note": (replace(ALL_HERE, note=note(3, TWO)), Rule.TAKEN_OVER, TWO),
    "own_session_went_on_after_the_note_although_all_are_given_up": (
        replace(ALL_HERE, note=note(3, TWO), without=THREE),
        Rule.TAKEN_OVER,
        TWO,
    ),
    "own_session_went_on_after_the_intent": (
        replace(ALL_HERE, note=note(3, TWO, intent=4)),
        Rule.TAKEN_OVER,
        TWO,
    ),
    "own_session_went_on_and_another_member_is_away": (
        Situation([seen("stick", 5, TWO)], note(4, TWO)),
        Rule.TAKEN_OVER,
        ("stick",),
    ),
    "own_session_went_on_and_an_older_copy_is_here": (
        Situation(OLD_COPY, note(4, TWO)),
        Rule.TAKEN_OVER,
        ("stick",),
    ),
    "own_session_went_on_and_one_member_is_as_old_as_the_note": (
        Situation([seen("stick", 5, TWO), seen("nas", 4, TWO)], note(4, TWO)),
        Rule.TAKEN_OVER,
        ("stick",),
    ),
    # A member is away that was in sync.
    "away_and_database_not_proven": (replace(AWAY, proven=False), Rule.MEMBER_AWAY, ("nas",)),
    "away_for_more_than_an_hour": (replace(AWAY, changed_ago=MAX_AGE + 1), Rule.MEMBER_AWAY, ("nas",)),
    "away_since_nobody_knows_when": (replace(AWAY, changed_ago=None), Rule.MEMBER_AWAY, ("nas",)),
    "away_and_clock_set_back": (replace(AWAY, changed_ago=-1.0), Rule.MEMBER_AWAY, ("nas",)),
    "away_since_no_number_of_seconds": (replace(AWAY, changed_ago=float("nan")), Rule.MEMBER_AWAY, ("nas",)),
    "away_with_unfinished_intent": (replace(AWAY, note=note(5, TWO, intent=6)), Rule.MEMBER_AWAY, ("nas",)),
    "away_while_its_epoch_was_written": (
        Situation([seen("stick", 6, TWO)], note(5, TWO, intent=6)),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "being_filled_and_database_not_proven": (
        Situation([seen("stick", 5, TWO), seen("nas", 0, ())], note(5, TWO), proven=False),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "away_without_note": (replace(AWAY, note=None, configured=PAIR), Rule.MEMBER_AWAY, ("nas",)),
    "away_with_note_of_another_backup": (
        replace(AWAY, note=note(5, TWO, backup_id="another"), configured=PAIR),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "alone_in_sync_without_note_and_another_away": (
        # The nas was joining when the stick failed, and went on alone: the stick carries an epoch without it.
        Situation([seen("stick", 5, ["stick"])], None, configured=PAIR),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "another_away_than_the_one_given_up": (
        Situation([seen("stick", 5, THREE)], note(5, THREE), proven=False, without=["nas"]),
        Rule.MEMBER_AWAY,
        ("disk",),
    ),
    "only_trailing_member_here": (
        Situation([seen("far", 5, TWO)], note(5, TWO), proven=False),
        Rule.MEMBER_AWAY,
        TWO,
    ),
    "trailing_member_holds_more_than_the_only_one_in_sync": (
        # The stick is an old copy of itself, from earlier in the same epoch.
        Situation([seen("stick", 5, ["stick"]), seen("far", 5, ["stick"], end=101)], note(5, ["stick"]), proven=False),
        Rule.MEMBER_AWAY,
        ("stick",),
    ),
    "trailing_member_holds_more_than_each_of_those_in_sync": (
        replace(ALL_HERE, members=[*ALL_HERE.members, seen("far", 5, TWO, end=102)], changed_ago=MAX_AGE + 1),
        Rule.MEMBER_AWAY,
        TWO,
    ),
    "trailing_member_holds_more_than_all_in_sync_without_note": (
        Situation([*ALL_HERE.members, seen("far", 5, TWO, end=102)], None, configured=[*PAIR, MEMBERS[3]]),
        Rule.MEMBER_AWAY,
        TWO,
    ),
    # Something else is in its place.
    "old_copy_and_database_not_proven": (
        Situation(OLD_COPY, note(5, TWO), proven=False),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "old_copy_without_note": (Situation(OLD_COPY, None, configured=PAIR), Rule.MEMBER_AWAY, ("nas",)),
    "older_epoch_after_the_newest_member_was_given_up": (
        Situation([seen("stick", 5, ["stick", "disk"]), seen("disk", 4, THREE)], note(7, ["nas"]), without=["nas"]),
        Rule.MEMBER_AWAY,
        ("disk",),
    ),
    "old_copy_while_the_node_wrote_an_epoch": (
        Situation([seen("stick", 6, TWO), seen("nas", 3, TWO)], note(5, TWO, intent=6)),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    "files_of_one_member_at_the_places_of_both": (
        Situation([seen("stick", 5, TWO), seen("nas", 5, TWO, says="stick")], note(5, TWO), proven=False),
        Rule.MEMBER_AWAY,
        ("nas",),
    ),
    # Too few.
    "need_of_two_and_one_away": (replace(AWAY, need=2), Rule.NEED_NOT_MET, ("nas", "disk")),
    "need_of_two_and_one_given_up": (replace(AWAY, need=2, without=["nas"]), Rule.NEED_NOT_MET, ("nas", "disk")),
    "need_of_two_and_one_damaged": (
        Situation(DAMAGED, note(5, TWO), need=2),
        Rule.NEED_NOT_MET,
        ("nas", "disk"),
    ),
    "need_of_two_and_files_of_one_member_at_the_places_of_both": (
        Situation([seen("stick", 5, TWO), seen("nas", 5, TWO, says="stick")], note(5, TWO), need=2),
        Rule.NEED_NOT_MET,
        ("nas", "disk"),
    ),
    "every_member_damaged": (
        Situation([seen("stick", 5, TWO, end=None), seen("nas", 5, TWO, end=None)], note(5, TWO)),
        Rule.NEED_NOT_MET,
        THREE,
    ),
    "only_trailing_member_here_and_the_others_given_up": (
        Situation([seen("far", 5, TWO)], note(5, TWO), without=TWO),
        Rule.NEED_NOT_MET,
        THREE,
    ),
    "member_that_trails_now_does_not_count": (
        replace(ALL_HERE, need=2, configured=[replace(MEMBERS[0], trailing=True), MEMBERS[1]]),
        Rule.NEED_NOT_MET,
        (),
    ),
    "need_of_nothing_and_no_member_whole": (
        Situation([seen("stick", 5, ["stick"], end=None)], note(5, ["stick"]), need=0),
        Rule.NEED_NOT_MET,
        THREE,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("situation", "rule", "names"), REFUSALS.values(), ids=REFUSALS)
def test_start_is_refused_with(situation: Situation, rule: Rule, names: tuple[str, ...]) -> None:
    for members in permutations(situation.members):
        with pytest.raises(StartRefused, match="Nothing was changed") as caught:
            replace(situation, members=members).start()
        found = caught.value
        assert (found.rule, found.kind) == (rule, rule.value)
        assert set(found.names) == set(names)
        assert str(found).isascii()


def test_backup_is_behind_once_all_members_with_the_newest_changes_are_given_up() -> None:
    found = replace(BEHIND, without=["nas"]).start()
    assert (found.source.name, found.in_sync, found.absent, found.behind) == ("stick", ("stick",), ("nas",), True)


def test_start_says_whether_a_person_gave_up_all_members_of_the_last_epoch() -> None:
    assert replace(BEHIND, without=["nas"]).start().by_consent
    joined = Situation([seen("stick", 6, TWO)], note(5, ["nas"], intent=6), without=["nas"])
    assert joined.start().by_consent
    assert not replace(AWAY, without=["nas"]).start().by_consent
    assert not replace(AWAY, note=None, without=["nas"], configured=PAIR).start().by_consent
    assert not ALL_HERE.start().by_consent


def test_old_copy_of_the_newest_member_is_not_used_after_it_was_given_up() -> None:
    members = [seen("stick", 4, TWO), seen("nas", 4, TWO, end=900)]
    found = Situation(members, note(5, ["nas"]), without=["nas"]).start()
    assert (found.source.name, found.in_sync, found.absent, found.behind) == ("stick", ("stick",), ("nas",), True)


def test_start_without_any_member_names_all_places() -> None:
    with pytest.raises(
        Unreachable, match=r"stick: usb://STICK.*nas: nfs://nas.*Nothing was changed.*Connect"
    ) as caught:
        Situation([], note(5, TWO)).start()
    assert not isinstance(caught.value, StartRefused)


def test_start_with_members_of_two_nodes_has_diverged() -> None:
    with pytest.raises(Diverged):
        Situation([seen("stick", 6, ["stick"]), seen("nas", 6, ["nas"], session=THEIRS)], note(6, ["stick"])).start()


def test_start_with_an_epoch_of_another_node_begun_while_this_one_wrote_its_own_has_diverged() -> None:
    for members in permutations([seen("stick", 7, TWO), seen("nas", 6, TWO, session=THEIRS)]):
        with pytest.raises(Diverged):
            Situation(members, note(5, TWO, intent=7)).start()


@pytest.mark.parametrize("epoch", [(4, THEIRS), (0, OURS)], ids=["of another node", "being filled"])
def test_start_with_nothing_that_this_node_could_go_on_from_is_refused_whatever_is_given_up(
    epoch: tuple[int, str],
) -> None:
    number, session = epoch
    situation = Situation([seen("stick", number, TWO, session=session)], note(5, ["nas"]), without=["nas"])
    with pytest.raises(Unreachable, match=r"hold no state that it could go on from\. Nothing was changed.*Connect"):
        situation.start()


def test_refusal_because_of_one_member_away_says_what_to_type() -> None:
    with pytest.raises(StartRefused) as caught:
        replace(AWAY, changed_ago=7200.0).start()
    assert str(caught.value) == (
        "nas (nfs://nas/export/lightning.bkp: not connected) may hold newer changes than what is here: this node's "
        "database has not changed within the last hour, so the node may have run elsewhere. Nothing was changed. "
        "Connect it, then start the node again. Only if it is lost for good, run: backup-cli member-remove nas"
    )


def test_refusal_says_why_the_member_does_not_count() -> None:
    with pytest.raises(StartRefused, match=r"nas \(.*: its document is missing\) may hold"):
        without_document(THEIRS).start()


@pytest.mark.parametrize(
    "situation",
    [
        Situation([seen("nas", 6, ["nas"], session=THEIRS)], note(5, TWO)),
        Situation([seen("nas", 6, ["nas"])], note(5, TWO)),
    ],
    ids=["another node", "directory that was set back"],
)
def test_refusal_of_an_epoch_unknown_to_the_note_says_both_reasons_and_how_to_restore(situation: Situation) -> None:
    with pytest.raises(StartRefused) as caught:
        situation.start()
    assert str(caught.value) == (
        "what is in nas is not what this node's directory knows of (epoch 6; it knows of 5): either another node has "
        "taken over the backup, or this directory is an old copy of itself. Nothing was changed. If another node with "
        "these keys is in use, never start this one again: two nodes with the same keys lose money. If none is, the "
        "backup holds the newest state, and this database is too old: restore it with: backup-cli restore --resume "
        "--replace URL... DEST. Only if this database is surely the newest, run: backup-cli resync. Only if you "
        "restored this node without that member, and it is back now, run: backup-cli member-remove nas"
    )


def test_refusal_after_takeover_warns_of_two_nodes_with_the_same_keys() -> None:
    with pytest.raises(
        StartRefused, match=r"(?s)another node has taken over.*old copy.*lose money.*backup-cli resync\. "
    ):
        Situation([seen("nas", 6, ["nas"], session=THEIRS)], note(5, TWO)).start()


def test_refusal_where_nothing_else_is_left_says_how_to_make_a_new_backup() -> None:
    with pytest.raises(StartRefused, match="surely the newest, make a new backup: backup-cli init, with a new URL"):
        Situation([seen("nas", 4, TWO)], note(5, ["nas"])).start()


def test_name_from_a_hostile_document_is_quoted_in_the_command_to_type() -> None:
    hostile = "x; rm -rf $HOME"
    with pytest.raises(StartRefused, match=r"member-remove 'x; rm -rf \$HOME'"):
        Situation([seen("stick", 5, ["stick", hostile])], None, configured=PAIR).start()


names = st.sampled_from(THREE)
epochs = st.builds(Epoch, st.integers(1, 5), st.sampled_from((OURS, THEIRS)))


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Anything, also what no history leaves behind. One epoch has one list of members."""
    in_sync = {
        Epoch(number, session): draw(st.sets(names, min_size=1).map(sorted))
        for number in range(1, 6)
        for session in (OURS, THEIRS)
    }
    members = []
    for name in sorted(draw(st.sets(st.sampled_from((*THREE, "far")), min_size=1))):
        epoch = draw(epochs)
        end = draw(st.none() | st.integers(0, 5))
        members.append(seen(name, epoch.number, in_sync[epoch], end=end, session=epoch.session))
    known = draw(epochs)
    intent = draw(st.none() | st.integers(known.number + 1, 6).map(lambda number: Epoch(number, OURS)))
    history = draw(st.sampled_from([{}, {OURS: known.number if intent is None else intent.number}]))
    noted = MembersNote(BACKUP, known, tuple(in_sync[known]), intent, sessions=tuple(history), history=history)
    return Situation(
        members,
        draw(st.none() | st.just(noted)),
        draw(st.integers(1, 3)),
        draw(st.booleans()),
        draw(st.sampled_from([None, 0.0, MAX_AGE, MAX_AGE * 2])),
        draw(st.sets(names)),
    )


def outcome(situation: Situation) -> StartWith | None:
    try:
        return situation.start()
    except BackupError:
        return None


@settings(deadline=None)
@given(situations())
def test_source_of_every_start_is_whole_and_in_sync_and_need_is_met(situation: Situation) -> None:
    found = outcome(situation)
    if found is None:
        return
    assert found.source.end is not None
    assert found.source.name in found.in_sync
    assert len(found.in_sync) >= situation.need
    assert not set(found.in_sync) & set(found.absent)
    whole = {member.name for member in situation.members if member.end is not None}
    assert set(found.in_sync) <= whole


@settings(deadline=None)
@given(situations())
def test_no_start_goes_on_from_older_than_the_newest_epoch_seen_while_a_whole_member_carries_it(
    situation: Situation,
) -> None:
    found = outcome(situation)
    if found is None:
        return
    note = situation.note
    counting = [
        each
        for each in situation.members
        if note is None or each.document.epoch.number >= note.epoch.number or note.knows(each.document.epoch)
    ]
    try:
        expected = newest(counting)
    except Unreachable:
        return  # no whole member carries it: then the node goes on from one that held everything before
    if expected.name in found.in_sync:
        assert found.source == expected


@settings(deadline=None)
@given(situations())
def test_nothing_newer_that_the_note_knows_is_given_up_unless_a_person_does(situation: Situation) -> None:
    found = outcome(situation)
    if found is None or situation.note is None:
        return
    newer = situation.note.epoch.number > max(member.document.epoch.number for member in situation.members)
    assert found.behind >= newer
    if found.behind:
        assert set(situation.note.in_sync) <= set(situation.without)
        assert not set(situation.note.in_sync) & set(found.in_sync)


@settings(deadline=None)
@given(situations())
def test_start_without_note_and_consent_has_seen_every_member(situation: Situation) -> None:
    situation = replace(situation, note=None, without=())
    found = outcome(situation)
    if found is not None:
        epoch = found.source.document.epoch
        assert set(THREE) <= {member.name for member in situation.members}
        carriers = {member.name for member in situation.members if member.document.epoch == epoch}
        assert set(found.source.document.in_sync) <= carriers


@settings(deadline=None)
@given(situations())
def test_consent_and_proof_never_turn_a_start_into_a_refusal(situation: Situation) -> None:
    if outcome(situation) is not None:
        assert outcome(replace(situation, proven=True, changed_ago=0.0)) is not None
        assert outcome(replace(situation, without=THREE)) is not None


@settings(deadline=None)
@given(situations())
def test_one_member_more_never_makes_a_start_go_on_from_less(situation: Situation) -> None:
    """What a start takes for the newest state with fewer members, it takes for the newest or gives up with more."""
    found = outcome(situation)
    for left_out in situation.members if found else ():
        fewer = outcome(replace(situation, members=[each for each in situation.members if each is not left_out]))
        if fewer is not None and found is not None and not fewer.behind:
            assert fewer.source.document.epoch.number <= found.source.document.epoch.number
