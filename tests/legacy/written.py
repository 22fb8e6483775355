"""Writes files as the older plugin does, faults included; written from its format, without code of this project."""

import struct
from collections.abc import Iterable
from pathlib import Path

from tests.fake_lightningd import Call

HEADER_SIZE = 512
CHANGE, SNAPSHOT = 1, 2


def payload(call: Call) -> bytes:
    return "\0".join(call.writes).encode()


def record(version: int, data: bytes, kind: int = CHANGE) -> bytes:
    return struct.pack(">IIB", len(data), version, kind) + data


class Written:
    """A file being written. The fields are those of the header; `sync_header` copies them into the file."""

    def __init__(self) -> None:
        self.version = self.previous_version = self.previous_end = self.count = 0
        self.end = HEADER_SIZE
        self.records = b""
        self.starts: list[int] = []
        self.header = b""
        self.sync_header()

    def sync_header(self) -> None:
        fields = (1, self.version, self.end, self.previous_version, self.previous_end, self.count)
        self.header = struct.pack(">IIQIQQ", *fields).ljust(HEADER_SIZE, b"\0")

    def add(self, version: int, data: bytes, kind: int = CHANGE, *, dies_before_header: bool = False) -> "Written":
        """Append a record, then update the header, counting from where the writer believes the end to be."""
        new = record(version, data, kind)
        self.starts.append(HEADER_SIZE + len(self.records))
        self.records += new
        if not dies_before_header:
            self.previous_version, self.previous_end = self.version, self.end
            self.version, self.end, self.count = version, self.end + len(new), self.count + 1
            self.sync_header()
        return self

    def change(self, *calls: Call, dies_before_header: bool = False) -> "Written":
        for call in calls:
            self.add(call.data_version, payload(call), dies_before_header=dies_before_header)
        return self

    def snapshot(self, version: int, database: Path) -> "Written":
        return self.add(version, database.read_bytes(), SNAPSHOT)

    def rewind(self) -> "Written":
        """Step back in memory, as at a start; the file itself stays, and is only ever appended to."""
        self.version, self.end = self.previous_version, self.previous_end
        self.previous_version = self.previous_end = 0
        return self

    def starts_with(self, call: Call) -> "Written":
        """The first call of a session: the writer looks only at the versions."""
        if self.version != call.data_version - 1:
            assert self.previous_version == call.data_version - 1, "here the older plugin stops the node"
            self.rewind()
        return self.change(call)

    def data(self) -> bytes:
        return self.header + self.records

    def save(self, path: Path, tail: bytes = b"") -> Path:
        path.write_bytes(self.data() + tail)
        return path


def written(calls: Iterable[Call]) -> Written:
    return Written().change(*calls)
