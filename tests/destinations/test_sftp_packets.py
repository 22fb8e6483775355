"""A server that answers nonsense: it costs the connection, little memory, and nothing wrong is ever believed."""

import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends import place_at
from backends.storage.base import FileFenced
from backends.storage.channel import Disconnected, Malformed
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.packets import MAX_PACKET, Attributes, Failure, Kind, Status, Unpacker, number, string
from backends.storage.sftp.sentences import why_it_failed
from backends.storage.sftp.session import Session
from backends.storage.sftp.storage import SftpStorage
from tests.destinations.sftp_servers import storage_at

SSH = Path(__file__).with_name("scripted_sftp.py")

VERSION = bytes([Kind.VERSION]) + number(3)
ALL = b"".join(
    string(name) + string(b"1") for name in (b"fsync@openssh.com", b"posix-rename@openssh.com", b"hardlink@openssh.com")
)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SftpStorage]:
    """Puts a program in the place of ssh that sends these packets, one for each request, and then nothing more."""

    def make(*packets: bytes, first: bytes | None = None, end: str = "wait", timeout: int = 60) -> SftpStorage:
        answers = tmp_path / "answers"
        answers.write_bytes(b"".join(string(each) for each in (first or VERSION + ALL, *packets)))
        program = tmp_path / "ssh"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {SSH} {answers} {end}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return storage_at(f"sftp://scripted-{os.urandom(4).hex()}/srv/lightning.bkp?timeout={timeout}")

    return make


def answer(kind: Kind, request: int, body: bytes) -> bytes:
    """A packet that answers this request; they are counted from 0."""
    return bytes([kind]) + number(request) + body


def status(request: int, code: Status, words: bytes = b"") -> bytes:
    return answer(Kind.STATUS, request, number(code) + string(words) + string(b""))


def test_scripted_server_is_understood(scripted: Callable[..., SftpStorage]) -> None:
    directory = answer(Kind.ATTRS, 0, number(4) + number(0o40700))
    assert scripted(directory).exists()
    assert not scripted(status(0, Status.NO_SUCH_FILE)).exists()


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (answer(Kind.ATTRS, 7, number(0)), "was not made"),
        (answer(Kind.DATA, 0, string(b"data")), "packet of type 103"),
        (answer(Kind.ATTRS, 0, number(1) + b"\xff" * 8), "size of"),
        (answer(Kind.ATTRS, 0, number(1) + b"\xff" * 7), "ends too early"),
        (answer(Kind.ATTRS, 0, number(0x80000000) + number(1 << 31)), "additional attributes"),
        (b"\x65\0", "packet of 2 bytes"),
        (status(0, Status.OK), "packet of type 101"),
    ],
)
def test_answer_that_breaks_the_protocol_is_an_error_and_nothing_is_believed(
    packet: bytes, said: str, scripted: Callable[..., SftpStorage]
) -> None:
    with pytest.raises(OSError, match=said):
        scripted(packet).exists()


def test_packet_without_end_is_not_collected(scripted: Callable[..., SftpStorage], tmp_path: Path) -> None:
    storage = scripted()
    (tmp_path / "answers").write_bytes(string(VERSION + ALL) + number(MAX_PACKET + 1) + bytes(100))
    with pytest.raises(OSError, match="announces a packet"):
        storage.exists()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (bytes([Kind.VERSION]) + number(6), "version 6"),
        (bytes([Kind.STATUS]) + number(3), "does not answer as an SFTP server"),
        (VERSION + (string(b"x") + string(b"1")) * 1 + string(b"y")[:3], "ends too early"),
    ],
)
def test_server_that_begins_wrong_is_refused(first: bytes, said: str, scripted: Callable[..., SftpStorage]) -> None:
    with pytest.raises((OSError, Malformed), match=said):
        scripted(first=first).exists()


def test_limits_that_make_no_sense_are_refused(scripted: Callable[..., SftpStorage]) -> None:
    first = VERSION + ALL + string(b"limits@openssh.com") + string(b"1")
    body = struct.pack(">4Q", 100, 100, 100, 100)
    with pytest.raises((OSError, Malformed), match="less than a sector"):
        scripted(answer(Kind.EXTENDED_REPLY, 0, body), first=first).exists()


@pytest.mark.parametrize("names", [0, 3000])
def test_listing_without_end_is_given_up(
    names: int, scripted: Callable[..., SftpStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = string(b"segment-00000001") + string(b"") + number(0)
    listing = [answer(Kind.NAME, request, number(names) + entry * names) for request in range(1, 40)]
    with pytest.raises(OSError, match="does not end"):
        scripted(answer(Kind.HANDLE, 0, string(b"h")), *listing).names()


def test_more_data_than_was_asked_for_is_an_error(scripted: Callable[..., SftpStorage]) -> None:
    regular = answer(Kind.ATTRS, 0, number(4) + number(0o100600))
    too_much = answer(Kind.DATA, 2, string(bytes(600)))
    with pytest.raises(OSError, match="600 bytes where 512"):
        scripted(regular, answer(Kind.HANDLE, 1, string(b"h")), too_much).open("manifest")


def test_server_that_ends_at_once_is_not_asked_again_and_again(scripted: Callable[..., SftpStorage]) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=r"broke|log in"):
        scripted(end="exit", timeout=5).exists()
    assert time.monotonic() - began < 8


def test_late_answer_is_never_taken_for_that_of_another_request(scripted: Callable[..., SftpStorage]) -> None:
    storage = scripted()
    session = storage._rest.do(lambda session: session)
    session.until = time.monotonic() + 0.2
    with pytest.raises(Disconnected, match="not answered in time"):
        session.attributes("/srv")
    session.until = time.monotonic() + 5
    with pytest.raises(Disconnected, match="was closed"):  # and nothing was written to its descriptors
        session.attributes("/srv")


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\x09abc"])
def test_cut_values_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Unpacker(data).string()


def test_handles_and_names_are_bounded() -> None:
    with pytest.raises(Malformed, match="at most 256"):
        Unpacker(string(bytes(257))).string(256)
    with pytest.raises(Malformed, match="at most"):
        Unpacker(string(bytes(5000))).name()


def test_status_words_of_a_server_are_shown_harmless() -> None:
    with pytest.raises(Failure, match=r"\\x1b\[2J"):
        Unpacker(number(Status.FAILURE) + string(b"\x1b[2J") + string(b"")).check_status("manifest")


def test_file_is_sealed_only_if_the_server_tells_permissions() -> None:
    assert Attributes(mode=0o100400).sealed
    assert not Attributes(mode=0o100600).sealed
    assert not Attributes().sealed


# A commit is one round trip, and in the right order


class Recorded(Connection):
    """A connection that records what is sent at once."""

    def __init__(self, mode: int) -> None:
        self.sent: list[list[Kind]] = []
        self._mode = mode

    def exchange(self, calls: "list[tuple[Kind, bytes]]", until: float) -> "list[tuple[int, Unpacker]]":  # type: ignore[override]
        self.sent.append([kind for kind, _ in calls])
        done = number(Status.OK) + string(b"") + string(b"")
        found = number(4) + number(self._mode)
        return [
            (Kind.ATTRS, Unpacker(found)) if kind == Kind.FSTAT else (Kind.STATUS, Unpacker(done)) for kind, _ in calls
        ]

    def close(self) -> None:
        """There is no process."""


def recorded(mode: int = 0o100600) -> Iterator[tuple[Session, Recorded]]:
    session = Session.__new__(Session)
    connection = Recorded(mode)
    session.connection, session.until = connection, time.monotonic() + 5
    session.largest_read = session.largest_write = 32 << 10
    yield session, connection


def test_commit_is_sent_at_once_and_attributes_are_asked_for_after_the_sync() -> None:
    for session, connection in recorded():
        assert not session.commit(b"h", 0, b"record", "segment").sealed
        assert connection.sent == [[Kind.WRITE, Kind.EXTENDED, Kind.FSTAT]]


def test_large_commit_is_sent_at_once_in_pieces_that_end_at_sectors() -> None:
    for session, connection in recorded():
        session.commit(b"h", 100, bytes(100_000), "segment")
        assert connection.sent == [[*[Kind.WRITE] * 4, Kind.EXTENDED, Kind.FSTAT]]
        writes = [Unpacker(body) for kind, body in session._writes(b"h", 100, bytes(100_000)) if kind == Kind.WRITE]
        ends = []
        for each in writes:
            each.string()
            ends.append(each.long() + len(each.string()))
        assert [end % 4096 for end in ends[:-1]] == [0, 0, 0]
        assert ends[-1] == 100_100


def test_sealed_file_is_seen_in_the_same_round_trip() -> None:
    for session, connection in recorded(0o100400):
        assert session.commit(b"h", 0, b"record", "segment").sealed
        assert len(connection.sent) == 1
    assert issubclass(FileFenced, OSError)


def test_connection_that_broke_in_use_is_not_called_a_failed_login() -> None:
    address = place_at("sftp://nas/srv/lightning.bkp").storage._address  # type: ignore[attr-defined]
    assert why_it_failed("", 255, address, began=True).sentence == "the connection to nas broke"
    assert "could not log in" in why_it_failed("", 255, address, began=False).sentence
