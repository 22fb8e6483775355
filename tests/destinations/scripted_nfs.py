"""Fake NFS servers that answer as a test wants."""

import os
import struct
from typing import cast

from backends.storage.channel import Channel
from backends.storage.nfs.files import NfsWriteHandle
from backends.storage.nfs.protocol import Attributes, Kind, Protocol, Written
from backends.storage.nfs.xdr import Unpacker, number


class Server:
    """The part of a protocol that a writer needs: a write takes at most `most` bytes and returns the file's attributes.

    A test may restart it (`boot`), seal the file (`mode`, `links`), or let it refuse each write (`refuses`, an errno).
    """

    largest_write = 1000
    fences = False
    until = 0.0
    sent = 0

    def __init__(self, most: int = 1 << 30, obeys: bool = True, tells: bool = True) -> None:
        self.boot = b"boot 1  "
        self.commits = self.asked = 0
        self.mode, self.links = 0o600, 1
        self.content = bytearray()
        self._most, self._obeys, self._tells = most, obeys, tells
        self.refuses = 0

    def write(self, handle: bytes, offset: int, data: bytes, durably: bool) -> Written:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        taken = data[: self._most]
        self.content[offset : offset + len(taken)] = taken
        after = Attributes(Kind.FILE, len(self.content), self.mode, self.links) if self._tells else None
        return Written(len(taken), durably and self._obeys, self.boot, after)

    def commit(self, handle: bytes) -> bytes:
        self.commits += 1
        return self.boot

    def know_limits(self, handle: bytes) -> None:
        pass

    def attributes(self, handle: bytes) -> Attributes:
        self.asked += 1
        return Attributes(Kind.FILE, len(self.content), self.mode, self.links)


def writer(server: Server, timeout: float = 5.0) -> NfsWriteHandle:
    channel = Channel(lambda until: cast(Protocol, server), timeout)
    return NfsWriteHandle(channel, channel, b"handle", "snapshot")


SEQUENCE, PUTROOTFH, EXCHANGE_ID, CREATE_SESSION, RECLAIM_COMPLETE = 53, 24, 42, 43, 58
DELAY = 10008


class Scripted:
    """A connection to an NFSv4.1 server that answers the next `busy` calls with `status`; it keeps their numbers."""

    def __init__(self) -> None:
        self.busy, self.status, self.largest = 0, DELAY, 1 << 20
        self.numbers: list[int] = []

    def call(self, program: int, version: int, procedure: int, arguments: bytes, until: float) -> Unpacker:
        (code,) = struct.unpack_from(">I", arguments, 12)
        head = number(0) + number(0) + number(1)
        if code == EXCHANGE_ID:
            return Unpacker(head + number(code) + number(0) + bytes(8) + number(1))
        if code == CREATE_SESSION:
            return Unpacker(
                head
                + number(code)
                + number(0)
                + bytes(16 + 8 + 4)
                + number(self.largest) * 2
                + number(4096)
                + number(16)
            )
        (taken,) = struct.unpack_from(">I", arguments, 32)
        self.numbers.append(taken)
        if self.busy:
            self.busy -= 1
            return Unpacker(number(self.status) + head[4:] + number(SEQUENCE) + number(self.status))
        return Unpacker(head + number(SEQUENCE) + number(0) + bytes(36))
