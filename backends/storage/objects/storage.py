"""The directory of a backup in an object store."""

import errno
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain

from backends.storage.base import UNKNOWN_SPACE, FileFenced, ReadHandle, Space, Storage, WriteHandle
from backends.storage.objects.chain import DATA, fence, new_chain
from backends.storage.objects.names import (
    MANIFEST,
    NAMES,
    OWNER,
    SESSION,
    SMALL,
    File,
    Found,
    Names,
    is_removed,
    name_key,
)
from backends.storage.objects.presence import Presence
from backends.storage.objects.reading import ChainReadHandle, ContentReadHandle, ReadAhead
from backends.storage.objects.store import Changed, ObjectStore
from backends.storage.objects.sweeping import sweep
from backends.storage.objects.upkeep import Upkeep
from backends.storage.objects.writing import ObjectWriteHandle

_ATTEMPTS = 50
_THREADS = 4
_PAGE = 1000
_OF_THE_WRITER = frozenset({MANIFEST, SESSION})
"""The small files that only the backup's one writer publishes."""
_MAX_BESIDE = 1000
"""The most prefixes that are searched for backups."""

SWEEP_AFTER, SWEEP_EVERY = 600.0, 86400.0
"""Seconds from the first commit of a process to its first sweep, and between two sweeps."""


class ObjectStorage(Storage):
    """A directory of files, each of which is a name object and, unless it is small, a chain of data objects.

    There is no lock: `seal` and the conditional requests keep two writers apart.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.files = store, Names(store)
        self.presence = Presence(store, self.files)
        self.upkeep = Upkeep()
        self._read_ahead = ReadAhead()
        self._pool: ThreadPoolExecutor | None = None
        self._guard = threading.Lock()
        self._written: weakref.WeakValueDictionary[str, ObjectWriteHandle] = weakref.WeakValueDictionary()
        self._begun: set[str] = set()
        """The chains that were begun here."""
        self._named: dict[str, str] = {}
        """The names that files got here and still have as far as is known, and the chains of those files."""
        self._taken: dict[str, str] = {}
        """The files that were sealed here, and the chain that each had then, or that was put in its place here."""
        self._versions: dict[str, Found] = {}
        """Each small file as it was read or published last."""
        self._owner = secrets.token_bytes(OWNER)
        self._owned: set[str] = set()
        """The small files that were published or claimed here."""
        self._sweep_at: float | None = None

    def describe(self) -> str:
        return self.store.describe()

    def about(self) -> list[str]:
        return self.store.about()

    # The directory

    def exists(self) -> bool:
        return self.presence.exists()

    def make(self) -> None:
        self.presence.make()

    def unmake(self) -> None:
        """Delete the backup's objects; the marker last, so that a killed call can be repeated.

        Other backups may be below the same prefix. A chain that another process began is ended first, and no fence is
        deleted: its writer may come back at any time, and must not save anything where nothing is left.
        """
        self.presence.check()
        self._versions.clear()
        for handle in self._open_files():
            handle.removed()
        for name in self.files.all():
            file = self.files.look(name).file
            if file is not None:
                self._leave(file)
        listed = chain(self.store.list(NAMES), (each for each in self.store.list(DATA) if each.size))
        keys: list[str] = []
        for each in listed:
            keys.append(each.key)
            if len(keys) == _PAGE:
                self.store.delete(keys)
                keys = []
        if keys:
            self.store.delete(keys)
        self.presence.unmake()

    def names(self) -> list[str]:
        found = self.files.all()
        if not found:
            self.presence.check()
        return found

    def sync_names(self) -> None:
        """Only check that the store answers: each change of a name was durable when it was answered."""
        self.presence.check()

    def space(self) -> Space:
        self.presence.check()
        return UNKNOWN_SPACE

    def directories_with(self, name: str) -> list[str]:
        key = name_key(name)
        return [each for each in self.store.prefixes("")[:_MAX_BESIDE] if self._has(f"{each}/{key}")]

    def _has(self, key: str) -> bool:
        try:
            return not is_removed(self.store.get(key).data)
        except FileNotFoundError:
            return False

    # Files

    def open(self, name: str) -> ReadHandle:
        file, version = self.files.find(name)
        if file.content is not None:
            self._versions[name] = Found(file, version)
            return ContentReadHandle(file.content, name)
        handle = self._written.get(file.chain)
        if handle is not None:
            handle.flush()
            if handle.version != version:
                file, version = self.files.find(name)
        return ChainReadHandle(self.store, self.executor, self._read_ahead, file.chain, file.size, name)

    def create(self, name: str) -> WriteHandle:
        name_key(name)
        self.presence.check_writable()
        chain = new_chain()
        self._begun.add(chain)
        self._named[name] = chain
        version = self._put(name, File(None, chain), Found(None, None)).version
        assert version is not None
        handle = self._written[chain] = ObjectWriteHandle(self, name, version, chain)
        return handle

    def rename(self, old: str, new: str) -> None:
        name_key(new)
        with self._found(old) as (file, version, handle):
            if file.sealed and handle is not None:
                raise FileFenced(old)
            there = self._put(new, file, self.files.look(new)).version
            assert there is not None
            self._moved(handle, old, version, new, there)

    def rename_new(self, old: str, new: str) -> None:
        name_key(new)
        with self._found(old) as (file, version, handle):
            there: str | None = None
            for _ in range(_ATTEMPTS):
                try:
                    there = self.files.put(new, file, there)
                    break
                except Changed:
                    found = self.files.look(new)
                    if found.file is not None:
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
                    there = found.version
            else:
                raise _busy(new)
            self._moved(handle, old, version, new, there)

    @contextmanager
    def _found(self, name: str) -> Iterator[tuple[File, str, ObjectWriteHandle | None]]:
        """The file of this name, its version, and who writes to it here. That writer does not change the name object
        meanwhile; what is not in the way of its commits."""
        file, version = self.files.find(name)
        handle = self._written.get(file.chain)
        if handle is None:
            yield file, version, None
            return
        with handle.meta:
            if handle.version != version:
                file, version = self.files.find(name)
            yield file, version, handle

    def _moved(self, handle: ObjectWriteHandle | None, old: str, version: str, new: str, there: str) -> None:
        """The file has its new name, too: take away the old one."""
        if handle is not None:
            handle.renamed(new, there)
        chain = self._named.get(old)
        self._forget(old)
        self._forget(new)
        if chain is not None:
            self._named[new] = chain
            if new in self._taken:
                self._taken[new] = chain
        with suppress(Changed):  # another writer has removed or sealed it meanwhile
            self.files.remove(old, version)

    def remove(self, name: str) -> None:
        """Remove a file. Raises FileFenced if it got its name here or was sealed here, and another writer has put its
        own in its place."""
        for _ in range(_ATTEMPTS):
            with self._found(name) as (file, version, handle):
                if self._named.get(name, file.chain) != file.chain:
                    raise FileFenced(name)
                self._check_taken(name, file)
                self._leave(file)
                try:
                    self.files.remove(name, version)
                except Changed:
                    continue
                if handle is not None:
                    handle.removed()
            self._forget(name)
            return
        raise _busy(name)

    def _forget(self, name: str) -> None:
        self._versions.pop(name, None)
        self._named.pop(name, None)

    def _put(self, name: str, file: File, found: Found) -> Found:
        """Let the name stand for this file instead of what is there. Returns what is there then."""
        for _ in range(_ATTEMPTS):
            if found.file is not None:
                self._check_owner(name, found.file)
                self._check_taken(name, found.file)
                self._leave(found.file)
            try:
                version = self.files.put(name, file, found.version)
            except Changed:
                found = self.files.look(name)
                continue
            replaced = self._written.get(found.file.chain) if found.file is not None else None
            if replaced is not None and replaced.chain != file.chain:
                replaced.removed()
            return Found(file, version)
        raise _busy(name)

    def _leave(self, file: File) -> None:
        """The file is about to lose its name: its writer, if it is another process, must notice.

        Only the process that began a chain adds to it, so a file of this process needs no fence.
        """
        if file.content is None and file.chain not in self._begun:
            fence(self.store, file.chain)

    def publish(self, name: str, data: bytes) -> None:
        """Write a whole file durably: one request if it is small and was read or published before.

        Raises FileFenced if it is the writer's alone, was ours, and now belongs to another writer.
        """
        if len(data) > SMALL:
            super().publish(name, data)
            return
        self.presence.check_writable()
        known = self._versions.pop(name, Found(None, None))
        self._versions[name] = self._put(name, File(data, owner=self._owner), known)
        self._owned.add(name)
        if (temporary := self.temporary(name)) in self._named:
            self.remove(temporary)

    # Other writers

    @property
    def costly(self) -> bool:
        return True

    def seal(self, name: str) -> bool:
        """Mark the name object, then end the chain: from then on its writer can neither add to it nor move it.

        The manifest is claimed, too: a writer that is held up just before it publishes another one shall fail.
        """
        for _ in range(_ATTEMPTS):
            file, version = self.files.find(name)
            try:
                if not file.sealed and file.content is None:
                    self.files.seal(name, file, version)
            except Changed:
                continue
            self._taken[name] = file.chain
            if file.content is None:
                fence(self.store, file.chain)
            self._claim(MANIFEST)
            return True
        raise _busy(name)

    def _claim(self, name: str) -> None:
        """Make a small file ours, with the content that it has."""
        for _ in range(_ATTEMPTS):
            found = self.files.look(name)
            if found.file is None or found.file.content is None:
                return
            try:
                if found.file.owner != self._owner:
                    self.files.put(name, replace(found.file, owner=self._owner), found.version)
            except Changed:
                continue
            self._versions.pop(name, None)
            self._owned.add(name)
            return
        raise _busy(name)

    def _check_owner(self, name: str, file: File) -> None:
        """Raise FileFenced if this file was ours, and now is another writer's.

        Most small files are also written by commands, and belong to nobody.
        """
        if name in _OF_THE_WRITER and name in self._owned and file.content is not None and file.owner != self._owner:
            raise FileFenced(name)

    def _check_taken(self, name: str, file: File) -> None:
        """Raise FileFenced if this file was sealed here, and another writer has put its own in its place since.

        Both have taken the backup over, and this process was held up while the other one went on.
        """
        if self._taken.get(name, file.chain) != file.chain:
            raise FileFenced(name)

    # For open files

    def executor(self) -> Executor:
        """Threads for uploads and for reading ahead."""
        with self._guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")
            return self._pool

    def reader(self, chain: str, name: str) -> ChainReadHandle:
        """Open a chain for reading."""
        return ChainReadHandle(self.store, self.executor, self._read_ahead, chain, 0, name)

    def moved(self, before: str, handle: ObjectWriteHandle) -> None:
        """The file goes on in another chain."""
        self._named[handle.name] = handle.chain
        if handle.name in self._taken:
            self._taken[handle.name] = handle.chain
        self._begun.add(handle.chain)
        self._written.pop(before, None)
        self._written[handle.chain] = handle

    def let_go(self, handle: ObjectWriteHandle) -> None:
        """The file was closed."""
        self._written.pop(handle.chain, None)

    def _open_files(self) -> Sequence[ObjectWriteHandle]:
        return list(self._written.values())

    def sweep_if_due(self) -> None:
        """Have what nobody needs any more deleted, if it is time for that."""
        self._read_ahead.forget_old()
        now = time.monotonic()
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_AFTER
            self.upkeep.ask("settle", lambda: None)  # so that what the start has freed goes back to the system
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self.upkeep.ask("sweep", self.sweep)

    def sweep(self) -> None:
        """Delete what nobody needs any more. Raises OSError."""
        sweep(self.store, self.files, lambda: list(self._written))


def _busy(name: str) -> OSError:
    return OSError(errno.EBUSY, "another process changes this file again and again", name)
