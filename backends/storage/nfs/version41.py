"""NFS version 4.1 (RFC 8881): one port and one namespace for all exports. No file is held open (see `session41.py`)."""

import errno
import os

from backends.storage.base import Space
from backends.storage.channel import Disconnected, Malformed
from backends.storage.nfs import xdr
from backends.storage.nfs.protocol import Attributes, Handle, Kind, Protocol, Written, check_listing, check_name, limit
from backends.storage.nfs.rpc import Connection, Identity
from backends.storage.nfs.session41 import HEADS, Operation, Session, expect
from backends.storage.nfs.xdr import Unpacker, long, number, opaque, text

_CLOSE, _COMMIT, _CREATE, _GETATTR, _GETFH, _LINK, _LOOKUP, _OPEN = 4, 5, 6, 9, 10, 11, 15, 18
_PUTFH, _PUTROOTFH, _READ, _READDIR, _REMOVE, _RENAME, _SAVEFH, _SETATTR, _WRITE = 22, 24, 25, 26, 28, 29, 32, 34, 38

_TYPE, _SIZE, _MAX_READ, _MAX_WRITE, _MODE, _LINKS, _AVAILABLE, _TOTAL = 1, 4, 30, 31, 33, 35, 42, 44
_KINDS = {1: Kind.FILE, 2: Kind.DIRECTORY}
_LONG_ATTRIBUTES = frozenset({_SIZE, _MAX_READ, _MAX_WRITE, _AVAILABLE, _TOTAL})
_SHORT_ATTRIBUTES = frozenset({_TYPE, _MODE, _LINKS})
_KNOWN_ATTRIBUTES = _LONG_ATTRIBUTES | _SHORT_ATTRIBUTES
_MAX_BITMAP = 8
"""The most words accepted in a set of attributes; all of NFS 4.2 needs three."""

_ANONYMOUS = bytes(16)
"""The state id of a client that has not opened the file."""

_CURRENT = number(1) + bytes(12)
"""The state id that an earlier operation of the same call has made."""

_FILE_SYNC = 2
_BOTH_WITHOUT_DELEGATION = 3 | 0x0400
_DIRECTORY = 2
_MAX_IO = 1 << 20

_LIST_BYTES = 1 << 16


class Version41(Protocol):
    """One connection to an NFSv4.1 server, and the session on it."""

    def __init__(self, host: str, port: int, identity: Identity, reserved: bool, until: float) -> None:
        self.until = until
        self._address, self._identity, self._reserved = (host, port), identity, reserved
        self._session = Session(self._connect(), until)
        self.largest_read = self.largest_write = self._most

    @property
    def fences(self) -> bool:
        return self._session.fences

    @property
    def sent(self) -> int:
        return self._session.connection.sent

    def describe(self) -> str:
        return f"NFSv4.1, up to {self.largest_write >> 10} KiB a write"

    def close(self) -> None:
        self._session.connection.close()

    def _connect(self) -> Connection:
        return Connection(self._address, self._identity, self._reserved, self.until)

    def reconnect(self, why: Disconnected) -> None:
        self._session.connection.close()
        self._session.resume(self._connect(), self.until, why)
        self.limits_known = False

    def root(self, path: list[str]) -> Handle:
        answer = self._call([Operation(_PUTROOTFH), Operation(_GETFH)], "/")
        expect(answer, _PUTROOTFH, "/")
        handle = _handle(answer)
        for name in path:
            handle, attributes = self.lookup(handle, name)
            if attributes.kind is not Kind.DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        self.know_limits(handle)
        return handle

    def learn_limits(self, handle: Handle) -> None:
        values, most = self._values(handle, _MAX_READ, _MAX_WRITE), self._most
        self.largest_read = limit(values.get(_MAX_READ, 0), most)
        self.largest_write = limit(values.get(_MAX_WRITE, 0), most)

    @property
    def _most(self) -> int:
        return min(self._session.largest - HEADS, _MAX_IO)

    def lookup(self, directory: Handle, name: str) -> tuple[Handle, Attributes]:
        answer = self._within(directory, [Operation(_LOOKUP, text(name)), _LOOK, Operation(_GETFH)], name)
        expect(answer, _LOOKUP, name)
        expect(answer, _GETATTR, name)
        attributes = _plain_attributes(answer)
        return _handle(answer), attributes

    def attributes(self, handle: Handle) -> Attributes:
        answer = self._within(handle, [_LOOK], "")
        expect(answer, _GETATTR, "")
        return _plain_attributes(answer)

    def read(self, handle: Handle, offset: int, length: int) -> tuple[bytes, bool]:
        answer = self._within(handle, [Operation(_READ, _ANONYMOUS + long(offset) + number(length))], "")
        expect(answer, _READ, "")
        end = answer.boolean()
        return answer.opaque(), end

    def write(self, handle: Handle, offset: int, data: bytes, durably: bool) -> Written:
        stable = number(_FILE_SYNC if durably else 0)
        writing = Operation(_WRITE, _ANONYMOUS + long(offset) + stable + opaque(data))
        answer = self._within(handle, [writing, _LOOK], "")
        expect(answer, _WRITE, "")
        count, durable, boot = answer.number(), answer.number() == _FILE_SYNC, answer.fixed(8)
        told = answer.number() == _GETATTR and answer.number() == 0  # if not, the caller asks for them separately
        return Written(count, durable, boot, _plain_attributes(answer) if told else None)

    def commit(self, handle: Handle) -> bytes:
        answer = self._within(handle, [Operation(_COMMIT, long(0) + number(0))], "")
        expect(answer, _COMMIT, "")
        return answer.fixed(8)

    def create(self, directory: Handle, name: str, mode: int) -> Handle:
        owner = long(self._session.client_id) + opaque(self._session.owner)
        guarded = number(1) + number(1) + _new(mode)
        by_name = number(0) + text(name)
        access = number(0) + number(_BOTH_WITHOUT_DELEGATION) + number(0)
        opening = Operation(_OPEN, access + owner + guarded + by_name)
        closing = Operation(_CLOSE, number(0) + _CURRENT)
        answer = self._within(directory, [opening, Operation(_GETFH), closing], name)
        expect(answer, _OPEN, name)
        answer.fixed(16 + 20 + 4)
        answer.numbers()
        _skip_delegation(answer)
        return _handle(answer)

    def make_directory(self, directory: Handle, name: str, mode: int) -> Handle:
        making = Operation(_CREATE, number(_DIRECTORY) + text(name) + _new(mode))
        answer = self._within(directory, [making, Operation(_GETFH)], name)
        expect(answer, _CREATE, name)
        answer.fixed(20)
        answer.numbers()
        return _handle(answer)

    def remove(self, directory: Handle, name: str) -> None:
        answer = self._within(directory, [Operation(_REMOVE, text(name))], name)
        expect(answer, _REMOVE, name)

    def remove_directory(self, directory: Handle, name: str) -> None:
        self.remove(directory, name)

    def rename(self, directory: Handle, old: str, new: str) -> None:
        renaming = [Operation(_SAVEFH), Operation(_RENAME, text(old) + text(new))]
        answer = self._within(directory, renaming, old)
        expect(answer, _SAVEFH, old)
        expect(answer, _RENAME, old)

    def link(self, handle: Handle, directory: Handle, name: str) -> None:
        linking = [Operation(_SAVEFH), _at(directory), Operation(_LINK, text(name))]
        answer = self._within(handle, linking, name)
        for operation in linking:
            expect(answer, operation.code, name)

    def resize(self, handle: Handle, size: int) -> None:
        self._set(handle, xdr.numbers(_bitmap(_SIZE)) + opaque(long(size)))

    def set_mode(self, handle: Handle, mode: int) -> None:
        self._set(handle, _new(mode))

    def _set(self, handle: Handle, changes: bytes) -> None:
        answer = self._within(handle, [Operation(_SETATTR, _ANONYMOUS + changes)], "")
        expect(answer, _SETATTR, "")

    def entries(self, directory: Handle) -> list[tuple[str, Attributes]]:
        found: list[tuple[str, Attributes]] = []
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            limits = number(_LIST_BYTES // 4) + number(_LIST_BYTES)
            question = long(cookie) + verifier + limits + _PLAIN
            answer = self._within(directory, [Operation(_READDIR, question)], "")
            expect(answer, _READDIR, "")
            verifier, before = answer.fixed(8), len(found)
            while answer.boolean():
                cookie, name = answer.long(), answer.text()
                check_name(name, len(found) + 1)
                found.append((name, _plain_attributes(answer)))
            end = answer.boolean()
            check_listing(len(found), len(found) - before, end)
        return found

    def space(self, handle: Handle) -> Space:
        values = self._values(handle, _AVAILABLE, _TOTAL)
        return Space(free=values.get(_AVAILABLE, 0), total=values.get(_TOTAL, 0))

    def _values(self, handle: Handle, *wanted: int) -> dict[int, int]:
        answer = self._within(handle, [Operation(_GETATTR, xdr.numbers(_bitmap(*wanted)))], "")
        expect(answer, _GETATTR, "")
        return _attribute_values(answer)

    def _within(self, handle: Handle, operations: list[Operation], what: str) -> Unpacker:
        answer = self._call([_at(handle), *operations], what)
        expect(answer, _PUTFH, what)
        return answer

    def _call(self, operations: list[Operation], what: str) -> Unpacker:
        return self._session.call(operations, what, self.until)


def _at(handle: Handle) -> Operation:
    return Operation(_PUTFH, opaque(handle))


def _handle(answer: Unpacker) -> Handle:
    expect(answer, _GETFH, "")
    return answer.handle()


def _bitmap(*attributes: int) -> list[int]:
    """A set of attribute numbers as words of 32 bits."""
    words = [0] * (max(attributes) // 32 + 1)
    for attribute in attributes:
        words[attribute // 32] |= 1 << attribute % 32
    return words


_PLAIN = xdr.numbers(_bitmap(_TYPE, _SIZE, _MODE, _LINKS))
_LOOK = Operation(_GETATTR, _PLAIN)


def _new(mode: int) -> bytes:
    return xdr.numbers(_bitmap(_MODE)) + opaque(number(mode))


def _attribute_values(answer: Unpacker) -> dict[int, int]:
    """Read the attributes, sent in the order of their numbers. Raises Malformed for one that is never requested."""
    words = answer.numbers()
    if len(words) > _MAX_BITMAP:
        raise Malformed("the server sent attributes that were not requested")
    values = Unpacker(answer.opaque())
    present = [32 * at + bit for at, word in enumerate(words) for bit in range(32) if word & 1 << bit]
    found = {}
    for attribute in present:
        if attribute not in _KNOWN_ATTRIBUTES:
            raise Malformed("the server sent attributes that were not requested")
        found[attribute] = _long(values, attribute) if attribute in _LONG_ATTRIBUTES else values.number()
    return found


def _long(values: Unpacker, attribute: int) -> int:
    return values.size() if attribute == _SIZE else values.long()


def _plain_attributes(answer: Unpacker) -> Attributes:
    values = _attribute_values(answer)
    kind = _KINDS.get(values.get(_TYPE, 0), Kind.OTHER)
    return Attributes(kind, values.get(_SIZE, 0), values.get(_MODE, 0o600), values.get(_LINKS, 1))


def _skip_delegation(answer: Unpacker) -> None:
    """Skip the field for a delegation (a promise of sole access). Raises Malformed if the server grants one.

    None was requested, and a server must not grant any: it has no channel on which it could recall the delegation.
    """
    none, none_because, contention, resource = 0, 3, 1, 2
    kind = answer.number()
    if kind == none_because:
        if answer.number() in (contention, resource):
            answer.number()
    elif kind != none:
        raise Malformed("the server delegated a file although no delegation was requested")
