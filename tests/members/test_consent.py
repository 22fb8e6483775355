"""Which members a restore may do without: what is demanded of the user, and from which member is restored then."""

from dataclasses import replace

import pytest

from backends.base import Position
from backends.errors import BackupError, Unrestorable
from backends.log.format.members import Epoch, Member, MembersDocument, OutOfSync
from backends.members.consent import MembersMissing, choose
from backends.members.newest import Diverged, SeenMember

NOON = 1_764_000_000
MEMBERS = (
    Member("disk", "file:///mnt/disk/lightning.bkp"),
    Member("nas", "nfs://nas/lightning.bkp"),
    Member("far", "file:///mnt/far/lightning.bkp", trailing=True),
)
OUT = {"nas": OutOfSync(NOON - 7200, "it did not answer for 5 seconds")}


def document(
    name: str, epoch: int, in_sync: str, session: str = "s", members: tuple[Member, ...] = MEMBERS
) -> MembersDocument:
    """A document as of this epoch; `in_sync` are names between blanks."""
    names = tuple(in_sync.split())
    out = {name: out for name, out in OUT.items() if name not in names}
    return MembersDocument("ab" * 16, name, Epoch(epoch, session), names, members, 1, out, {session: epoch})


def seen(name: str, epoch: int, in_sync: str, sequence: int | None = 100, session: str = "s") -> SeenMember:
    """A member that was read; damaged if `sequence` is None."""
    end = None if sequence is None else Position(sequence, sequence, 7, NOON)
    return SeenMember(name, document(name, epoch, in_sync, session), end, "" if end else "it is damaged: zeros")


BOTH = "disk nas"
DISK, NAS, FAR = seen("disk", 5, BOTH), seen("nas", 5, BOTH), seen("far", 5, BOTH, 60)


def names(sources: tuple[SeenMember, ...]) -> list[str]:
    return [source.name for source in sources]


# Nothing is demanded


@pytest.mark.parametrize(
    ("read", "sources"),
    [
        ([DISK, NAS, FAR], ["disk", "nas"]),
        ([FAR, seen("nas", 5, BOTH, 101), DISK], ["nas", "disk"]),
        ([DISK, seen("nas", 4, BOTH, 900), FAR], []),
        ([seen("disk", 5, "disk"), seen("nas", 4, BOTH, 900), FAR], ["disk"]),
        ([seen("disk", 5, "disk"), seen("nas", 4, BOTH, 900), seen("far", 4, BOTH, 900)], ["disk"]),
        ([seen("disk", 5, BOTH, None), NAS, FAR], ["nas"]),
        ([DISK, NAS, seen("far", 3, BOTH, None)], ["disk", "nas"]),
        ([DISK, seen("nas", 5, BOTH, 80), FAR], ["disk"]),
        ([seen("disk", 5, BOTH, 80), seen("nas", 5, BOTH, 80), seen("far", 5, BOTH, 90)], ["far"]),
    ],
    ids=[
        "all",
        "longest first",
        "set back",
        "out of sync and longer",
        "out of sync, older and longer",
        "one damaged",
        "trailing damaged",
        "an old copy is no substitute",
        "all in sync are old copies",
    ],
)
def test_all_members_read_restores_from_those_in_sync_without_a_question(
    read: list[SeenMember], sources: list[str]
) -> None:
    if not sources:
        with pytest.raises(MembersMissing, match="1 member of this backup could not be read") as demanded:
            choose(read, {}, ())
        assert demanded.value.names == ("nas",)
        assert "an older copy of it (of epoch 4; the newest that was read is 5)" in demanded.value.listed[0]
        return
    choice = choose(read, {}, ())
    assert names(choice.sources) == sources
    assert not choice.given_up


# What is demanded


@pytest.mark.parametrize(
    ("read", "wanted", "said"),
    [
        ([DISK, NAS], ["far"], ["it trails, so it is older or equal"]),
        ([DISK, FAR], ["nas"], ["in sync until 20", "so it may hold newer changes"]),
        ([DISK], ["nas", "far"], ["in sync until", "it trails"]),
        ([FAR], ["disk", "nas"], ["in sync until", "in sync until"]),
        (
            [seen("disk", 5, "disk"), FAR],
            ["nas"],
            ["out of sync since", "(it did not answer for 5 seconds), so probably older"],
        ),
        ([seen("disk", 5, BOTH, None), FAR], ["disk", "nas"], ["not read because: it is damaged: zeros"]),
        ([seen("disk", 5, "disk", None), NAS, FAR], ["disk"], ["in sync until"]),
        ([seen("nas", 4, BOTH, 90), FAR], ["disk", "nas"], ["an older copy of it"]),
    ],
)
def test_each_member_that_was_not_read_is_demanded_by_name(
    read: list[SeenMember], wanted: list[str], said: list[str]
) -> None:
    missing = {name: "nobody is at home" for name in wanted if name not in [each.name for each in read]}
    with pytest.raises(MembersMissing) as demanded:
        choose(read, missing, ())
    assert list(demanded.value.names) == wanted
    assert " ".join(f"--without {name}" for name in wanted) in str(demanded.value)
    listed = "\n".join(demanded.value.listed)
    for words in said:
        assert words in listed
    for name in missing:
        assert f"{name} ({next(member.url for member in MEMBERS if member.name == name)}): " in listed
        assert "not read because: nobody is at home" in listed


def test_consent_to_some_of_the_missing_members_is_not_enough() -> None:
    for without in ((), ("nas",), ("far",)):
        with pytest.raises(MembersMissing):
            choose([DISK], {"nas": "x", "far": "x"}, without)
    choice = choose([DISK], {"nas": "x", "far": "x"}, ("far", "nas"))
    assert names(choice.sources) == ["disk"]
    assert list(choice.given_up) == ["nas", "far"]


def test_member_without_any_reason_still_counts_as_missing() -> None:
    with pytest.raises(MembersMissing) as demanded:
        choose([DISK, NAS], {}, ())
    assert demanded.value.names == ("far",)


def test_lone_member_that_believes_to_be_the_only_one_in_sync_still_asks_for_the_others() -> None:
    """It may be an old copy of itself."""
    with pytest.raises(MembersMissing) as demanded:
        choose([seen("disk", 9, "disk")], {}, ())
    assert demanded.value.names == ("nas", "far")


def test_older_document_does_not_tell_which_members_are_configured() -> None:
    """A member that was removed since is not asked for, and one that was added is."""
    new = (*MEMBERS[:2], Member("stick", "usb://STICK/lightning.bkp"))
    newer = replace(DISK, document=document("disk", 6, "disk stick", members=new))
    with pytest.raises(MembersMissing) as demanded:
        choose([newer, FAR], {}, ())
    assert demanded.value.names == ("nas", "stick")


# What is restored from with consent


@pytest.mark.parametrize(
    ("read", "without", "sources"),
    [
        ([seen("disk", 5, "disk", None), seen("nas", 4, BOTH, 90), FAR], "disk", ["far"]),
        ([seen("disk", 5, "disk", None), seen("nas", 4, BOTH, 90)], "disk far", ["nas"]),
        ([FAR], "disk nas", ["far"]),
        ([seen("nas", 4, BOTH, 90)], "disk far", ["nas"]),
    ],
)
def test_members_given_up_leave_the_newest_of_the_others(
    read: list[SeenMember], without: str, sources: list[str]
) -> None:
    assert names(choose(read, {}, tuple(without.split())).sources) == sources


def test_member_in_sync_that_was_read_is_restored_from_although_it_was_given_up() -> None:
    """Whether it is damaged is only known for sure once it was restored from; newer than the others it is anyway."""
    assert names(choose([seen("disk", 5, "disk"), NAS, FAR], {}, ("disk",)).sources) == ["disk"]


def test_damaged_members_only_are_tried_so_that_the_damage_is_told() -> None:
    read = [seen("disk", 5, BOTH, None), seen("nas", 5, BOTH, None), seen("far", 5, BOTH, None)]
    assert names(choose(read, {}, ()).sources) == ["disk", "nas"]
    assert names(choose(read[2:], {}, ("disk", "nas")).sources) == ["far"]


def test_name_that_no_member_has_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BackupError, match="--without nass names no member of this backup; they are: disk, nas, far"):
        choose([DISK], {}, ("nass", "far"))


def test_member_that_is_being_filled_for_the_first_time_counts_as_missing() -> None:
    filling = seen("nas", 0, "")
    with pytest.raises(MembersMissing) as demanded:
        choose([DISK, filling, FAR], {"nas": "it is being filled"}, ())
    assert demanded.value.names == ("nas",)
    assert names(choose([DISK, filling, FAR], {}, ("nas",)).sources) == ["disk"]


# Two histories


def test_members_written_by_two_nodes_are_refused_until_one_side_is_left_out() -> None:
    other = seen("nas", 5, "nas", 300, session="another")
    with pytest.raises(Diverged):
        choose([DISK, other, FAR], {}, ())
    with pytest.raises(Diverged):
        choose([DISK, other, FAR], {}, ("far",))
    choice = choose([DISK, other, FAR], {}, ("nas",))
    assert names(choice.sources) == ["disk"]
    assert "it was left out" in choice.given_up["nas"]
    assert names(choose([DISK, other, FAR], {}, ("disk", "far")).sources) == ["nas"]


def test_leaving_out_every_member_is_no_way_out_of_two_histories() -> None:
    with pytest.raises(Diverged):
        choose([DISK, seen("nas", 5, "nas", 300, session="another")], {}, ("disk", "nas", "far"))


def test_demand_is_no_sign_of_damage() -> None:
    with pytest.raises(MembersMissing) as demanded:
        choose([DISK], {}, ())
    assert not isinstance(demanded.value, Unrestorable)
    assert (demanded.value.exit_code, demanded.value.kind) == (1, "members_missing")
