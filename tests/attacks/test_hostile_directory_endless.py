"""A destination that lists names without end: it is refused before it has taken the memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from backends.storage import local
from backends.storage.channel import Malformed
from backends.storage.local import LocalStorage
from backends.storage.nfs import protocol
from backends.storage.nfs.protocol import MAX_ENTRIES, MAX_NAME
from backends.storage.nfs.rpc import Connection
from backends.storage.nfs.version3 import Version3
from backends.storage.nfs.version41 import Version41
from backends.storage.nfs.xdr import Unpacker, long, number, numbers, text

_FSINFO, _READDIRPLUS = 19, 17
_PUTFH, _READDIR41 = 22, 26


class EndlessV3:
    """An NFSv3 server whose directory never ends; all entries have one name, and an answer is about 1 MiB."""

    def __init__(self, name: str) -> None:
        attributes = number(1) + number(1) + bytes(80)
        entry = number(1) + long(7) + text(name) + long(8) + attributes + number(0)
        count = max((1 << 20) // len(entry), 1)
        self._answer = number(0) + number(0) + bytes(8) + entry * count + number(0) + number(0)
        self.asked = 0

    def call(self, *arguments: Any) -> Unpacker:
        self.asked += 1
        return Unpacker(self._answer)


class EndlessV41:
    """An NFSv4.1 server whose directory never ends, as its session answers."""

    def __init__(self, name: str) -> None:
        attributes = numbers([0]) + number(0)
        entry = number(1) + long(8) + text(name) + attributes
        count = max((1 << 20) // len(entry), 1)
        entries = bytes(8) + entry * count + number(0) + number(0)
        self._answer = number(_PUTFH) + number(0) + number(_READDIR41) + number(0) + entries
        self.asked = 0

    def call(self, *arguments: Any) -> Unpacker:
        self.asked += 1
        return Unpacker(self._answer)


def entries_v3(name: str) -> tuple[Callable[[bytes], object], EndlessV3]:
    server = EndlessV3(name)
    client = Version3.__new__(Version3)
    client._connection, client._lists_attributes, client.until = cast(Connection, server), True, 0.0
    return client.entries, server


def entries_v41(name: str) -> tuple[Callable[[bytes], object], EndlessV41]:
    server = EndlessV41(name)
    client = Version41.__new__(Version41)
    client._session, client.until = cast(Any, server), 0.0
    return client.entries, server


@pytest.mark.parametrize("make", [entries_v3, entries_v41])
@pytest.mark.parametrize("name", [".", "..", "segment-00000001", "x" * 1000, "x" * 60_000])
def test_endless_directory_of_an_nfs_server_is_refused_after_two_requests(
    make: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From real failures: 65,536 names of 60 kB each took 2.8 GiB, and `.` was not counted, so that reading never
    ended."""
    monkeypatch.setattr(protocol, "MAX_ENTRIES", 1000)
    entries, server = make(name)
    with pytest.raises(Malformed, match=r"does not end|a name of"):
        entries(b"directory")
    assert server.asked <= (1 if len(name) > MAX_NAME else 2)


def test_largest_accepted_directory_fits_into_64_mib() -> None:
    assert MAX_ENTRIES * MAX_NAME <= 64 << 20


def test_endless_local_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FUSE filesystem is somebody's program, and may list for ever."""

    class Entry:
        name = "segment-00000001"

        def is_file(self, follow_symlinks: bool) -> bool:
            return True

        def is_dir(self, follow_symlinks: bool) -> bool:
            return False

    class Endless:
        def __enter__(self) -> Iterator[Entry]:
            while True:
                yield Entry()

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Endless())
    monkeypatch.setattr(local, "MAX_NAMES_BESIDE", 1000)
    for look in (LocalStorage(tmp_path).names, lambda: LocalStorage(tmp_path).directories_with("manifest")):
        with pytest.raises(OSError, match="more than any backup has"):
            look()


def test_local_directory_with_one_name_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_NAMES", 50)
    for number_ in range(50):
        (tmp_path / f"{number_}").touch()
    assert len(LocalStorage(tmp_path).names()) == 50
    (tmp_path / "one-more").touch()
    with pytest.raises(OSError, match="more than any backup has"):
        LocalStorage(tmp_path).names()
