"""A directory of a mounted filesystem whose mount is looked up, or checked, each time a backup is opened.

The place where a share or a stick is mounted can change from one start to the next, and an empty mount point looks just
like a directory. So nothing is assumed before the first use, and the mount is checked again before a directory is made.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from backends.holder import Holder
from backends.mounts.table import Mount
from backends.storage.base import Closed, Lock, ReadHandle, Space, Storage, WriteHandle
from backends.storage.local import LocalStorage
from backends.storage.one_descriptor import OneDescriptor
from backends.text import printable

_LEFT_BY_OPEN_FILES = (".fuse_hidden", ".nfs")
"""How the names begin that FUSE and NFS give to removed files that a process still has open."""

_UNTIL_CLOSED = 1.0
"""Seconds to wait for hidden files to go: a FUSE filesystem hears of a `close` shortly after it has returned."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A directory (which need not exist), the mount that holds it, and what a person calls that mount."""

    path: Path
    mount: Mount
    words: str


class MountedStorage(Storage):
    """The directory that `find` returns; `find` raises Unreachable, saying why, when the directory cannot be used.

    `name` is what to call the place before it is found. `read_only` makes the error for a read-only filesystem.
    """

    def __init__(self, find: Callable[[], Mounted], name: str, read_only: Callable[[], Exception]) -> None:
        self._find, self._name, self._read_only = find, name, read_only
        self._found: Mounted | None = None
        self._local: LocalStorage | None = None
        self._written: WeakValueDictionary[str, OneDescriptor] = WeakValueDictionary()

    def look(self) -> Mounted:
        """Find the directory, once. Raises Unreachable."""
        if self._found is None:
            self._found = self._find()
            self._local = LocalStorage(self._found.path)
        return self._found

    @property
    def _storage(self) -> LocalStorage:
        self.look()
        assert self._local is not None
        return self._local

    @property
    def _through_fuse(self) -> bool:
        return self.look().mount.kind.startswith("fuse")

    def describe(self) -> str:
        return self._name if self._found is None else f"{self._found.path} ({self._found.words})"

    @property
    def is_mounted(self) -> bool:
        return True

    def about(self) -> list[str]:
        mount = self.look().mount
        options = ", ".join(sorted(mount.options - {"rw", "relatime"}))
        return [mount.describe(), f"mounted with: {printable(options) or 'no options'}"]

    def exists(self) -> bool:
        return self._storage.exists()

    def make(self) -> None:
        self._found = None  # it may have been unmounted since it was checked
        self._writing(self._storage.make)

    def unmake(self) -> None:
        until = time.monotonic() + _UNTIL_CLOSED
        while True:
            try:
                return self._writing(self._storage.unmake)
            except OSError as error:
                waiting = error.errno == errno.ENOTEMPTY and self._only_open_files_left()
                if not waiting or time.monotonic() >= until:
                    raise
                time.sleep(0.02)

    def _only_open_files_left(self) -> bool:
        return all(path.name.startswith(_LEFT_BY_OPEN_FILES) for path in self.look().path.iterdir())

    def names(self) -> list[str]:
        return self._storage.names()

    def open(self, name: str) -> ReadHandle:
        return self._storage.open(name)

    def create(self, name: str) -> WriteHandle:
        handle = self._writing(lambda: self._storage.create(name))
        if not self._through_fuse:
            return handle
        handle.close()
        alone = self._written[name] = OneDescriptor(self._storage.reopen, name)
        return alone

    def rename(self, old: str, new: str) -> None:
        self._rename(old, new, self._storage.rename)

    def rename_new(self, old: str, new: str) -> None:
        # When an open file loses one of two names, FUSE keeps a hidden name for it, and some FUSE filesystems then
        # treat the two names as two files.
        self._rename(old, new, self._storage.rename_unless_there if self._through_fuse else self._storage.rename_new)

    def _rename(self, old: str, new: str, how: Callable[[str, str], None]) -> None:
        handle = self._written.get(old)
        if handle is None:
            how(old, new)
            return
        handle.renamed(lambda: how(old, new), old, new)
        self._written[new] = handle
        self._written.pop(old, None)

    def remove(self, name: str) -> None:
        self._storage.remove(name)

    def seal(self, name: str) -> bool:
        # Files on FUSE filesystems are not checked after each sync: that may cost a round trip, and some of these
        # filesystems report no modes or link counts.
        return self._storage.seal(name) and not self._through_fuse

    def lock(self, what: str) -> Lock | None:
        return self._writing(lambda: self._storage.lock(what))

    def locked_by(self) -> Holder | None:
        return self._storage.locked_by()

    def check_lock(self) -> None:
        self._storage.check_lock()

    def sync_names(self) -> None:
        self._storage.sync_names()

    def space(self) -> Space:
        return self._storage.space()

    def shares_disk_with(self, path: Path) -> bool:
        return self._storage.shares_disk_with(path)

    def why_unwritable(self) -> str | None:
        return self._storage.why_unwritable()

    def closed(self) -> list[Closed]:
        return self._storage.closed()

    def directories_with(self, name: str) -> list[str]:
        return self._storage.directories_with(name)

    def _writing(self, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except OSError as error:
            if error.errno == errno.EROFS:
                raise self._read_only() from error
            raise
