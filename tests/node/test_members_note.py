"""`backup.members`, the node's own side of the epochs: read back as written, and only a whole note counts."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from backends.log.format.members import Epoch, OutOfSync
from backends.node.members_note import (
    MAX_SESSIONS,
    MEMBERS_FILE,
    MembersNote,
    read_members_note,
    remove_members_note,
    write_members_note,
)

NOTE = MembersNote(
    "0123456789abcdef",
    Epoch(7, "session two"),
    ("stick", "nas"),
    Epoch(9, "session three"),
    {"disk": OutOfSync(1_764_000_000, "no space left on device")},
    ("session one", "session two", "session three"),
    {"session one": 6, "session two": 8, "session three": 9},
    5,
    {"disk": "/mnt/disk"},
)


def forge(directory: Path, **changed: Any) -> None:
    """The note with other fields, and with the checksum that belongs to them."""
    write_members_note(directory, NOTE)
    path = directory / MEMBERS_FILE
    fields = {**json.loads(path.read_bytes().split(b"\n")[0]), **changed}
    line = json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()
    path.write_bytes(line + b"\n%08x\n" % crc32(line))


@pytest.mark.parametrize(
    "note", [NOTE, replace(NOTE, intent=None), MembersNote("id", Epoch(0, ""), ())], ids=["full", "done", "empty"]
)
def test_members_note_is_read_back_as_written(tmp_path: Path, note: MembersNote) -> None:
    write_members_note(tmp_path, note)
    assert read_members_note(tmp_path) == note


def test_members_note_is_private_with_nothing_beside_it(tmp_path: Path) -> None:
    write_members_note(tmp_path, NOTE)
    assert (tmp_path / "backup.members").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["backup.members"]


def test_members_note_is_synced_before_its_rename_and_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent that a power cut takes back has protected from nothing."""
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def watched_rename(old: str, new: str, **directories: int) -> None:
        steps.append("rename")
        rename(old, new, **directories)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_rename)
    write_members_note(tmp_path, NOTE)
    assert steps == ["sync backup.members.tmp", "rename", f"sync {tmp_path.name}"]


def test_failed_write_leaves_old_members_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_members_note(tmp_path, NOTE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_members_note(tmp_path, replace(NOTE, intent=None))
    assert read_members_note(tmp_path) == NOTE


def test_missing_members_note_is_none_and_may_be_removed(tmp_path: Path) -> None:
    remove_members_note(tmp_path)
    assert read_members_note(tmp_path) is None
    write_members_note(tmp_path, NOTE)
    remove_members_note(tmp_path)
    assert read_members_note(tmp_path) is None


def test_members_note_cut_at_any_byte_is_none(tmp_path: Path) -> None:
    write_members_note(tmp_path, NOTE)
    path = tmp_path / MEMBERS_FILE
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read_members_note(tmp_path) is None, length


def test_members_note_with_any_bit_flipped_is_none(tmp_path: Path) -> None:
    write_members_note(tmp_path, NOTE)
    path = tmp_path / MEMBERS_FILE
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            assert read_members_note(tmp_path) is None, (place, bit)


def test_members_note_with_anything_appended_is_none(tmp_path: Path) -> None:
    write_members_note(tmp_path, NOTE)
    path = tmp_path / MEMBERS_FILE
    data = path.read_bytes()
    for rest in (b"\n", b"\x00", data):
        path.write_bytes(data + rest)
        assert read_members_note(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00" * 4096, b"[" * 60000, b"x" * 70000])
def test_members_note_of_senseless_bytes_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MEMBERS_FILE).write_bytes(content)
    assert read_members_note(tmp_path) is None


def test_members_note_that_is_a_directory_or_a_pipe_is_none(tmp_path: Path) -> None:
    (tmp_path / MEMBERS_FILE).mkdir()
    assert read_members_note(tmp_path) is None
    (tmp_path / MEMBERS_FILE).rmdir()
    os.mkfifo(tmp_path / MEMBERS_FILE)
    assert read_members_note(tmp_path) is None


def test_fields_of_later_release_in_members_note_mean_nothing(tmp_path: Path) -> None:
    forge(tmp_path, later={"more": [1, 2]}, epoch={"number": 7, "session": "session two", "later": 1})
    assert read_members_note(tmp_path) == NOTE


EPOCHS: tuple[Any, ...] = (
    *(..., None, 7, [], {}, {"number": 7}),
    *({"number": number, "session": "x"} for number in ("7", 7.0, True, None, -1, 1 << 62)),
    {"number": 7, "session": 7},
)

IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "backup_id": (..., None, 7, []),
    "epoch": EPOCHS,
    "intent": tuple(value for value in EPOCHS if value is not None),
    "in_sync": (..., None, 7),
    "out": (..., None, 7, [], {"disk": 7}, {"disk": {"since": "x", "why": "x"}}, {"disk": {"since": 1}}),
    "sessions": (..., None, 7),
    "history": (..., None, 7, ["x"], *({"x": number} for number in ("7", 7.0, True, None, -1, 1 << 62))),
    "adopted": (..., None, "5", 5.0, True, -1, 1 << 62),
    "mounts": (..., None, 7, ["/mnt"]),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in IMPOSSIBLE.items() for value in values]
)
def test_members_note_with_impossible_field_is_none(tmp_path: Path, field: str, value: Any) -> None:
    forge(tmp_path, **{field: value})
    assert read_members_note(tmp_path) is None


def test_members_note_keeps_only_the_newest_sessions(tmp_path: Path) -> None:
    sessions = tuple(f"{number:016x}" for number in range(MAX_SESSIONS + 5))
    write_members_note(tmp_path, replace(NOTE, sessions=sessions))
    found = read_members_note(tmp_path)
    assert found is not None
    assert found.sessions == sessions[5:]


def test_members_note_keeps_only_the_newest_epochs_of_history(tmp_path: Path) -> None:
    history = {f"{number:016x}": number for number in reversed(range(1, MAX_SESSIONS + 6))}
    write_members_note(tmp_path, replace(NOTE, history=history))
    found = read_members_note(tmp_path)
    assert found is not None
    assert found.history == {session: number for session, number in history.items() if number > 5}


@pytest.mark.parametrize(("session", "last"), [*NOTE.history.items(), ("another node's session", NOTE.adopted)])
def test_node_knows_epochs_of_each_session_only_up_to_the_last_one_in_its_history(session: str, last: int) -> None:
    """A directory that was set back knows its last session, but not what that did afterwards."""
    known = [number for number in range(12) if NOTE.knows(Epoch(number, session))]
    assert known == list(range(last + 1))


def test_session_listed_without_history_is_not_enough_to_know_its_epochs() -> None:
    note = replace(NOTE, history={}, adopted=0)
    assert note.began("session two")
    assert not note.knows(Epoch(1, "session two"))


def test_epoch_of_a_member_being_filled_is_known_to_every_node() -> None:
    assert MembersNote("id", Epoch(0, ""), ()).knows(Epoch(0, "of any node"))


def test_node_has_begun_the_sessions_that_it_lists_or_that_its_history_has() -> None:
    note = replace(NOTE, sessions=("session three",), history={"before the restore": 4})
    assert [note.began(each) for each in ("session three", "before the restore", "another")] == [True, True, False]


def test_newest_number_of_members_note_is_that_of_its_intent() -> None:
    assert NOTE.newest == 9
    assert replace(NOTE, intent=None).newest == 7
