"""The name objects: `names/NAME` says what the file NAME is now.

That is either the content itself, if the file is small, or the id of a chain of objects (see `chain.py`). A file that
is removed leaves a name object that says so: the store cannot delete only a certain version of an object, and a
deletion that arrives late would remove the file that has the name by then.

Every name object holds random bytes, so no two are equal. An ETag that is only a digest of the content then names one
request, and a request that is carried out late never finds the version that it was to replace.
"""

import errno
import re
import secrets
import struct
import time
from dataclasses import dataclass, replace

from backends.storage.local import plain_name
from backends.storage.objects.store import Changed, Content, Exists, Listed, ObjectStore

NAMES = "names/"
MANIFEST, SESSION = "manifest", "session"

SMALL = 64 << 10
"""The most bytes of a file whose content is in the name object itself."""

OWNER = 8
_FORMAT = 1
_START = struct.Struct("<B16s")
"""The format's version, and random bytes."""
_CHAIN = struct.Struct("<16sQB")
_IS_CONTENT, _IS_CHAIN = 1, 2
_KEPT_FOR = 1.0
"""For how many seconds a name object that was read to see whether it is there counts as what it is now."""
_POSSIBLE = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class File:
    """What a name object says: the `content` of a small file, or the id of its `chain`.

    `size` is the file's size if it is larger than what the chain holds: the rest are zeros. `sealed` says that another
    writer has taken the file over. `owner` is who wrote or claimed a small file last, in OWNER random bytes.
    """

    content: bytes | None
    chain: str = ""
    size: int = 0
    sealed: bool = False
    owner: bytes = bytes(OWNER)

    def encode(self) -> bytes:
        """The name object, different at each call."""
        start = _START.pack(_FORMAT, secrets.token_bytes(16))
        if self.content is not None:
            return start + bytes([_IS_CONTENT]) + self.owner + self.content
        return start + bytes([_IS_CHAIN]) + _CHAIN.pack(bytes.fromhex(self.chain), self.size, self.sealed)


def _removed() -> bytes:
    return _START.pack(_FORMAT, secrets.token_bytes(16))


def _decode(key: str, data: bytes) -> File | None:
    """The file, or None if it was removed. Raises OSError."""
    if data[:1] and data[0] > _FORMAT:
        raise OSError(errno.EPROTONOSUPPORT, "written by a newer release of this program, which this one cannot read")
    kind, rest = data[_START.size : _START.size + 1], data[_START.size + 1 :]
    if len(data) == _START.size:
        return None
    if data[:1] == bytes([_FORMAT]) and kind == bytes([_IS_CONTENT]) and len(rest) >= OWNER:
        return File(rest[OWNER:], owner=rest[:OWNER])
    if data[:1] == bytes([_FORMAT]) and kind == bytes([_IS_CHAIN]) and len(rest) == _CHAIN.size:
        chain, size, sealed = _CHAIN.unpack(rest)
        return File(None, chain.hex(), size, bool(sealed))
    raise OSError(errno.EIO, "this object is damaged or was not written by this program", key)


def is_removed(data: bytes | Listed) -> bool:
    """Whether a name object only says that its file was removed: its size, and so a listing, tells."""
    return (data.size if isinstance(data, Listed) else len(data)) == _START.size


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a name. `version` is None if there is no object; `file` is None if there is no file."""

    file: File | None
    version: str | None


class Names:
    """All name objects of one backup."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._foreseen: tuple[str, float, Content] | None = None
        """A name, until when its object is known, and that object."""
        self._changes = 0

    def all(self) -> list[str]:
        """The names of all files, sorted."""
        return [each.key.removeprefix(NAMES) for each in self._store.list(NAMES) if not is_removed(each)]

    def foresee(self, name: str) -> bool:
        """Whether there is a file of this name. If it is looked at next, and at once, that takes no further request."""
        key, changes = name_key(name), self._changes
        content = self._known(name)
        if content is None:
            until = time.monotonic() + _KEPT_FOR
            try:
                content = self._store.get(key)
            except FileNotFoundError:
                return False
            if changes == self._changes:
                self._foreseen = name, until, content
        return not is_removed(content.data)

    def _known(self, name: str) -> Content | None:
        known = self._foreseen
        return known[2] if known is not None and known[0] == name and time.monotonic() < known[1] else None

    def _forget(self) -> None:
        """Something was changed here. Others may have answered that, so what was read before counts no more."""
        self._changes += 1
        self._foreseen = None

    def look(self, name: str) -> Found:
        """What is at this name now."""
        key = name_key(name)
        content, self._foreseen = self._known(name), None
        try:
            content = content or self._store.get(key)
        except FileNotFoundError:
            return Found(None, None)
        return Found(_decode(key, content.data), content.version)

    def find(self, name: str) -> tuple[File, str]:
        """The file of this name, and its version. Raises FileNotFoundError if there is none."""
        found = self.look(name)
        if found.file is None or found.version is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return found.file, found.version

    def put(self, name: str, file: File, version: str | None) -> str:
        """Let the name stand for this file if it still has this version (None: if there is no object).

        Returns the new version. Raises Changed.
        """
        key = name_key(name)
        try:
            if version is None:
                return self._store.create(key, file.encode())
            return self._store.replace(key, file.encode(), version)
        except Exists:
            raise Changed(key) from None
        finally:
            self._forget()

    def seal(self, name: str, file: File, version: str) -> str:
        """Mark the file as taken over. Raises Changed."""
        return self.put(name, replace(file, sealed=True), version)

    def remove(self, name: str, version: str) -> None:
        """Let the name stand for nothing if it still has this version. Raises Changed."""
        try:
            self._store.replace(name_key(name), _removed(), version)
        finally:
            self._forget()


def name_key(name: str) -> str:
    """The key of a file's name object. Raises ValueError for a name that no file of a backup has."""
    if not _POSSIBLE.fullmatch(plain_name(name)):
        raise ValueError(f"{name!r} is not a possible name of a file in a backup")
    return NAMES + name
