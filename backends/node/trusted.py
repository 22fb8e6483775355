"""Whether a program in the node's directory may be run: nobody but its user and root may be able to change it.

It would run beside the node's keys, and the node's directory may lie where others can write. So the way to it is
walked from the root down, link by link, through held descriptors. Once every directory and link on it belongs to root
or to the user, and lets nobody else write, its name is stable: it leads to the same file when it is started.
"""

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from backends.words import printable, shell_line

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS = 40  # as many as the kernel follows


class Untrusted(Exception):
    """The program must not be run; the message says why, and what to do."""


def trusted_program(path: Path, user: int) -> Path:
    """The real path of the program that `path` leads to, safe to start for the user with the number `user`.

    Raises Untrusted when somebody other than `user` and root owns it or may write it, or could put something else in
    its place; FileNotFoundError when there is nothing; another OSError when it cannot be looked at.
    """
    walk = _Walk(user)
    try:
        walk.to(path.absolute())
    finally:
        walk.close()
    if not os.access(walk.place, os.X_OK):
        raise Untrusted(f"{printable(walk.place)} is not executable: {shell_line('chmod', '700', walk.place)}")
    return walk.place


class _Walk:
    """Where the walk has come to: `place` is a real path, all of it trusted, and held open."""

    def __init__(self, user: int) -> None:
        self._user = user
        self._links = 0
        self._held = -1
        self._to_root()

    def close(self) -> None:
        os.close(self._held)

    def to(self, path: Path) -> None:
        """From the root to a file that is a program."""
        todo = list(reversed(path.parts[1:]))
        while todo:
            todo.extend(self._step(todo.pop()))
        status = os.fstat(self._held)
        if not stat.S_ISREG(status.st_mode):
            raise Untrusted(f"{printable(self.place)} is no file")
        if status.st_mode & _OTHERS_MAY_WRITE:
            advice = shell_line("chmod", "700", self.place)
            raise Untrusted(f"{printable(self.place)} can be written by other users: {advice}")

    def _to_root(self) -> None:
        self._hold(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), Path("/"))

    def _hold(self, descriptor: int, place: Path) -> None:
        if self._held != -1:
            os.close(self._held)
        self._held, self.place = descriptor, place
        status = os.fstat(descriptor)
        self._look_at_owner(place, status)
        # In a directory like /tmp, nobody can rename or remove what belongs to another.
        writable = status.st_mode & _OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX
        if stat.S_ISDIR(status.st_mode) and writable:
            advice = shell_line("chmod", "go-w", place)
            raise Untrusted(f"other users may write in {printable(place)} and put another program there: {advice}")

    def _step(self, name: str) -> list[str]:
        """Go on to `name`; what is to be walked from there if that is a link, the next step last."""
        if name == "..":
            self._hold(os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=self._held), self.place.parent)
            return []
        place = self.place / name
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._held)
        if not stat.S_ISLNK(os.fstat(found).st_mode):
            self._hold(found, place)
            return []
        try:
            self._look_at_owner(place, os.fstat(found))
            target = Path(os.readlink("", dir_fd=found))
        finally:
            os.close(found)
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))
        if target.is_absolute():
            self._to_root()
        return list(reversed(target.parts[1 if target.is_absolute() else 0 :]))

    def _look_at_owner(self, place: Path, status: os.stat_result) -> None:
        if status.st_uid in (0, self._user):
            return
        found = f"{printable(place)} belongs to {_name(status.st_uid)}, neither to {_name(self._user)} nor to root"
        if stat.S_ISDIR(status.st_mode):
            raise Untrusted(f"{found}, and another program can be put there: only those two may own what leads to it")
        advice = shell_line("sudo", "chown", "-h", _name(self._user), place)
        raise Untrusted(f"{found}: look whether it is what you have put there, then {advice}")


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
