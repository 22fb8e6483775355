"""NFS version 3 (RFC 1813): no state on the server, so that a connection is all that can be lost."""

import errno
import os
from contextlib import closing
from dataclasses import dataclass

from backends.storage.base import Space
from backends.storage.nfs.protocol import Attributes, Handle, Kind, Protocol, Written, check
from backends.storage.nfs.rpc import Connection, Disconnected, Identity, Refused
from backends.storage.nfs.xdr import Unpacker, long, number, opaque, text

_PORTMAP, _MOUNT, _NFS = 100000, 100005, 100003
_TCP = 6
_KINDS = {1: Kind.FILE, 2: Kind.DIRECTORY}
_FILE_SYNC = 2

_GETATTR, _SETATTR, _LOOKUP, _READ, _WRITE, _CREATE, _MKDIR = 1, 2, 3, 6, 7, 8, 9
_REMOVE, _RMDIR, _RENAME, _LINK, _READDIRPLUS, _FSSTAT, _FSINFO, _COMMIT = 12, 13, 14, 15, 17, 18, 19, 21

_MOST_IO = 1 << 20
_LIST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server's services listen; None: ask its portmapper."""

    nfs: int | None
    mount: int | None


class Version3(Protocol):
    """One connection to an NFSv3 server; what needs another (mount) is done at the beginning."""

    @property
    def fences(self) -> bool:
        return False

    def __init__(self, host: str, ports: Ports, identity: Identity, reserved: bool, until: float) -> None:
        self._host, self._ports, self._identity, self._reserved = host, ports, identity, reserved
        self.until = until
        self._port = ports.nfs or self._port_of(_NFS, 3) or 2049
        self._connection = self._connect(self._port)
        self._roots: dict[str, Handle] = {}
        self.largest_read = self.largest_write = 1 << 16

    def reconnect(self, why: Disconnected) -> None:
        self._connection.close()
        self._connection = self._connect(self._port)

    def describe(self) -> str:
        return f"NFSv3, up to {self.largest_write >> 10} KiB a write"

    def close(self) -> None:
        self._connection.close()

    # Finding the export

    def _connect(self, port: int) -> Connection:
        return Connection((self._host, port), self._identity, self._reserved, self.until)

    def _port_of(self, program: int, version: int) -> int:
        """The TCP port of a service; 0 when the portmapper does not know it."""
        question = number(program) + number(version) + number(_TCP) + number(0)
        with closing(Connection((self._host, 111), self._identity, False, self.until)) as portmapper:
            return portmapper.call(_PORTMAP, 2, 3, question, self.until).number()

    def root(self, path: list[str]) -> Handle:
        known = self._roots.get("/".join(path))
        if known is None:
            known = self._roots["/".join(path)] = self._mounted(path)
        return known

    def _mounted(self, path: list[str]) -> Handle:
        """Mount the longest part of the path that the server exports, and look the rest up."""
        port = self._ports.mount or self._port_of(_MOUNT, 3)
        if port == 0:
            raise Refused(errno.EPROTONOSUPPORT, "the server does not serve NFSv3 mounts")
        refused: OSError | None = None
        with closing(self._connect(port)) as mounter:
            for depth in range(len(path), -1, -1):
                try:
                    handle = self._mount(mounter, "/" + "/".join(path[:depth]))
                except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
                    if refused is None or isinstance(error, PermissionError):
                        refused = error
                    continue
                self._learn_limits(handle)
                for name in path[depth:]:
                    handle, attributes = self.lookup(handle, name)
                    if attributes.kind is not Kind.DIRECTORY:
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                return handle
        assert refused is not None
        raise refused

    def _mount(self, mounter: Connection, path: str) -> Handle:
        answer = mounter.call(_MOUNT, 3, 1, text(path), self.until)
        check(answer.number(), path)
        return answer.opaque()

    def _learn_limits(self, root: Handle) -> None:
        answer = self._call(_FSINFO, opaque(root), "")
        _skip_attributes(answer)
        most_read = answer.number()
        answer.fixed(8)
        most_write = answer.number()
        self.largest_read = min(_MOST_IO, most_read or _MOST_IO)
        self.largest_write = min(_MOST_IO, most_write or _MOST_IO)

    # Files and names

    def lookup(self, directory: Handle, name: str) -> tuple[Handle, Attributes]:
        answer = self._call(_LOOKUP, opaque(directory) + text(name), name)
        handle = answer.opaque()
        return handle, _attributes(answer) or self.attributes(handle)

    def attributes(self, handle: Handle) -> Attributes:
        return _plain_attributes(self._call(_GETATTR, opaque(handle), ""))

    def read(self, handle: Handle, offset: int, length: int) -> tuple[bytes, bool]:
        answer = self._call(_READ, opaque(handle) + long(offset) + number(length), "")
        _skip_attributes(answer)
        answer.number()
        end = answer.boolean()
        return answer.opaque(), end

    def write(self, handle: Handle, offset: int, data: bytes, durably: bool) -> Written:
        stable = number(_FILE_SYNC if durably else 0)
        answer = self._call(_WRITE, opaque(handle) + long(offset) + number(len(data)) + stable + opaque(data), "")
        _skip_change(answer)
        return Written(answer.number(), answer.number() == _FILE_SYNC, answer.fixed(8))

    def commit(self, handle: Handle) -> bytes:
        answer = self._call(_COMMIT, opaque(handle) + long(0) + number(0), "")
        _skip_change(answer)
        return answer.fixed(8)

    def create(self, directory: Handle, name: str, mode: int) -> Handle:
        guarded = number(1)
        return self._made(_CREATE, directory, name, guarded + _new(mode))

    def make_directory(self, directory: Handle, name: str, mode: int) -> Handle:
        return self._made(_MKDIR, directory, name, _new(mode))

    def _made(self, procedure: int, directory: Handle, name: str, how: bytes) -> Handle:
        answer = self._call(procedure, opaque(directory) + text(name) + how, name)
        return answer.opaque() if answer.boolean() else self.lookup(directory, name)[0]

    def remove(self, directory: Handle, name: str) -> None:
        self._call(_REMOVE, opaque(directory) + text(name), name)

    def remove_directory(self, directory: Handle, name: str) -> None:
        self._call(_RMDIR, opaque(directory) + text(name), name)

    def rename(self, directory: Handle, old: str, new: str) -> None:
        self._call(_RENAME, opaque(directory) + text(old) + opaque(directory) + text(new), old)

    def link(self, handle: Handle, directory: Handle, name: str) -> None:
        self._call(_LINK, opaque(handle) + opaque(directory) + text(name), name)

    def resize(self, handle: Handle, size: int) -> None:
        keep = number(0)
        times = number(0) + number(0)
        unguarded = number(0)
        changes = keep * 3 + number(1) + long(size) + times
        self._call(_SETATTR, opaque(handle) + changes + unguarded, "")

    def entries(self, directory: Handle) -> list[tuple[str, Kind]]:
        found: list[tuple[str, Kind]] = []
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            limits = number(_LIST_BYTES // 4) + number(_LIST_BYTES)
            answer = self._call(_READDIRPLUS, opaque(directory) + long(cookie) + verifier + limits, "")
            _skip_attributes(answer)
            verifier = answer.fixed(8)
            while answer.boolean():
                answer.long()  # the file's number
                name, cookie = answer.text(), answer.long()
                attributes = _attributes(answer)
                handle = answer.opaque() if answer.boolean() else None
                if name not in (".", ".."):
                    known = attributes or (self.attributes(handle) if handle else self.lookup(directory, name)[1])
                    found.append((name, known.kind))
            end = answer.boolean()
        return found

    def space(self, handle: Handle) -> Space:
        answer = self._call(_FSSTAT, opaque(handle), "")
        _skip_attributes(answer)
        total, _, available = answer.long(), answer.long(), answer.long()
        return Space(free=available, total=total)

    def _call(self, procedure: int, arguments: bytes, what: str) -> Unpacker:
        answer = self._connection.call(_NFS, 3, procedure, arguments, self.until)
        check(answer.number(), what)
        return answer


def _new(mode: int) -> bytes:
    """The attributes of something new: only its mode is ours to say."""
    return number(1) + number(mode) + number(0) * 5


def _attributes(answer: Unpacker) -> Attributes | None:
    """What the server may tell or leave out."""
    return _plain_attributes(answer) if answer.boolean() else None


def _plain_attributes(answer: Unpacker) -> Attributes:
    kind = _KINDS.get(answer.number(), Kind.OTHER)
    answer.fixed(16)
    size = answer.long()
    answer.fixed(56)
    return Attributes(kind, size)


def _skip_attributes(answer: Unpacker) -> None:
    if answer.boolean():
        answer.fixed(84)


def _skip_change(answer: Unpacker) -> None:
    """What the file was like before and after."""
    if answer.boolean():
        answer.fixed(24)
    _skip_attributes(answer)
