"""The part of XDR (RFC 4506) that NFS needs: everything is big-endian and padded to four bytes."""

import struct

from backends.storage.channel import Malformed

_NUMBER = struct.Struct(">I")
_LONG = struct.Struct(">Q")


MAX_NAME = 1024
"""The longest name accepted from a server, in bytes; filesystems allow up to 255 characters."""

MAX_HANDLE = 128
"""The longest handle of a file, in bytes, by RFC 8881; RFC 1813 allows 64."""

MAX_SIZE = 1 << 63
"""Sizes in bytes are smaller than this: a kernel's own numbers end here."""


def number(value: int) -> bytes:
    """An unsigned 32-bit number; also used for booleans and enumerations."""
    return _NUMBER.pack(value)


def long(value: int) -> bytes:
    """An unsigned 64-bit number."""
    return _LONG.pack(value)


def opaque(data: bytes) -> bytes:
    """Bytes of variable length."""
    return b"".join((_NUMBER.pack(len(data)), data, bytes(-len(data) % 4)))


def text(value: str) -> bytes:
    """A name, in UTF-8."""
    return opaque(value.encode(errors="surrogateescape"))


def numbers(values: list[int]) -> bytes:
    """An array of 32-bit numbers."""
    return struct.pack(f">I{len(values)}I", len(values), *values)


class Unpacker:
    """Reads values from `data`, one after the other, starting at its beginning. Raises Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        """An unsigned 32-bit number."""
        return int(_NUMBER.unpack(self.fixed(4))[0])

    def boolean(self) -> bool:
        """True or False."""
        return self.number() != 0

    def long(self) -> int:
        """An unsigned 64-bit number."""
        return int(_LONG.unpack(self.fixed(8))[0])

    def fixed(self, length: int) -> bytes:
        """Bytes of known length."""
        end = self._at + length
        if end > len(self._data):
            raise Malformed("the server's answer ends too early")
        taken = self._data[self._at : end]
        self._at = end + -length % 4
        return taken

    def opaque(self) -> bytes:
        """Bytes of variable length."""
        return self.fixed(self.number())

    def text(self) -> str:
        """A name."""
        data = self.opaque()
        if len(data) > MAX_NAME:
            raise Malformed(f"the server sent a name of {len(data)} bytes")
        return data.decode(errors="surrogateescape")

    def handle(self) -> bytes:
        """A handle: the server's own identifier of a file or directory."""
        data = self.opaque()
        if len(data) > MAX_HANDLE:
            raise Malformed(f"the server sent a file handle of {len(data)} bytes, and the protocol allows {MAX_HANDLE}")
        return data

    def size(self) -> int:
        """A size in bytes, below `MAX_SIZE`."""
        value = self.long()
        if value >= MAX_SIZE:
            raise Malformed(f"the server sent a size of {value} bytes")
        return value

    def numbers(self) -> list[int]:
        """An array of 32-bit numbers."""
        return [self.number() for _ in range(self.number())]
