"""Writing files on an SFTP server."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from backends.storage.base import FileFenced, WriteHandle
from backends.storage.channel import Channel, outcome_unknown
from backends.storage.deadline import for_a_message, not_after
from backends.storage.pieces import check_interrupted
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.opened import Opened, OpenFile, size_of
from backends.storage.sftp.packets import READ, WRITE, Failure, size_only
from backends.storage.sftp.session import Handle, Session

_ZEROS = 1 << 18
"""How many zeros are sent at once. What is in doubt after a broken connection is at most that many."""

_MAX_UNSYNCED = 8 << 20
"""Bytes that are kept in memory until they are durable."""


class SftpWriteHandle(OpenFile, WriteHandle):
    """A file that is open for writing.

    What was sent on a connection that broke may be carried out at any later time: a frozen server process does so when
    it goes on. Sending the same bytes for the same place again is harmless. Everything else that such a request could
    destroy is refused: see `_settled`, `safe_to` and `_may_be_cut`.
    """

    def __init__(self, commits: Channel[Session], rest: Channel[Session], path: str, name: str) -> None:
        super().__init__(name)
        self.path: str | None = path
        """A path that is certain to be this file's; None if there is none. It is used after a reconnect."""
        self.when_closed: Callable[[], None] = _nothing
        self._commits, self._rest = commits, rest
        self._for_commits, self._for_rest = Opened(commits), Opened(rest)
        self._unsynced: list[tuple[Connection, int, bytes | None]] = []
        self._unsynced_bytes = 0
        self._settled = 0
        """Up to where the file may only be written again with the bytes that it has there."""
        self._may_be_cut = False
        """Whether a `truncate` or a failed commit is in doubt: then the file is not written to any more."""
        self._answer_until = float("inf")
        """After a failed commit: when (time.monotonic) it would have been given up. What follows it ends then, too."""

    def created(self, session: Session, handle: Handle) -> None:
        """Take over the server's handle of the file that was just created."""
        self._for_rest.set(session, handle)

    # Writing that is not durable yet

    def write(self, offset: int, data: bytes) -> None:
        self._check_open()
        if not data:
            return
        self._check_reach(offset, offset + len(data))

        def write(session: Session) -> None:
            handle = self._on_rest(session)
            session.write(handle, offset, data, self._name)
            self._remember(session, offset, data)

        def again(session: Session) -> None:
            self._doubt(offset, data)
            write(session)

        self.explained(lambda: _do(self._rest, write, again, lambda: self._doubt(offset, data)), len(data))
        if self._unsynced_bytes > _MAX_UNSYNCED:
            self.sync()

    def _doubt(self, offset: int, data: bytes) -> None:
        """Note that this write may be carried out once more, late. Records are kept out of zeros that may come late."""
        if data.strip(b"\0"):
            self._settled = max(self._settled, offset + len(data))
        else:
            self.safe_to = offset if self.safe_to is None else min(self.safe_to, offset)

    def _remember(self, session: Session, offset: int, data: bytes | None) -> None:
        self._unsynced.append((session.connection, offset, data))
        self._unsynced_bytes += len(data or b"")

    def sync(self) -> None:
        """Make all durable. What was written on an earlier connection is written again: the server may have restarted
        since, and lost it."""
        self._check_open()

        def sync(session: Session) -> None:
            handle = self._on_rest(session)
            for at, (connection, offset, data) in enumerate(self._unsynced):
                if connection is session.connection:
                    continue
                if data is None:
                    session.set(handle, size_only(offset), self._name)
                else:
                    session.write(handle, offset, data, self._name)
                self._unsynced[at] = session.connection, offset, data
            session.sync(handle, self._name)

        self.explained(lambda: self._rest.do(sync), 0)
        self._unsynced, self._unsynced_bytes = [], 0

    def truncate(self, size: int) -> None:
        self._check_open()
        if self._may_be_cut or size < self._settled:
            raise self._lost("it cannot be shortened any more")

        def truncate(session: Session) -> None:
            session.set(self._on_rest(session), size_only(size), self._name)
            self._remember(session, size, None)

        def again(session: Session) -> None:
            self._may_be_cut = True
            truncate(session)

        with self.within_the_answer():
            _do(self._rest, truncate, again, self._give_up)

    # Durable writing

    def write_durably(self, offset: int, data: bytes) -> None:
        """Write `data` durably, in one round trip. Raises FileFenced.

        A writer that seals the file sees every write that the server carried out before. The answer to every later one
        says that the file is sealed. So whatever is acknowledged here is seen by that writer.
        """
        self._check_open()
        self._check_reach(offset, offset + len(data))

        def commit(session: Session) -> None:
            handle = self._for_commits.use(session, self._open)
            if session.commit(handle, offset, data, self._name).sealed:
                raise FileFenced(self._name)

        def settle(session: Session) -> None:
            """Write it again after checking what is there, even if all of it is: it may not be on the disk yet."""
            self._doubt(offset, data)
            handle = self._for_commits.use(session, self._open)
            check_interrupted(self._name, offset, data, session.read(handle, offset, len(data), self._name))
            commit(session)

        until = self._commits.would_end()
        try:
            self.explained(lambda: _do(self._commits, commit, settle, self._give_up), len(data))
        except BaseException:
            self._answer_until = until
            raise

    def is_fenced(self) -> bool:
        self._check_open()
        try:
            return self._commits.do(
                lambda session: session.attributes_of(self._for_commits.use(session, self._open), self._name)
            ).sealed
        except FileFenced:
            return True

    def extend(self, offset: int, length: int) -> None:
        end = offset + length
        for start in range(offset, end, _ZEROS):
            self._write_zeros(start, min(_ZEROS, end - start))

    def _write_zeros(self, offset: int, count: int) -> None:
        self._check_open()
        self._check_reach(offset, offset + count)

        def zeros(session: Session) -> None:
            session.commit(self._on_rest(session), offset, bytes(count), self._name)

        def check_then_write(session: Session) -> None:
            """Write the zeros again, unless the first ones could still arrive late, and overwrite records."""
            if size_of(session.attributes_of(self._on_rest(session), self._name), self._name) < offset + count:
                self._doubt(offset, bytes(count))
                self._check_reach(offset, offset + count)
            zeros(session)

        self.explained(
            lambda: _do(self._rest, zeros, check_then_write, lambda: self._doubt(offset, bytes(count))), count
        )

    def _check_reach(self, offset: int, end: int) -> None:
        if self._may_be_cut:
            raise self._lost("it is not written to any more")
        if offset < self._settled:
            raise self._lost(f"nothing before byte {self._settled} may be written again")
        if self.safe_to is not None and end > self.safe_to:
            raise self._lost(f"nothing after byte {self.safe_to} may be written")

    def _lost(self, what: str) -> OSError:
        return OSError(
            errno.EIO,
            f"the connection dropped while this file was written, and what was sent may still come, so {what}",
            self._name,
        )

    # The file on the server

    def within_the_answer(self) -> AbstractContextManager[None]:
        """After a failed commit, give up what is asked in this block when that commit would have been given up.

        The node waits for one answer, and its peers for the node.
        """
        return not_after(self._answer_until)

    @property
    def is_cut_off(self) -> bool:
        """Whether a connection to the file's server is down: asking it for anything may take the whole timeout."""
        return self._commits.is_down or self._rest.is_down

    def prepare(self) -> None:
        """Open the file on the connection for commits while its path is known, so that the first commit need not."""
        self._commits.do(lambda session: self._for_commits.use(session, self._open))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for opened in (self._for_commits, self._for_rest):
            opened.close()
        self.when_closed()

    def _on_rest(self, session: Session) -> Handle:
        return self._for_rest.use(session, self._open)

    def _open(self, session: Session) -> Handle:
        """Open the file again. Raises FileFenced if another writer has sealed it, or removed its last name."""
        if self.path is None:
            raise OSError(
                errno.EIO,
                "the connection broke, and this server makes no hard links, so the file cannot be found again for "
                "certain",
                self._name,
            )
        try:
            if session.attributes(self.path).sealed:
                raise FileFenced(self._name)
            return session.open(self.path, READ | WRITE)
        except FileNotFoundError as error:
            raise FileFenced(self._name) from error

    def _give_up(self) -> None:
        """Write nothing more: what was sent could be carried out late, and destroy that."""
        self._may_be_cut = True

    def explained(self, operation: Callable[[], None], length: int) -> None:
        """Find out what "failure" means: on a full disk, that the disk is full."""
        until = self._rest.would_end()
        try:
            operation()
        except Failure as error:
            raise self._refusal(error, length, until) from error

    def _refusal(self, error: Failure, length: int, until: float) -> OSError:
        directory = os.path.dirname(self.path or "") or "."  # noqa: PTH120
        try:
            with for_a_message(until):
                free = self._rest.do(lambda session: session.space(directory)).free
        except OSError:
            return error
        if free < max(length, 1 << 16):
            return OSError(errno.ENOSPC, "the server's disk is full", self._name)
        return OSError(
            errno.EREMOTEIO,
            f"{error.strerror}. Its disk has space, so a quota of the account may be used up, or the disk fails",
            self._name,
        )


def _nothing() -> None:
    pass


def _do(
    channel: Channel[Session],
    operation: Callable[[Session], None],
    again: Callable[[Session], None],
    doubt: Callable[[], None],
) -> None:
    """Do what `Channel.do` does, and call `doubt` if it fails with what was sent before perhaps still to come.

    That is so after every error of `again`, whatever it is: without hard links, a file cannot even be opened again.
    """
    interrupted = False

    def once_more(session: Session) -> None:
        nonlocal interrupted
        interrupted = True
        again(session)

    try:
        channel.do(operation, once_more)
    except OSError as error:
        if interrupted or outcome_unknown(error):
            doubt()
        raise
