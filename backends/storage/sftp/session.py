"""What a storage asks of an SFTP server, on a connection that is made again when it breaks.

A handle of an open file belongs to one connection: `connection` says to which.
"""

import errno
import time
from collections.abc import Iterable, Sequence

from backends.storage.base import UNKNOWN_SPACE, Space
from backends.storage.channel import Disconnected, Malformed
from backends.storage.pieces import SECTOR, piece
from backends.storage.sftp.address import Address
from backends.storage.sftp.connection import Answer, Call, Connection
from backends.storage.sftp.logins import Logins
from backends.storage.sftp.packets import (
    MAX_ENTRIES,
    MAX_HANDLE,
    NO_ATTRIBUTES,
    READ,
    Attributes,
    Failure,
    Kind,
    Unpacker,
    long,
    mode_only,
    number,
    path,
    string,
)

SYNC, RENAME, LINK = "fsync@openssh.com", "posix-rename@openssh.com", "hardlink@openssh.com"
_SPACE, _LIMITS = "statvfs@openssh.com", "limits@openssh.com"

_USUAL = 1 << 15
"""Bytes of data in one packet that every server takes."""

_MOST = (1 << 18) - (1 << 10)
"""The most bytes of data that are put into one packet; OpenSSH takes a little less."""

_WINDOW = 1 << 20
"""How many bytes are asked for at once, or sent before the answers are waited for."""

Handle = bytes


class SyncFailed(OSError):
    """A sync of a directory failed: its names may be lost."""


class Session:
    """A session with the server at this address; `until` is when (time.monotonic) to give up making it."""

    def __init__(self, address: Address, until: float, logins: Logins) -> None:
        self.until = until
        self.address, self._logins = address, logins
        self.connection = Connection(address, until, logins)
        self._learn()

    def reconnect(self, why: Disconnected) -> None:
        """Log in again. Every handle of the old connection is gone, and what it was asked last is in doubt."""
        self.close()
        self.connection = Connection(self.address, self.until, self._logins)
        self._learn()

    def close(self) -> None:
        self.connection.close()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    def offers(self, extension: str) -> bool:
        """Whether the server has this extension of the protocol."""
        return extension in self.connection.extensions

    @property
    def sent(self) -> int:
        return self.connection.parts_sent

    @property
    def software(self) -> str:
        """What the server says that it is; empty if it says nothing."""
        return self.connection.software

    def _learn(self) -> None:
        """Ask for the server's limits."""
        self.largest_read = self.largest_write = _USUAL
        if self.offers(_LIMITS):
            answer = self._extended(_LIMITS, b"", "")
            answer.long()
            self.largest_read, self.largest_write = _limit(answer.long()), _limit(answer.long())

    # Requests

    def exchange(self, calls: Sequence[Call]) -> list[Answer]:
        """Send requests at once; see `Connection.exchange`."""
        return self.connection.exchange(calls, self.until)

    def do(self, calls: Sequence[Call], name: str) -> None:
        """Send requests at once whose answers are only a status. Raises OSError for the first that was refused."""
        for answer in self.exchange(calls):
            expect(answer, Kind.STATUS, name)

    def _ask(self, kind: Kind, body: bytes, expected: Kind, name: str) -> Unpacker:
        return expect(self.exchange([(kind, body)])[0], expected, name)

    def _extended(self, extension: str, body: bytes, name: str) -> Unpacker:
        return self._ask(Kind.EXTENDED, string(extension.encode()) + body, Kind.EXTENDED_REPLY, name)

    # Files

    def open(self, name: str, flags: int, mode: int | None = None) -> Handle:
        """Open the file of this path; `mode` is that of a new file."""
        attributes = NO_ATTRIBUTES if mode is None else mode_only(mode)
        answer = self._ask(Kind.OPEN, path(name) + number(flags) + attributes, Kind.HANDLE, name)
        return answer.string(MAX_HANDLE)

    def forget(self, handle: Handle) -> None:
        """Close an open file, with the next request; what the server says to that is of no interest."""
        self.connection.postpone(Kind.CLOSE, string(handle))

    def attributes(self, name: str) -> Attributes:
        """The attributes of a path; if it is a link, its own."""
        return self._ask(Kind.LSTAT, path(name), Kind.ATTRS, name).attributes()

    def followed(self, name: str) -> Attributes:
        """The attributes of a path; links are followed."""
        return self._ask(Kind.STAT, path(name), Kind.ATTRS, name).attributes()

    def attributes_or_none(self, names: Iterable[str]) -> list[Attributes | None]:
        """The attributes of these paths, None for what does not exist, in one round trip."""
        wanted = list(names)
        answers = self.exchange([(Kind.LSTAT, path(name)) for name in wanted])
        found: list[Attributes | None] = []
        for name, answer in zip(wanted, answers, strict=True):
            try:
                found.append(expect(answer, Kind.ATTRS, name).attributes())
            except FileNotFoundError:
                found.append(None)
        return found

    def attributes_of(self, handle: Handle, name: str) -> Attributes:
        """The attributes of an open file."""
        return self._ask(Kind.FSTAT, string(handle), Kind.ATTRS, name).attributes()

    def read(self, handle: Handle, offset: int, length: int, name: str) -> bytes:
        """Return up to `length` bytes; fewer only at the end of the file."""
        parts: list[bytes] = []
        while length > 0:
            data, ended = self._read_some(handle, offset, min(length, _WINDOW), name)
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
            if ended:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, handle: Handle, offset: int, length: int, name: str) -> tuple[bytes, bool]:
        """Ask for `length` bytes in one round trip. Returns those before the first gap, and whether the file ends."""
        most = self.largest_read
        wanted = [(offset + start, min(most, length - start)) for start in range(0, length, most)]
        opened = string(handle)
        answers = self.exchange([(Kind.READ, opened + long(start) + number(count)) for start, count in wanted])
        parts: list[bytes] = []
        for (_, count), (kind, answer) in zip(wanted, answers, strict=True):
            if kind == Kind.STATUS and _is_end(answer, name):
                return b"".join(parts), True
            data = expect((kind, answer), Kind.DATA, name).string()
            if not 0 < len(data) <= count:
                raise Malformed(f"the server gives {len(data)} bytes where {count} were asked for")
            parts.append(data)
            if len(data) < count:
                break
        return b"".join(parts), False

    def write(self, handle: Handle, offset: int, data: bytes, name: str) -> None:
        """Write all of `data`; nothing of it is durable before `sync`."""
        for start in range(0, len(data), _WINDOW):
            self.do(self._writes(handle, offset + start, data[start : start + _WINDOW]), name)

    def commit(self, handle: Handle, offset: int, data: bytes, name: str) -> Attributes:
        """Write `data`, make it durable, and return the file's attributes after that, in one round trip.

        Servers work strictly in order: so the data is on the disk when the attributes are looked up.
        """
        opened = string(handle)
        last = [_sync(opened), (Kind.FSTAT, opened)]
        *written, attributes = self.exchange([*self._writes(handle, offset, data), *last])
        for answer in written:
            expect(answer, Kind.STATUS, name)
        return expect(attributes, Kind.ATTRS, name).attributes()

    def _writes(self, handle: Handle, offset: int, data: bytes) -> list[Call]:
        opened, most = string(handle), self.largest_write
        if len(data) <= most:
            return [(Kind.WRITE, opened + long(offset) + string(data))] if data else []
        calls, start = [], 0
        while start < len(data):
            end = start + piece(offset + start, len(data) - start, most)
            calls.append((Kind.WRITE, opened + long(offset + start) + string(data[start:end])))
            start = end
        return calls

    def sync(self, handle: Handle, name: str) -> None:
        """Make everything durable that was written to an open file."""
        self.do([_sync(string(handle))], name)

    def set(self, handle: Handle, attributes: bytes, name: str) -> Attributes:
        """Set attributes of an open file; returns those that it then has."""
        opened = string(handle)
        done, now = self.exchange([(Kind.FSETSTAT, opened + attributes), (Kind.FSTAT, opened)])
        expect(done, Kind.STATUS, name)
        return expect(now, Kind.ATTRS, name).attributes()

    def set_by_name(self, name: str, attributes: bytes) -> None:
        """Set attributes of the file of this path. Only for a name that no other file can ever have."""
        self.do([(Kind.SETSTAT, path(name) + attributes)], name)

    # Names

    def entries(self, directory: str) -> list[tuple[str, Attributes]]:
        """All entries of a directory except . and .. Raises Malformed for an endless listing."""
        handle = self._ask(Kind.OPENDIR, path(directory), Kind.HANDLE, directory).string(MAX_HANDLE)
        found: list[tuple[str, Attributes]] = []
        while True:
            kind, answer = self.exchange([(Kind.READDIR, string(handle))])[0]
            if kind == Kind.STATUS and _is_end(answer, directory):
                self.forget(handle)
                return [each for each in found if each[0] not in (".", "..")]
            came = expect((kind, answer), Kind.NAME, directory).entries()
            found += came
            if not came or len(found) > MAX_ENTRIES:
                raise Malformed(f"the server's listing of a directory does not end ({len(found)} names)")

    def sync_directory(self, directory: str) -> None:
        """Make every change of names in a directory durable. Raises OSError where the server does not do that, and
        SyncFailed where it does, but could not."""
        handle = self.open(directory, READ)
        try:
            self.sync(handle, directory)
        except Failure as error:  # "not supported" and "invalid" have numbers of their own
            raise SyncFailed(error.errno, error.strerror, directory) from error
        finally:
            self.forget(handle)

    def make_directory(self, name: str, mode: int) -> None:
        self.do([(Kind.MKDIR, path(name) + mode_only(mode))], name)

    def remove_directory(self, name: str) -> None:
        self.do([(Kind.RMDIR, path(name))], name)

    def remove(self, name: str) -> None:
        self.do([(Kind.REMOVE, path(name))], name)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what has the new name."""
        self.do([(Kind.EXTENDED, string(RENAME.encode()) + path(old) + path(new))], old)

    def rename_unless_there(self, old: str, new: str) -> None:
        """Rename; most servers refuse a new name that is taken, and the protocol demands it."""
        self.do([(Kind.RENAME, path(old) + path(new))], old)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name."""
        self.do([(Kind.EXTENDED, string(LINK.encode()) + path(old) + path(new))], old)

    def space(self, directory: str) -> Space:
        """The space of the filesystem that holds a directory."""
        if not self.offers(_SPACE):
            self.followed(directory)
            return UNKNOWN_SPACE
        answer = self._extended(_SPACE, path(directory), directory)
        _, unit, total, _, available = (answer.long() for _ in range(5))
        return Space(min(unit * available, UNKNOWN_SPACE.free), min(unit * total, UNKNOWN_SPACE.total))

    def round_trip(self) -> float:
        """Seconds that the server takes to answer: the best of a few tries."""

        def try_once() -> float:
            began = time.monotonic()
            self._ask(Kind.REALPATH, path("."), Kind.NAME, ".")
            return time.monotonic() - began

        return min(try_once() for _ in range(_TRIES))


_TRIES = 4


def expect(answer: Answer, expected: Kind, name: str) -> Unpacker:
    """The body of an answer of this type. Raises OSError for a refusal, Malformed for any other type."""
    kind, body = answer
    if kind == Kind.STATUS:
        body.check_status(name)
        if expected == Kind.STATUS:
            return body
    if kind != expected:
        raise Malformed(f"the server sent a packet of type {kind} where type {int(expected)} was expected")
    return body


def _is_end(answer: Unpacker, name: str) -> bool:
    """Whether a STATUS says that the file or the listing has ended. Raises OSError for a refusal."""
    try:
        answer.check_status(name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return True
        raise
    raise Malformed("the server sent a status where data was expected")


def _sync(opened: bytes) -> Call:
    return Kind.EXTENDED, string(SYNC.encode()) + opened


def _limit(told: int) -> int:
    """Bytes to put into one packet if the server says that it takes `told` (0: it does not say)."""
    if told and told < SECTOR:
        raise Malformed(f"the server allows only {told} bytes in one packet, which is less than a sector")
    return min(told, _MOST) if told else _USUAL
