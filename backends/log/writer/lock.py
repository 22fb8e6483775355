"""The lock in the backup, which allows one writing process per machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.errors import InUse
from backends.storage.base import Lock, Storage
from backends.system.locks import Locked


class SoleWriter:
    """The right to write this backup: one process of this machine at a time has it, if the place has locks."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock: Lock | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock; always False if the place has no locks."""
        return self._lock is not None

    def acquire(self, what: str | None = None) -> None:
        """Take the lock. `what` names this process to others. Raises InUse, which names the holder, or OSError."""
        with self._as_in_use():
            self._lock = self._lock or self._storage.lock(what or Path(sys.argv[0]).name or "python")

    def look(self) -> None:
        """Raise what `acquire` would raise if another process has the lock, but change nothing."""
        with self._as_in_use():
            self._storage.check_lock()

    @contextmanager
    def _as_in_use(self) -> Iterator[None]:
        try:
            yield
        except Locked as error:
            busy = InUse(
                f"another process ({error.holder}) is writing to the backup at {self._storage.describe()}. Nothing was "
                "changed. If that is this node's lightningd, stop it first (lightning-cli stop); if it is another "
                "command, wait until it has ended; then repeat this"
            )
            busy.holder = error.holder
            raise busy from None

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(OSError):
                lock.release()
