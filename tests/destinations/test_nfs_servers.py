"""NFS servers without what RFC 1813 and 8881 make optional, or with numbers that make no sense; and removed files."""

import os
import struct
import time
from contextlib import closing
from typing import cast

import pytest

from backends.storage.base import Storage
from backends.storage.channel import Malformed
from backends.storage.nfs import gone
from backends.storage.nfs.protocol import MAX_ENTRIES, Attributes, Kind, check_listing, limit
from backends.storage.nfs.rpc import Connection, Identity, Refused
from backends.storage.nfs.session41 import Session
from backends.storage.nfs.storage import NfsStorage
from backends.storage.nfs.version3 import Version3
from backends.storage.nfs.version41 import Version41
from backends.storage.nfs.xdr import Unpacker, long, number, text
from tests.destinations.places import Places
from tests.destinations.scripted_nfs import Scripted
from tests.destinations.second_writer import Open, created, opener
from tests.fake_lightningd.calls import History
from tests.log.histories import change, silent
from tests.log.model import versions

READDIRPLUS, READDIR, NOT_SUPPORTED = 17, 16, 10004


@pytest.fixture(params=["nfs3", "nfs41"])
def place(request: pytest.FixtureRequest, places: Places) -> Open:
    """A place on a real server where there is no backup yet."""
    return opener(places.url(request.param))


@pytest.fixture(params=["status", "procedure"])
def without_readdirplus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the real server appear to lack READDIRPLUS, in one of two ways. Returns the listing procedures called."""
    asked, real = list[int](), Connection.call

    def call(self: Connection, program: int, version: int, procedure: int, data: bytes, until: float) -> Unpacker:
        if program == 100003 and procedure in (READDIR, READDIRPLUS):
            asked.append(procedure)
        if program == 100003 and procedure == READDIRPLUS:
            if request.param == "status":
                return Unpacker(number(NOT_SUPPORTED) + number(0))
            return real(self, program, version, 99, data, until)  # a procedure that no server knows
        return real(self, program, version, procedure, data, until)

    monkeypatch.setattr(Connection, "call", call)
    return asked


def test_nfs_server_without_readdirplus_is_listed(places: Places, without_readdirplus: list[int]) -> None:
    open_ = created(opener(places.url("nfs3")))
    history = History(1)
    for session in ("one", "two"):
        writer = open_().open(silent, session)
        for _ in range(5):
            writer.append(change(history.note()))
        writer.close()
    assert versions(open_()) == list(range(2, 12))
    assert "manifest" in open_().storage.names()
    before = without_readdirplus.count(READDIRPLUS)
    storage = open_().storage
    for _ in range(3):
        storage.names()
    assert without_readdirplus.count(READDIRPLUS) == before + 1, "it is asked once on each connection"
    assert without_readdirplus.count(READDIR) > 3


def test_nfs_directory_of_many_files_is_listed_whole(place: Open, places: Places) -> None:
    """The listing takes several answers."""
    storage = place().storage
    storage.make()
    (directory,) = places.ganesha.exported.glob(f"{cast(NfsStorage, storage)._server.directory[-1]}/lightning.bkp")
    names = sorted(f"{'long' * 40}-{count:04}" for count in range(1000))
    for name in names:
        (directory / name).touch()
    assert storage.names() == names


# Numbers of a server


class Endless(Connection):
    """An NFSv3 server whose directory has no end."""

    def __init__(self, names: int) -> None:
        self.names = names

    def call(self, program: int, version: int, procedure: int, arguments: bytes, until: float) -> Unpacker:
        if procedure != READDIRPLUS:
            return Unpacker(number(0) + number(0) + number(512) * 6 + bytes(24))
        attributes = number(1) + number(1) + bytes(80)
        entry = number(1) + long(7) + text("segment-00000001") + long(8) + attributes + number(0)
        return Unpacker(number(0) + number(0) + bytes(8) + entry * self.names + number(0) + number(0))


def version3(connection: Connection) -> Version3:
    protocol = Version3.__new__(Version3)
    protocol._connection, protocol._lists_attributes, protocol.until = connection, True, 0.0
    return protocol


@pytest.mark.parametrize("names", [0, 1000])
def test_nfs_directory_without_end_is_refused(names: int) -> None:
    with pytest.raises(Malformed, match="does not end"):
        version3(Endless(names)).entries(b"directory")


def test_nfs_listing_beyond_maximum_length_is_refused() -> None:
    check_listing(MAX_ENTRIES, 1, end=False)
    check_listing(0, 0, end=True)
    with pytest.raises(Malformed):
        check_listing(MAX_ENTRIES + 1, 1, end=True)


@pytest.mark.parametrize(("told", "taken"), [(0, 1 << 20), (512, 512), (65536, 65536), (1 << 31, 1 << 20)])
def test_nfs_size_limit_is_taken_from_server_within_ours(told: int, taken: int) -> None:
    assert limit(told, 1 << 20) == taken


@pytest.mark.parametrize("told", [1, 511])
def test_nfs_size_limit_below_a_sector_is_refused(told: int) -> None:
    with pytest.raises(Malformed, match=f"only {told} bytes"):
        limit(told, 1 << 20)


@pytest.mark.parametrize("largest", [0, 1000, 1024, 1535])
def test_nfs_session_too_small_for_a_write_is_refused(largest: int) -> None:
    """It raises Refused and not another error: if the URL leaves the version open, version 3 is then tried."""
    connection = Scripted()
    connection.largest = largest
    with pytest.raises(Refused, match=f"calls of {largest} bytes"):
        Session(cast(Connection, connection), 0.0)


def test_smallest_nfs_session_writes_one_sector(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Scripted()
    connection.largest = 1536
    monkeypatch.setattr(Version41, "_connect", lambda self: connection)
    assert Version41("nas.local", 2049, Identity(), False, 0.0).largest_write == 512


def test_nfs_port_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = version3(Endless(0))
    protocol._host, protocol._identity = "127.0.0.1", Identity()
    monkeypatch.setattr(Connection, "__init__", lambda *_: None)
    monkeypatch.setattr(Connection, "close", lambda self: None)
    monkeypatch.setattr(Connection, "call", lambda *_: Unpacker(struct.pack(">I", 70_000)))
    with pytest.raises(Malformed, match="port 70000"):
        protocol._port_of(100003, 3)


# Removed files


def on_disk(places: Places, storage: Storage) -> dict[str, int]:
    """Every file in the backup, hidden ones included, and its size."""
    parent = cast(NfsStorage, storage)._server.directory[-1]
    return {path.name: path.stat().st_size for path in (places.ganesha.exported / parent / "lightning.bkp").iterdir()}


def hidden(files: dict[str, int]) -> int:
    return sum(size for name, size in files.items() if name.startswith(gone.HIDDEN))


def test_restarts_over_nfs_keep_removed_files_within_their_space_limit(
    place: Open, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a node replaces the last segment."""
    room = 400_000
    monkeypatch.setattr(gone, "ROOM", room)
    monkeypatch.setattr("backends.storage.nfs.storage.ROOM", room)
    open_, history, most = created(place), History(1), 0
    for start in range(12):
        writer = open_().open(silent, f"start {start}")
        for _ in range(20):
            writer.append(change(history.note(os.urandom(500).hex())))
            files = on_disk(places, writer.storage)
            live = sum(files.values()) - hidden(files)
            assert hidden(files) <= max(room, live), files
        writer.close()
        most = max(most, hidden(on_disk(places, writer.storage)))
    assert most > room // 2, "it was never near the limit"
    assert versions(open_()) == list(range(2, 12 * 20 + 2))


def test_oldest_removed_nfs_files_are_deleted_first(
    place: Open, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gone, "ROOM", 250_000)
    monkeypatch.setattr("backends.storage.nfs.storage.ROOM", 250_000)
    storage = place().storage
    storage.make()
    for letter in b"abcd":
        storage.publish("segment", bytes([letter]) * 100_000)
    kept = [storage.open("segment")]
    storage.publish("segment", b"e" * 100_000)
    with closing(kept[0]) as reader:
        assert reader.read(99_990, 10) == b"d" * 10
    files = on_disk(places, storage)
    assert hidden(files) == 200_000
    assert {(_first(places, storage, name)) for name in files if name.startswith(gone.HIDDEN)} == {"c", "d"}


def _first(places: Places, storage: Storage, name: str) -> str:
    parent = cast(NfsStorage, storage)._server.directory[-1]
    return (places.ganesha.exported / parent / "lightning.bkp" / name).read_text()[0]


def entry(age: float, size: int) -> tuple[str, Attributes]:
    return f"{gone.HIDDEN}{time.time() - age:.6f}-{size:08x}", Attributes(Kind.FILE, size)


@pytest.mark.parametrize(
    ("kept", "live", "sizes"),
    [
        ([(1, 64 << 20)], 0, []),
        ([(1, (64 << 20) + 1)], 0, [(64 << 20) + 1]),
        ([(3, 5), (2, 60 << 20), (1, 6 << 20)], 0, [5, 60 << 20]),
        ([(1, 300 << 20)], 300 << 20, []),
        ([(2, 1), (1, 300 << 20)], 300 << 20, [1]),
        ([(gone.GRACE + 5, 1), (gone.GRACE - 5, 2)], 0, [1]),
        ([(-gone.GRACE - 5, 1)], 0, [1]),  # the clock was wrong when it was removed
    ],
)
def test_removed_nfs_files_to_delete_are_chosen_by_age_and_size(
    kept: list[tuple[float, int]], live: int, sizes: list[int]
) -> None:
    entries = [("snapshot-00000001", Attributes(Kind.FILE, live)), *(entry(age, size) for age, size in kept)]
    assert [size for _, size in gone.to_forget(entries)] == sizes


def test_hidden_name_of_removed_file_from_earlier_release_is_understood() -> None:
    name = f"{gone.HIDDEN}{time.time() - gone.GRACE - 5:.0f}-0badcafe"
    assert gone.to_forget([(name, Attributes(Kind.FILE, 1))]) == [(name, 1)]
