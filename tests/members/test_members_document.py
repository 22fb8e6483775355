"""The document `members` in each member: read back as written, and nothing in it is believed that cannot be."""

import json
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError, Damaged, FromTheFuture, NotABackup
from backends.log.format.members import MAX_HISTORY, MAX_MEMBERS, Epoch, Member, MembersDocument, OutOfSync
from backends.times import UNKNOWN_TIME
from tests.members.seen import BACKUP, MEMBERS

DOCUMENT = MembersDocument(
    BACKUP,
    "nas",
    Epoch(7, "0123456789abcdef"),
    ("stick", "nas"),
    MEMBERS,
    2,
    {"disk": OutOfSync(1_764_000_000, "no space left on device")},
    {"0123456789abcdef": 7, "an earlier session": 4},
    2,
)


def forged(**changed: Any) -> bytes:
    """The document with other fields, and with the checksum that belongs to them."""
    fields = {**json.loads(DOCUMENT.encode().split(b"\n")[0]), **changed}
    line = json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()
    return line + b"\n%08x\n" % crc32(line)


def test_members_document_is_read_back_as_written() -> None:
    assert MembersDocument.decode(DOCUMENT.encode()) == DOCUMENT


def test_documents_of_two_members_differ_in_name_only() -> None:
    other = replace(DOCUMENT, name="stick")
    assert MembersDocument.decode(other.encode()) == other
    assert forged(name="stick") == other.encode()


words = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=60)


@settings(deadline=None)
@given(
    st.lists(st.builds(Member, words, words, st.booleans()), max_size=MAX_MEMBERS, unique_by=lambda each: each.name),
    st.integers(0, (1 << 62) - 1),
    st.integers(0, 16),
    st.integers(1, (1 << 32) - 1),
    words,
    st.data(),
)
def test_any_members_document_is_read_back_as_written(
    members: list[Member], number: int, need: int, since: int, text: str, data: st.DataObject
) -> None:
    names = [member.name for member in members]
    in_sync = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    out = {name: OutOfSync(since, text) for name in names if name not in in_sync}
    history = {text: number, f"{text}-": since}
    document = MembersDocument(
        text, text, Epoch(number, text), tuple(in_sync), tuple(members), need, out, history, since
    )
    assert MembersDocument.decode(document.encode()) == document


def test_longest_history_of_a_members_document_is_read_back_as_written() -> None:
    document = replace(DOCUMENT, history={f"session {index}": index for index in range(MAX_HISTORY)})
    assert MembersDocument.decode(document.encode()) == document


@pytest.mark.parametrize(
    ("session", "last"), [("0123456789abcdef", 7), ("an earlier session", 4), ("another node's session", 2)]
)
def test_epochs_lead_to_a_document_up_to_the_last_of_their_session_in_its_history(session: str, last: int) -> None:
    assert [number for number in range(12) if DOCUMENT.leads_from(Epoch(number, session))] == list(range(last + 1))


def test_epoch_of_a_document_leads_to_itself_without_any_history() -> None:
    bare = replace(DOCUMENT, history={}, floor=0)
    assert bare.leads_from(bare.epoch)
    assert not bare.leads_from(replace(bare.epoch, number=6))


def test_members_document_cut_at_any_byte_is_found() -> None:
    data = DOCUMENT.encode()
    for length in range(len(data)):
        with pytest.raises(Damaged):
            MembersDocument.decode(data[:length])


def test_members_document_with_any_bit_flipped_is_found() -> None:
    data = DOCUMENT.encode()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(Damaged):
                MembersDocument.decode(bytes(flipped))


def test_members_document_with_anything_appended_is_found() -> None:
    for rest in (b"\n", b"\x00", DOCUMENT.encode()):
        with pytest.raises(Damaged):
            MembersDocument.decode(DOCUMENT.encode() + rest)


def test_members_document_of_later_format_is_refused() -> None:
    with pytest.raises(FromTheFuture):
        MembersDocument.decode(forged(**{"lightningd-backup": 99}))


def test_members_document_of_another_program_is_no_backup() -> None:
    with pytest.raises(NotABackup):
        MembersDocument.decode(forged(**{"lightningd-backup": ...}))


def test_fields_of_later_release_in_members_document_mean_nothing() -> None:
    assert MembersDocument.decode(forged(later={"more": [1, 2]})) == DOCUMENT


ONE = {"name": "stick", "url": "usb://STICK/lightning.bkp", "trailing": False}


IMPOSSIBLE_NUMBERS: tuple[Any, ...] = (None, "7", 7.0, True, -1, 1 << 62, {})

IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "backup_id": (..., None, 7, [], "x" * 2001),
    "name": (..., None, 7, {}, "x" * 2001),
    "epoch": (..., None, "7", 7.0, True, -1, 1 << 62, 1 << 500),
    "session": (..., None, 7, [], "x" * 2001),
    "in_sync": (..., None, "stick", {"stick": 1}, [7], [None], [["stick"]], ["nobody"], ["stick"] * 17),
    "members": (..., None, "stick", {}, ["stick"], [None], [[]], [{}], [ONE, ONE], [{**ONE, "name": 7}]),
    "need": (..., None, "1", 1.0, True, -1, 1 << 62),
    "out": (..., None, [], "disk", 7),
    "history": (
        *(..., None, 7, [], "x", {"x" * 2001: 1}, {str(number): number for number in range(MAX_HISTORY + 1)}),
        *({"x": value} for value in IMPOSSIBLE_NUMBERS),
    ),
    "floor": (..., None, "2", 2.0, True, -1, 1 << 62, []),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in IMPOSSIBLE.items() for value in values]
)
def test_members_document_with_impossible_field_is_damage(field: str, value: Any) -> None:
    with pytest.raises(Damaged, match=r"in members at byte 0"):
        MembersDocument.decode(forged(**{field: value}))


@pytest.mark.parametrize("url", [..., None, 7, ["usb://STICK"], "x" * 2001])
def test_members_document_with_impossible_url_of_a_member_is_damage(url: Any) -> None:
    with pytest.raises(Damaged, match="an impossible value of url"):
        MembersDocument.decode(forged(members=[{**{k: v for k, v in ONE.items() if k != "url"}, **_url(url)}]))


def _url(value: Any) -> dict[str, Any]:
    return {} if value is ... else {"url": value}


def test_more_members_than_there_may_be_are_damage() -> None:
    many = [{**ONE, "name": str(number)} for number in range(MAX_MEMBERS + 1)]
    with pytest.raises(Damaged):
        MembersDocument.decode(forged(members=many, in_sync=[]))
    assert len(MembersDocument.decode(forged(members=many[1:], in_sync=[], out={})).members) == MAX_MEMBERS


@pytest.mark.parametrize("since", [None, "x", -1, 1 << 60, 1.5, True, {}])
def test_impossible_time_in_members_document_counts_as_unknown(since: Any) -> None:
    decoded = MembersDocument.decode(forged(out={"disk": {"since": since, "why": "full"}}))
    assert decoded.out == {"disk": OutOfSync(UNKNOWN_TIME, "full")}


@pytest.mark.parametrize("why", [None, 7, [], "x" * 2001])
def test_impossible_reason_in_members_document_is_damage(why: Any) -> None:
    with pytest.raises(Damaged):
        MembersDocument.decode(forged(out={"disk": {"since": 1, "why": why}}))


def test_text_in_members_document_never_reaches_a_terminal_as_control_characters() -> None:
    nasty = "\x1b[2J\r\n\u202e"
    decoded = MembersDocument.decode(
        forged(
            session=nasty, in_sync=[nasty], members=[{**ONE, "name": nasty}], out={nasty: {"since": 1, "why": nasty}}
        )
    )
    shown = [
        decoded.epoch.session,
        *decoded.in_sync,
        decoded.members[0].name,
        *decoded.out,
        decoded.out[decoded.in_sync[0]].why,
    ]
    assert all(text.isprintable() for text in shown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(("epoch", "session", "in_sync", "members", "need", "out", "name")), json_values))
def test_hostile_members_document_raises_nothing_but_what_readers_expect(changed: dict[str, Any]) -> None:
    try:
        MembersDocument.decode(forged(**changed))
    except BackupError as error:
        assert isinstance(error, Damaged)
