"""Changes of names in a backup's directory on an SFTP server: each is carried out, or it fails, and none comes late.

`hidden.py` says what could come late, and how it is stopped.
"""

import contextlib
import errno
import os
import random
from collections.abc import Callable

from backends.storage.base import TEMPORARY
from backends.storage.channel import Channel, Disconnected, outcome_unknown
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.hidden import is_open_name, is_trash_name, open_name, trash_name
from backends.storage.sftp.new_names import NewNames
from backends.storage.sftp.packets import Attributes, Failure, times_only
from backends.storage.sftp.session import LINK, Session
from backends.storage.sftp.writing import SftpWriteHandle

_KEPT = "snapshot"
"""Begins the temporary names that a take-over leaves: a compaction may have one that waits to be published. The name
that it will get is never another file's."""

_DIRECTORY_MODE = 0o700
_ATTEMPTS = 5


class Names:
    """The names in `directory`; `rest` is the connection for everything but commits. What is new is noted in `new`."""

    def __init__(self, rest: Channel[Session], directory: str, new: NewNames) -> None:
        self._rest, self._directory, self._new = rest, directory, new
        self._trash: tuple[Connection, str] | None = None
        self._in_doubt: set[str] = set()
        """Names to be removed before anything else is done: temporary ones whose renaming may still be carried out, and
        hidden ones of files that were closed while the server did not answer."""
        self._open: dict[str, SftpWriteHandle] = {}
        self._own: set[str] = set()
        """The hidden names of this process."""

    def _at(self, name: str) -> str:
        return f"{self._directory}/{name}"

    # Renaming

    def created(self, name: str, handle: SftpWriteHandle) -> None:
        """Note which file is open under this name."""
        self._open = {each: opened for each, opened in self._open.items() if not opened.closed}
        self._open[name] = handle

    def rename(self, old: str, new: str, before: Attributes) -> None:
        """Rename, replacing what has the new name. `before` are the attributes of the file."""
        handle = self._handle_of(old)
        hidden = None if handle is None else self._link_hidden(old, handle)

        def rename(session: Session) -> None:
            self._fence(session)
            session.rename(self._at(old), self._at(new))
            self._new.note(session, new)

        def again(session: Session) -> None:
            """Rename, unless that has been done: then the old name is gone, and the new one is this file's."""
            was, now = session.attributes_or_none([self._at(old), self._at(new)])
            if was is not None:
                rename(session)
            elif now is None or (now.size, now.modified) != (before.size, before.modified):
                raise OSError(errno.EIO, f"{old} is gone, and {new} is another file", new)
            else:
                self._new.note(session, new)

        self._settled(old, lambda: self._rest.do(rename, again))
        if handle is not None:
            self._follow(handle, hidden)

    def rename_new(self, old: str, new: str) -> None:
        """Rename to a name that no file has. Raises FileExistsError if one has it."""
        handle = self._handle_of(old)
        if handle is not None:
            handle.prepare()
        if self._rest.do(lambda session: session.offers(LINK)) and self._linked(old, new):
            hidden = self._unlink(old, keep=handle is not None)
        else:
            self._rename_unless_there(old, new)
            hidden = None
        if handle is not None:
            self._follow(handle, hidden)

    def _linked(self, old: str, new: str) -> bool:
        """Give the file a second name. Returns False if the filesystem there has no links; raises FileExistsError."""

        def link(session: Session) -> None:
            self._fence(session)
            session.link(self._at(old), self._at(new))
            self._new.note(session, new)

        def again(session: Session) -> None:
            if self._same(session, old, new):
                self._new.note(session, new)
            else:
                link(session)

        try:
            self._settled(old, lambda: self._rest.do(link, again))
        except OSError as error:
            if error.errno not in (errno.EREMOTEIO, errno.EOPNOTSUPP, errno.EACCES):
                raise
            if self._rest.do(lambda session: session.attributes_or_none([self._at(new)]))[0] is None:
                return False
            if not self._rest.do(lambda session: self._same(session, old, new)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
            self._rest.do(lambda session: self._new.note(session, new))  # the first request came late, just now
        return True

    def _same(self, session: Session, old: str, new: str) -> bool:
        """Whether both names are of one file: a random time that is set by one of them is seen by the other."""
        if None in session.attributes_or_none([self._at(old), self._at(new)]):
            return False
        mark = random.SystemRandom().getrandbits(31)
        session.set_by_name(self._at(old), times_only(mark))
        now = session.attributes(self._at(new))
        return now.modified == mark

    def _unlink(self, old: str, *, keep: bool) -> str | None:
        """Take the old name away from a file that has its new one; with `keep`, return the hidden name that it gets."""
        if not keep:
            self.remove_once(old)
            return None
        hidden = open_name()

        def hide(session: Session) -> None:
            with contextlib.suppress(FileNotFoundError):  # done already, or another writer has removed it
                session.rename(self._at(old), self._at(hidden))

        self._rest.do(hide)
        return hidden

    def _rename_unless_there(self, old: str, new: str) -> None:
        """Do what `rename_new` does on a server without hard links: not atomically everywhere."""

        def rename(session: Session) -> None:
            self._fence(session)
            if session.attributes_or_none([self._at(new)])[0] is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
            try:
                session.rename_unless_there(self._at(old), self._at(new))
            except Failure:
                session.rename(self._at(old), self._at(new))  # another answer to the same question
            self._new.note(session, new)

        def again(session: Session) -> None:
            was, now = session.attributes_or_none([self._at(old), self._at(new)])
            if was is None and now is not None:
                self._new.note(session, new)
            else:
                rename(session)

        self._settled(old, lambda: self._rest.do(rename, again))

    def _link_hidden(self, old: str, handle: SftpWriteHandle) -> str | None:
        """Give a file that stays open its hidden name; None where there are no links."""
        hidden = open_name()
        handle.prepare()

        def link(session: Session) -> bool:
            if not session.offers(LINK):
                return False
            try:
                session.link(self._at(old), self._at(hidden))
            except Disconnected:
                raise
            except OSError:
                return False
            return True

        def again(session: Session) -> bool:
            return link(session) or session.attributes_or_none([self._at(hidden)])[0] is not None

        return hidden if self._rest.do(link, again) else None

    def _handle_of(self, name: str) -> SftpWriteHandle | None:
        """The open file of this name, which is about to lose it."""
        handle = self._open.pop(name, None)
        return None if handle is None or handle.closed else handle

    def _follow(self, handle: SftpWriteHandle, hidden: str | None) -> None:
        """From now on, the open file is found by its hidden name, which is removed when it is closed."""
        handle.path = None if hidden is None else self._at(hidden)
        if hidden is None:
            return
        self._own.add(hidden)

        def drop() -> None:
            self._own.discard(hidden)
            if handle.is_cut_off:  # a node whose commit got no answer ends: it must not wait once more for each file
                self._in_doubt.add(hidden)
                return
            with contextlib.suppress(OSError), handle.within_the_answer():
                self.remove_once(hidden)

        handle.when_closed = drop

    def _settled(self, old: str, operation: Callable[[], object]) -> None:
        """If the outcome stays unknown, the old name is removed before another name is changed."""
        try:
            operation()
        except OSError as error:
            if outcome_unknown(error):
                self._in_doubt.add(old)
            raise

    def _fence(self, session: Session) -> None:
        """After a reconnect: make sure that nothing that was sent on an earlier connection still changes a name."""
        for name in list(self._in_doubt):
            with contextlib.suppress(FileNotFoundError):
                session.remove(self._at(name))
            self._in_doubt.discard(name)
        if self._trash is not None and self._trash[0] is not session.connection:
            self.remove_trash(session, self._trash[1])
            self._trash = None

    # Removing

    def remove(self, name: str) -> None:
        """Remove a name, for a file of which another file may come to have it."""
        for _ in range(_ATTEMPTS):
            try:
                self._rest.do(lambda session: self._throw_away(session, name))
            except FileNotFoundError:
                there, trash = self._rest.do(
                    lambda session: session.attributes_or_none([self._at(name), self._at(self._current_trash)])
                )
                if there is None:
                    return  # the removal was done, and only its answer was lost
                if trash is not None:
                    raise
                self._trash = None  # a command that takes the backup over has removed it
            else:
                return
        raise OSError(errno.EIO, "another process removes what is needed to remove files", name)

    def _throw_away(self, session: Session, name: str) -> None:
        trash = self._trash_of(session)
        gone = f"{self._at(trash)}/{name}-{random.SystemRandom().getrandbits(32):08x}"
        session.rename(self._at(name), gone)
        session.remove(gone)

    @property
    def _current_trash(self) -> str:
        return self._trash[1] if self._trash is not None else trash_name()

    def _trash_of(self, session: Session) -> str:
        """The directory of this connection; that of an earlier one is removed first."""
        self._fence(session)
        if self._trash is None:
            name = trash_name()
            session.make_directory(self._at(name), _DIRECTORY_MODE)
            self._trash = session.connection, name
        return self._trash[1]

    def remove_trash(self, session: Session, trash: str) -> None:
        """Remove such a directory; nothing can be moved into it afterwards. Raises OSError."""
        for attempt in range(_ATTEMPTS):
            try:
                for name, _ in session.entries(self._at(trash)):
                    with contextlib.suppress(FileNotFoundError):
                        session.remove(f"{self._at(trash)}/{name}")
                session.remove_directory(self._at(trash))
            except FileNotFoundError:
                return
            except Failure:  # something was moved into it just now
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def remove_once(self, name: str) -> None:
        """Remove a name that no other file ever gets."""

        def again(session: Session) -> None:
            with contextlib.suppress(FileNotFoundError):
                session.remove(self._at(name))

        self._rest.do(lambda session: session.remove(self._at(name)), again)

    def stop_late_changes(self) -> None:
        """Make sure that nothing that another process has asked for still changes a name.

        Nothing that it asked for in this process's name either, after a connection that broke.
        """

        def stop(session: Session) -> None:
            for name, what in session.entries(self._directory):
                if is_trash_name(name) and (self._trash is None or name != self._trash[1]):
                    self.remove_trash(session, name)
                unfinished = name.endswith(TEMPORARY) and not name.startswith(_KEPT) and name not in self._open
                if what.is_file and (unfinished or (is_open_name(name) and name not in self._own)):
                    with contextlib.suppress(FileNotFoundError):
                        session.remove(self._at(name))

        self._rest.do(stop)

    def forget(self) -> None:
        """The directory was removed, with everything in it."""
        self._trash, self._in_doubt = None, set()
