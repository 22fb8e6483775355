"""A server of NFSv3 and NFSv4.1 that holds one backup for reading, in this process, and may answer with any number.

It takes the place of the client's connection, behind the RPC header; `tests/destinations` has real servers.
"""

import errno
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from backends.storage.nfs.xdr import Unpacker, long, number, numbers, opaque, text

Answer = Callable[[str, bytes], bytes]
"""A function from the question and the honest answer to the answer that is sent."""

_MOUNT, _PORTMAP = 100005, 100000
_NO_SUCH, _READ_ONLY = errno.ENOENT, errno.EROFS


class ServerOfOneBackup:
    """Serves the directory `root`, which holds a backup, as /export."""

    def __init__(self, root: Path, answer: Answer) -> None:
        self._root, self._answer = root, answer
        self.sent = 0

    def connect(self, *_: object) -> "ServerOfOneBackup":
        """Takes the place of a connection's constructor."""
        return self

    def close(self) -> None:
        """Nothing to close."""

    def call(self, program: int, version: int, procedure: int, arguments: bytes, until: float) -> Unpacker:
        """Answers like `Connection.call`."""
        self.sent += 1
        question = Unpacker(arguments)
        if program == _PORTMAP:
            asked, honest = "portmap", number(2049)
        elif program == _MOUNT:
            path = question.text()
            asked, honest = "mount", number(0) + opaque(b"") if path == "/export" else number(_NO_SUCH)
        elif version == 3:
            asked, honest = f"procedure {procedure}", self._version3(procedure, question)
        else:
            asked, honest = self._version4(question)
        return Unpacker(self._answer(asked, honest))

    def _path(self, handle: bytes) -> Path:
        return self._root / handle.decode()

    # NFSv3

    def _version3(self, procedure: int, question: Unpacker) -> bytes:
        handle = question.opaque()
        path, none = self._path(handle), number(0)
        if procedure == 1:
            return number(0) + _attributes3(path)
        if procedure == 3:
            wanted = path / question.text()
            if not wanted.exists():
                return number(_NO_SUCH) + none
            return number(0) + opaque(self._handle(wanted)) + number(1) + _attributes3(wanted) + none
        if procedure == 6:
            data, end = _read(path, question.long(), question.number())
            return number(0) + none + number(len(data)) + number(end) + opaque(data)
        if procedure == 17:
            entries = b"".join(
                number(1) + long(at) + text(each.name) + long(at) + number(1) + _attributes3(each)
                + number(1) + opaque(self._handle(each))
                for at, each in enumerate(sorted(path.iterdir()), 3)
            )  # fmt: skip
            return number(0) + none + bytes(8) + entries + number(0) + number(1)
        if procedure == 18:
            return number(0) + none + long(1 << 40) * 3 + long(1 << 20) * 3 + number(0)
        if procedure == 19:
            return number(0) + none + number(1 << 16) * 7 + long(1 << 40) + bytes(12)
        return number(_READ_ONLY) + none

    def _handle(self, path: Path) -> bytes:
        return str(path.relative_to(self._root)).encode()

    # NFSv4.1

    def _version4(self, question: Unpacker) -> tuple[str, bytes]:
        question.opaque()
        question.number()
        current, results, asked = b"", b"", ""
        count = question.number()
        for done in range(1, count + 1):
            code = question.number()
            asked += f" {code}"
            status, result, current = self._operation(code, question, current)
            results += number(code) + number(status) + (b"" if status else result)
            if status:
                return asked, number(status) + opaque(b"") + number(done) + results
        return asked, number(0) + opaque(b"") + number(count) + results

    def _operation(self, code: int, question: Unpacker, current: bytes) -> tuple[int, bytes, bytes]:
        if code == 42:
            return 0, long(7) + number(1) + number(0), current
        if code == 43:
            channel = number(0) + number(1 << 20) * 2 + number(4096) + number(16) + number(1) + number(0)
            return 0, bytes(16) + number(1) + number(0) + channel * 2, current
        if code == 53:
            question.fixed(32)
            return 0, bytes(36), current
        if code == 58:
            question.number()
            return 0, b"", current
        if code == 24:
            return 0, b"", b"/"
        if code == 22:
            return 0, b"", question.opaque()
        if code == 10:
            return 0, opaque(current), current
        return self._on_file(code, question, current)

    def _on_file(self, code: int, question: Unpacker, current: bytes) -> tuple[int, bytes, bytes]:
        path = self._path4(current)
        if code == 15:
            name = question.text()
            wanted = self._root if current == b"/" else path / name
            return (0, b"", b"//" + self._handle(wanted)) if wanted.exists() else (_NO_SUCH, b"", current)
        if code == 9:
            return 0, _attributes4(path, question.numbers()), current
        if code == 25:
            question.fixed(16)
            data, end = _read(path, question.long(), question.number())
            return 0, number(end) + opaque(data), current
        if code == 26:
            question.fixed(8 + 8 + 8)
            wanted_attributes = question.numbers()
            entries = b"".join(
                number(1) + long(at) + text(each.name) + _attributes4(each, wanted_attributes)
                for at, each in enumerate(sorted(path.iterdir()), 3)
            )
            return 0, bytes(8) + entries + number(0) + number(1), current
        return _READ_ONLY, b"", current

    def _path4(self, handle: bytes) -> Path:
        return self._path(handle.removeprefix(b"//") if handle != b"/" else b".")


def _read(path: Path, offset: int, count: int) -> tuple[bytes, int]:
    data = path.read_bytes()
    taken = data[offset : offset + min(count, 1 << 16)]
    return taken, int(offset + len(taken) >= len(data))


def _attributes3(path: Path) -> bytes:
    found = path.stat()
    kind = 2 if stat.S_ISDIR(found.st_mode) else 1
    return struct.pack(">5I", kind, found.st_mode & 0o777, 1, 0, 0) + long(found.st_size) + bytes(56)


def _attributes4(path: Path, wanted: list[int]) -> bytes:
    found = path.stat()
    values = {
        1: number(2 if stat.S_ISDIR(found.st_mode) else 1), 4: long(found.st_size), 30: long(1 << 16),
        31: long(1 << 16), 33: number(found.st_mode & 0o777), 35: number(1), 42: long(1 << 40), 44: long(1 << 41),
    }  # fmt: skip
    asked = [at for at in sorted(values) if at // 32 < len(wanted) and wanted[at // 32] & 1 << at % 32]
    return numbers(wanted) + opaque(b"".join(values[at] for at in asked))
