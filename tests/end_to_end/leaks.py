"""What somebody who holds a backup's destination can read there: a search of all bytes, however they are wrapped."""

import base64
import re
import socket
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from getpass import getuser
from pathlib import Path

from tests.end_to_end.world import World
from tests.fake_lightningd import Call

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY = 8
"""Bytes by which a place is recognized as that of a needle."""

BLOCK = 64

PUBLIC = frozenset({b"data_version", b"foreign_keys", b"generation"})
"""Words of lightningd's SQL that are names of public fields, too."""

_ZSTD = b"\x28\xb5\x2f\xfd"
_UNPACKED = 1 << 16


class Needles:
    """Many strings to search for in one pass."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._short: set[bytes] = set()
        self._by_key: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        for needle in needles:
            if len(needle) < KEY:
                self._short.add(needle)
            else:  # the part of it that is the least likely to be anywhere else
                offset = max(range(len(needle) - KEY + 1), key=lambda at: len(set(needle[at : at + KEY])))
                self._by_key[needle[offset : offset + KEY]].append((offset, needle))

    def found_in(self, data: bytes) -> set[bytes]:
        """Those that are in this data."""
        found = {needle for needle in self._short if needle in data}
        for at in range(len(data) - KEY + 1):
            for offset, needle in self._by_key.get(data[at : at + KEY], ()):
                if data[max(at - offset, 0) : at - offset + len(needle)] == needle:
                    found.add(needle)
        return found


def stored(directory: Path) -> Iterator[bytes]:
    """All that is at the destination: names, contents, and what is packed or encoded in them."""
    yield b"\0".join(str(path.relative_to(directory.parent)).encode() for path in directory.rglob("*"))
    for path in sorted(directory.rglob("*")):
        data = path.read_bytes().rstrip(b"\0") if path.is_file() else b""
        yield data
        for text in re.findall(rb"[0-9A-Za-z+/]{20,}={0,2}", data):
            with_padding = text + b"=" * (-len(text) % 4)
            yield base64.b64decode(with_padding)
        for begin in re.finditer(re.escape(_ZSTD), data):
            yield _unpacked(data[begin.start() : begin.start() + _UNPACKED])


def _unpacked(data: bytes) -> bytes:
    """What a stream holds that begins here, up to what belongs to something else."""
    stream, found = zstd.ZstdDecompressor(), bytearray()
    try:
        for at in range(len(data)):
            found += stream.decompress(data[at : at + 1])
    except (zstd.ZstdError, EOFError):
        pass
    return bytes(found)


def needles(world: World, host: str, calls: Iterable[Call]) -> set[bytes]:
    """All that must not be readable there."""
    wanted = set(_of_the_machine(world, host))
    wanted |= {b"INSERT", b"UPDATE", b"DELETE", b"CREATE", b"PRAGMA", b"SQLite", b"SELECT", b"VALUES"}
    wanted |= set(_of_statements(calls))
    wanted |= set(_of_the_database(world.database))
    return wanted - PUBLIC


def _of_the_machine(world: World, host: str) -> Iterator[bytes]:
    for text in (host, socket.gethostname(), getuser(), str(world.root), world.root.name, world.url):
        if len(text) > 3:
            yield text.encode()
    yield str(world.backup).encode()
    yield str(world.directory).encode()


def _of_statements(calls: Iterable[Call]) -> Iterator[bytes]:
    for call in calls:
        for statement in call.writes:
            for word in re.findall(r"[^\s,()=;'\"]{9,}", statement):
                if not (word.isdigit() and len(word) == 10):  # that may be a time, and times are public
                    yield word.encode()
            for digits in re.findall(r"x'([0-9a-fA-F]{16,})'", statement):
                blob = bytes.fromhex(digits[: len(digits) & ~1])
                if len(set(blob[:32])) > 4:
                    yield blob[:32]


def _of_the_database(database: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(database)) as connection:
        ids = [row[0] for row in connection.execute("SELECT node_id FROM peers")]
        ids += [row[0] for row in connection.execute("SELECT blobval FROM vars WHERE name = 'node_id'")]
        aliases = [row[0] for row in connection.execute("SELECT scid FROM channels WHERE scid IS NOT NULL")]
    for each in ids:
        yield from (each, each[1:], each.hex().encode(), each.hex().upper().encode())
    yield from (str(alias).encode() for alias in aliases if len(str(alias)) > 5)
    data = database.read_bytes()
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        if len(set(block)) > 4:  # four bytes are not rare enough
            yield block


def leaks(directory: Path, wanted: Iterable[bytes]) -> set[bytes]:
    """Which of these strings can be read at the destination."""
    search = Needles(wanted)
    return set().union(*(search.found_in(data) for data in stored(directory)))
