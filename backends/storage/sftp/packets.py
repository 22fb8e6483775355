"""The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02): how requests are written and answers are read.

Everything that a server sends is bounded here: a hostile one can waste a connection, but not the node's memory.
"""

import errno
import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum

from backends.storage.base import WRITE_BIT
from backends.storage.channel import Malformed
from backends.text import printable

MAX_PACKET = 1 << 18
"""The largest answer accepted, in bytes; OpenSSH sends no larger ones either. 32 KiB were the rule before."""

MAX_NAME = 4096
"""The longest name accepted from a server, in bytes; no backup's file has one of more than 100."""

MAX_HANDLE = 256
"""The longest handle of an open file, in bytes, by the protocol."""

MAX_ENTRIES = 1 << 16
"""The most names accepted in a directory; a backup has a few dozen."""

MAX_SIZE = 1 << 63
"""Sizes in bytes are smaller than this: a kernel's own numbers end here."""

_MAX_EXTENSIONS = 256
_MAX_EXTENDED = 64
_WORD = 100

_NUMBER = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_HEAD = struct.Struct(">IBI")


class Kind(IntEnum):
    """The types of packets."""

    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
    STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
    EXTENDED, EXTENDED_REPLY = 200, 201


class Status(IntEnum):
    """What a STATUS answer means."""

    OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, NO_CONNECTION, CONNECTION_LOST, UNSUPPORTED = range(
        9
    )


READ, WRITE, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20
"""The flags of OPEN."""

_SIZE, _OWNER, _MODE, _TIMES, _EXTENDED = 0x01, 0x02, 0x04, 0x08, 0x80000000


class Failure(OSError):
    """The server refused with "failure", which is its word for a full disk, a name that is taken, and all else."""

    def __init__(self, why: str, name: str) -> None:
        super().__init__(errno.EREMOTEIO, f"the server refused it and says only: {why}", name)


@dataclass(frozen=True, slots=True)
class Attributes:
    """A file's attributes; what the server does not tell is None. `size` is in bytes, `modified` in seconds."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    modified: int | None = None

    @property
    def sealed(self) -> bool:
        """Whether another writer has taken the file over: its owner may no longer write to it."""
        return self.mode is not None and not self.mode & WRITE_BIT

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file; a server that tells no kinds is believed."""
        return self.mode is None or not stat.S_IFMT(self.mode) or stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode is not None and stat.S_ISDIR(self.mode)


def number(value: int) -> bytes:
    """An unsigned 32-bit number."""
    return _NUMBER.pack(value)


def long(value: int) -> bytes:
    """An unsigned 64-bit number."""
    return _LONG.pack(value)


def string(data: bytes) -> bytes:
    """Bytes of variable length."""
    return _NUMBER.pack(len(data)) + data


def path(name: str) -> bytes:
    """A path or a name, as the bytes that the server's filesystem has."""
    return string(os.fsencode(name))


def head(kind: Kind, request: int, length: int) -> bytes:
    """The beginning of a request whose body has `length` bytes."""
    return _HEAD.pack(length + 5, kind, request)


def mode_only(mode: int) -> bytes:
    """Attributes that set the permissions, and nothing else."""
    return number(_MODE) + number(mode)


def size_only(size: int) -> bytes:
    """Attributes that set the size in bytes, and nothing else."""
    return number(_SIZE) + long(size)


def times_only(seconds: int) -> bytes:
    """Attributes that set both times, and nothing else."""
    return number(_TIMES) + number(seconds) + number(seconds)


NO_ATTRIBUTES = number(0)


class Unpacker:
    """Reads values from an answer, one after the other. Raises Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        """An unsigned 8-bit number."""
        return self._fixed(1)[0]

    def number(self) -> int:
        """An unsigned 32-bit number."""
        return int(_NUMBER.unpack(self._fixed(4))[0])

    def long(self) -> int:
        """An unsigned 64-bit number."""
        return int(_LONG.unpack(self._fixed(8))[0])

    def string(self, most: int = MAX_PACKET) -> bytes:
        """Bytes of variable length, at most `most`."""
        length = self.number()
        if length > most:
            raise Malformed(f"the server sent {length} bytes where at most {most} are allowed")
        return self._fixed(length)

    def name(self) -> str:
        """The name of a file."""
        return os.fsdecode(self.string(MAX_NAME))

    def attributes(self) -> Attributes:
        """A file's attributes."""
        flags = self.number()
        size = self.long() if flags & _SIZE else None
        if size is not None and size >= MAX_SIZE:
            raise Malformed(f"the server sent a size of {size} bytes")
        uid, gid = (self.number(), self.number()) if flags & _OWNER else (None, None)
        mode = self.number() if flags & _MODE else None
        modified = (self.number(), self.number())[1] if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(self._count(_MAX_EXTENDED, "additional attributes")):
                self.string(), self.string()
        return Attributes(size, uid, gid, mode, modified)

    def entries(self) -> list[tuple[str, Attributes]]:
        """The names of a NAME answer, and what they are."""
        found = []
        for _ in range(self._count(MAX_ENTRIES, "names")):
            name = self.name()
            self.string()  # a line as `ls -l` would print it
            found.append((name, self.attributes()))
        return found

    def extensions(self) -> dict[str, str]:
        """The rest of a VERSION answer: each extension, with its own version."""
        found: dict[str, str] = {}
        while self._at < len(self._data):
            name = self.string(MAX_NAME).decode("ascii", "replace")
            found[name] = self.string(MAX_NAME).decode("ascii", "replace")
            if len(found) > _MAX_EXTENSIONS:
                raise Malformed(f"the server announces more than {_MAX_EXTENSIONS} extensions")
        return found

    def check_status(self, name: str) -> None:
        """Read the rest of a STATUS answer; raise the error that it means. `name` is the file that it is about."""
        code = self.number()
        if code == Status.OK:
            return
        words = self.string(MAX_NAME).decode(errors="replace") if self._at < len(self._data) else ""
        why = printable(words or f"error {code}", _WORD)
        if code == Status.FAILURE:
            raise Failure(why, name)
        meaning = _MEANINGS.get(code)
        if meaning is None:
            raise OSError(errno.EREMOTEIO, f"the server answered with SFTP error {code}: {why}", name)
        raise OSError(meaning, os.strerror(meaning), name)

    def _count(self, most: int, what: str) -> int:
        count = self.number()
        if count > most:
            raise Malformed(f"the server announces {count} {what}")
        return count

    def _fixed(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise Malformed("the server's answer ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken


_MEANINGS: dict[int, int] = {
    Status.EOF: errno.ENODATA,
    Status.NO_SUCH_FILE: errno.ENOENT,
    Status.PERMISSION_DENIED: errno.EACCES,
    Status.BAD_MESSAGE: errno.EINVAL,
    Status.UNSUPPORTED: errno.EOPNOTSUPP,
}
