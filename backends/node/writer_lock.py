"""One writer at a time on one machine: a lock on the node's side that dies with its process.

flock on `backup.pid` in the network directory. The kernel holds the lock, not the file: one left over from a
crash is never in the way. The file's text only tells a person who the holder is.
"""

import errno
import fcntl
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from backends.errors import BackupError

WRITER_LOCK_FILE = "backup.pid"


class WriterLock:
    """The right to write this node's backup, for one process at a time.

    `what` names this process to whoever finds the lock taken; by default the name of its program.
    """

    def __init__(self, directory: Path, what: str | None = None) -> None:
        self.path = directory / WRITER_LOCK_FILE
        self._what = what or Path(sys.argv[0]).name or "python"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting. BackupError, naming the holder, when another one has it."""
        if self._descriptor is not None:
            return
        descriptor = self._open()
        try:
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {self._what}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            self._fail(error)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Give the lock up; nothing happens when it is not held. The file stays, and means nothing."""
        if self._descriptor is not None:
            # The text goes first: a successor writes its own as soon as it has the lock.
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self.forget()

    def forget(self) -> None:
        """Close this process's hold on the file; a lock that another process shares stays."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> "WriterLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._fail(error)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(
                f"another process ({_holder(descriptor)}) is writing this node's backup: it holds {self.path}; nothing "
                "was changed: stop it first (a node with: lightning-cli stop), then repeat this"
            ) from None

    def _fail(self, error: OSError) -> NoReturn:
        remedy = "make room or repair that disk, then repeat this"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = "run this as the user that lightningd runs as, or give the file to that user with chown"
        raise BackupError(
            f"{self.path} cannot be locked ({error.strerror}), so a second writer could not be kept out; nothing was "
            f"changed: {remedy}"
        ) from error


def _holder(descriptor: int) -> str:
    """Who has written into the file; it may be about to."""
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    number, _, what = text.partition("\n")[0].partition(" ")
    if not (number.isascii() and number.isdigit()):
        return "one that has only just started"
    return f"pid {number}, {what}" if what.isprintable() and what else f"pid {number}"


_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child shares the open file, and with it the lock: left open, the lock would outlive its process.

    (A started program inherits nothing: Python opens every file close-on-exec.)
    """
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
