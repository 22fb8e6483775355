"""NFS version 3 (RFC 1813). The server keeps no state, so nothing but a connection can be lost."""

import errno
import os
from contextlib import closing
from dataclasses import dataclass

from backends.storage.base import Space
from backends.storage.channel import Disconnected, Malformed
from backends.storage.nfs.protocol import (
    Attributes,
    Handle,
    Kind,
    Protocol,
    Written,
    check,
    check_listing,
    check_name,
    limit,
)
from backends.storage.nfs.rpc import Connection, Identity, Refused
from backends.storage.nfs.xdr import Unpacker, long, number, opaque, text

_PORTMAP, _MOUNT, _NFS = 100000, 100005, 100003
_TCP = 6
_KINDS = {1: Kind.FILE, 2: Kind.DIRECTORY}
_FILE_SYNC = 2

_GETATTR, _SETATTR, _LOOKUP, _READ, _WRITE, _CREATE, _MKDIR = 1, 2, 3, 6, 7, 8, 9
_REMOVE, _RMDIR, _RENAME, _LINK, _READDIR, _READDIRPLUS = 12, 13, 14, 15, 16, 17
_FSSTAT, _FSINFO, _COMMIT = 18, 19, 21

_MAX_IO = 1 << 20
_LIST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of the server's NFS and mount services; None: ask its portmapper."""

    nfs: int | None
    mount: int | None


class Version3(Protocol):
    """One connection to an NFSv3 server. A second one, to its mount service, is used only at the beginning."""

    @property
    def fences(self) -> bool:
        return False

    def __init__(self, host: str, ports: Ports, identity: Identity, reserved: bool, until: float) -> None:
        self._host, self._ports, self._identity, self._reserved = host, ports, identity, reserved
        self.until = until
        self._port = ports.nfs or self._port_of(_NFS, 3) or 2049
        self._connection = self._connect(self._port)
        self._roots: dict[str, Handle] = {}
        self._lists_attributes = True  # False once the server has said that it has no READDIRPLUS
        self.largest_read = self.largest_write = _MAX_IO

    @property
    def sent(self) -> int:
        return self._connection.sent

    def reconnect(self, why: Disconnected) -> None:
        self._connection.close()
        self._connection = self._connect(self._port)
        self.limits_known = False

    def describe(self) -> str:
        return f"NFSv3, up to {self.largest_write >> 10} KiB a write"

    def close(self) -> None:
        self._connection.close()

    # Finding the export

    def _connect(self, port: int) -> Connection:
        return Connection((self._host, port), self._identity, self._reserved, self.until)

    def _port_of(self, program: int, version: int) -> int:
        """The TCP port of a service; 0 if the portmapper does not know the service."""
        question = number(program) + number(version) + number(_TCP) + number(0)
        with closing(Connection((self._host, 111), self._identity, False, self.until)) as portmapper:
            port = portmapper.call(_PORTMAP, 2, 3, question, self.until).number()
        if port > 65535:
            raise Malformed(f"the server's portmapper sent the port {port}")
        return port

    def root(self, path: list[str]) -> Handle:
        known = self._roots.get("/".join(path))
        if known is None:
            known = self._roots["/".join(path)] = self._mounted(path)
        return known

    def _mounted(self, path: list[str]) -> Handle:
        """Mount the longest part of the path that the server exports, and look up the rest name by name."""
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
                self.know_limits(handle)
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
        return answer.handle()

    def learn_limits(self, handle: Handle) -> None:
        answer = self._call(_FSINFO, opaque(handle), "")
        _skip_attributes(answer)
        most_read = answer.number()
        answer.fixed(8)
        most_write = answer.number()
        self.largest_read, self.largest_write = limit(most_read, _MAX_IO), limit(most_write, _MAX_IO)

    # Files and names

    def lookup(self, directory: Handle, name: str) -> tuple[Handle, Attributes]:
        answer = self._call(_LOOKUP, opaque(directory) + text(name), name)
        handle = answer.handle()
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
        after = _change(answer)
        return Written(answer.number(), answer.number() == _FILE_SYNC, answer.fixed(8), after)

    def commit(self, handle: Handle) -> bytes:
        answer = self._call(_COMMIT, opaque(handle) + long(0) + number(0), "")
        _change(answer)
        return answer.fixed(8)

    def create(self, directory: Handle, name: str, mode: int) -> Handle:
        guarded = number(1)
        return self._made(_CREATE, directory, name, guarded + _new(mode))

    def make_directory(self, directory: Handle, name: str, mode: int) -> Handle:
        return self._made(_MKDIR, directory, name, _new(mode))

    def _made(self, procedure: int, directory: Handle, name: str, how: bytes) -> Handle:
        answer = self._call(procedure, opaque(directory) + text(name) + how, name)
        return answer.handle() if answer.boolean() else self.lookup(directory, name)[0]

    def remove(self, directory: Handle, name: str) -> None:
        self._call(_REMOVE, opaque(directory) + text(name), name)

    def remove_directory(self, directory: Handle, name: str) -> None:
        self._call(_RMDIR, opaque(directory) + text(name), name)

    def rename(self, directory: Handle, old: str, new: str) -> None:
        self._call(_RENAME, opaque(directory) + text(old) + opaque(directory) + text(new), old)

    def link(self, handle: Handle, directory: Handle, name: str) -> None:
        self._call(_LINK, opaque(handle) + opaque(directory) + text(name), name)

    def resize(self, handle: Handle, size: int) -> None:
        self._set(handle, _KEEP * 3 + number(1) + long(size))

    def set_mode(self, handle: Handle, mode: int) -> None:
        self._set(handle, number(1) + number(mode) + _KEEP * 3)

    def _set(self, handle: Handle, mode_owner_group_size: bytes) -> None:
        times, unguarded = _KEEP * 2, number(0)
        self._call(_SETATTR, opaque(handle) + mode_owner_group_size + times + unguarded, "")

    def entries(self, directory: Handle) -> list[tuple[str, Attributes]]:
        if self._lists_attributes:
            try:
                return self._listed(directory, _READDIRPLUS)
            except OSError as error:  # RFC 1813 allows a server to omit READDIRPLUS, and unfs3 does
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._lists_attributes = False
        return self._listed(directory, _READDIR)

    def _listed(self, directory: Handle, procedure: int) -> list[tuple[str, Attributes]]:
        found: list[tuple[str, Attributes]] = []
        cookie, verifier, end, total = 0, bytes(8), False, 0
        limits = number(_LIST_BYTES) if procedure == _READDIR else number(_LIST_BYTES // 4) + number(_LIST_BYTES)
        while not end:
            answer = self._call(procedure, opaque(directory) + long(cookie) + verifier + limits, "")
            _skip_attributes(answer)
            verifier, came = answer.fixed(8), 0
            while answer.boolean():
                answer.long()  # the file's number
                name, cookie, came = answer.text(), answer.long(), came + 1
                check_name(name, total + came)
                attributes = _attributes(answer) if procedure == _READDIRPLUS else None
                if procedure == _READDIRPLUS and answer.boolean():
                    answer.opaque()
                if name not in (".", ".."):
                    found += self._known(directory, name, attributes)
            end = answer.boolean()
            total += came  # including those that were left out
            check_listing(total, came, end)
        return found

    def _known(self, directory: Handle, name: str, attributes: Attributes | None) -> list[tuple[str, Attributes]]:
        """The name with its attributes, which are looked up if not given; empty if it has just been removed."""
        try:
            return [(name, attributes or self.lookup(directory, name)[1])]
        except FileNotFoundError:
            return []

    def space(self, handle: Handle) -> Space:
        answer = self._call(_FSSTAT, opaque(handle), "")
        _skip_attributes(answer)
        total, _, available = answer.long(), answer.long(), answer.long()
        return Space(free=available, total=total)

    def _call(self, procedure: int, arguments: bytes, what: str) -> Unpacker:
        answer = self._connection.call(_NFS, 3, procedure, arguments, self.until)
        check(answer.number(), what)
        return answer


_KEEP = number(0)
"""The encoding of an attribute that a call leaves unchanged."""


def _new(mode: int) -> bytes:
    """The attributes of a new file or directory: only its mode is set."""
    return number(1) + number(mode) + number(0) * 5


def _attributes(answer: Unpacker) -> Attributes | None:
    """Read attributes that the server may leave out; None if it did."""
    return _plain_attributes(answer) if answer.boolean() else None


def _plain_attributes(answer: Unpacker) -> Attributes:
    kind, mode, links = _KINDS.get(answer.number(), Kind.OTHER), answer.number(), answer.number()
    uid, gid = answer.number(), answer.number()
    size = answer.size()
    answer.fixed(56)
    return Attributes(kind, size, mode, links, uid, gid)


def _skip_attributes(answer: Unpacker) -> None:
    if answer.boolean():
        answer.fixed(84)


def _change(answer: Unpacker) -> Attributes | None:
    """Read the file's attributes after a call; those from before the call are skipped."""
    if answer.boolean():
        answer.fixed(24)
    return _attributes(answer)
