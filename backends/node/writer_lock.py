"""One writer at a time on one machine: a lock on the node's side, `backup.pid` in the network directory."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from backends.errors import BackupError, InUse
from backends.system.locks import FileLock, Locked

WRITER_LOCK_FILE = "backup.pid"


class WriterLock:
    """The right to write this node's backup, for one process at a time.

    `what` names this process to another one that finds the lock taken; by default it is the name of its program.
    """

    def __init__(self, directory: Path, what: str | None = None) -> None:
        self.path = directory / WRITER_LOCK_FILE
        self._lock = FileLock(self.path, what or Path(sys.argv[0]).name or "python")

    def acquire(self) -> None:
        """Take the lock, without waiting. InUse, naming the holder, when another process has it; BackupError when the
        file cannot be locked at all."""
        self._demand(self._lock.acquire)

    def look(self) -> None:
        """Raise what `acquire` would raise, but change nothing: for a dry run."""
        self._demand(self._lock.look)

    def _demand(self, how: Callable[[], None]) -> None:
        try:
            how()
        except Locked as error:
            raise InUse(
                f"another process ({error.holder}) is writing this node's backup: it holds {self.path}; nothing was "
                "changed. If that is this node's lightningd, stop it first (lightning-cli stop); if it is another "
                "command, wait until it has ended; then repeat this"
            ) from None
        except OSError as error:
            self._fail(error)

    def release(self) -> None:
        """Release the lock; does nothing when it is not held. The file may stay; without the lock it means nothing."""
        self._lock.release()

    def __enter__(self) -> "WriterLock":
        try:
            self.acquire()
            return self
        except BaseException:  # Ctrl-C while `acquire` returned
            self.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _fail(self, error: OSError) -> NoReturn:
        remedy = "free some space or repair that disk, then repeat this"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = (
                "run this as the user that lightningd runs as; if you are that user, the file is another user's, and "
                "the user who put it there must give it to you"
            )
        raise BackupError(
            f"{self.path} cannot be locked ({error.strerror}), so a second writer could not be kept out; nothing was "
            f"changed: {remedy}"
        ) from error
