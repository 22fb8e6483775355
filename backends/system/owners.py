"""Who owns a directory, and who could replace it?

The owner of a directory decides what is in it, and so does the owner of every directory above it: he can rename what is
there, and put another directory or a link under its name. The path from `/` is walked one name at a time, and each name
is opened in the directory before it, so that the directories that were checked are the ones that were passed.
"""

import errno
import grp
import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct

_MAX_LINKS = 40
"""The most links followed in one path; the kernel has the same limit."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""The bits of a mode that allow others than the owner to write."""


@dataclass(frozen=True, slots=True)
class Step:
    """A directory on the path, or a link that its owner could replace."""

    path: Path
    uid: int
    gid: int
    mode: int
    named: tuple["Named", ...] = ()
    """The users and groups that an access control list also allows to write; in `mode` they appear as the group."""


@dataclass(frozen=True, slots=True)
class Named:
    """A user or a group of an access control list, by number."""

    number: int
    is_group: bool


@dataclass(frozen=True, slots=True)
class Way:
    """Every directory from `/` to the one that a path names; if that is missing, to the nearest one above it."""

    steps: tuple[Step, ...]

    @property
    def end(self) -> Step:
        """The last directory: the one that the path names, or the nearest one above it."""
        return self.steps[-1]

    def foreign(self, uid: int) -> Step | None:
        """The first step that belongs neither to root nor to this user, so that its owner can replace what follows."""
        return next((step for step in self.steps if step.uid not in (0, uid)), None)

    def exposed(self, uid: int) -> Step | None:
        """The first directory in which users other than root and this one can replace what follows.

        They can if they may write there and the directory is not sticky (as /tmp is).
        """
        return next((step for step in self.steps if stat.S_ISDIR(step.mode) and _open_to_others(step, uid)), None)


def way_to(path: Path) -> Way:
    """The way to the directory `path`, with links followed.

    If `path` is a file, or does not exist, or this user may not look at a part of it, the way ends at the last
    directory before that. Raises OSError.
    """
    walk = Walk(path)
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            while walk.names:
                walk.go_on()
    finally:
        walk.close()
    if not stat.S_ISDIR(walk.steps[-1].mode):  # the way ended just after a link
        walk.steps.append(next(step for step in reversed(walk.steps) if stat.S_ISDIR(step.mode)))
    return Way(tuple(walk.steps))


def only_roots(path: Path) -> bool:
    """Whether only root can change or replace what is at `path`, be it a directory, a file or nothing.

    Every directory on the way counts, including those between two links. Returns False on an OSError.
    """
    try:
        way = way_to(path)
        return way.foreign(0) is None and way.exposed(0) is None and _roots_own(path)
    except OSError:
        return False


def _roots_own(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        end = _step(path, descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISDIR(end.mode):
        end = replace(end, mode=end.mode & ~stat.S_ISVTX)  # the sticky bit does not protect a file
    return end.uid == 0 and not _open_to_others(end, 0)


class Walk:
    """Walks to what a path names, one name at a time. The directory that was passed last is held open until `close`."""

    def __init__(self, path: Path) -> None:
        self.names = list(reversed(path.absolute().parts[1:]))
        """The names still to pass, the next one last."""
        self.directory, self._shown = _root(), Path("/")
        self.last = _step(self._shown, self.directory)
        """What was passed last, with its real path: a directory, a link, or the file at the end."""
        self.steps = [self.last]
        self._links = 0

    def close(self) -> None:
        """Close the directory that is held open."""
        os.close(self.directory)

    def go_on(self) -> None:
        """Pass the next name. Raises OSError if it does not exist or may not be looked at."""
        name = self.names.pop()
        child = os.open(name, _LOOK, dir_fd=self.directory)
        try:
            shown = self._shown.parent if name == ".." else self._shown / name
            self.last = _step(shown, child)
            if stat.S_ISDIR(self.last.mode):
                self.directory, child, self._shown = child, self.directory, shown
                self.steps.append(self.last)
            elif stat.S_ISLNK(self.last.mode):
                self._follow(child)
        finally:
            os.close(child)

    def _follow(self, link: int) -> None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self.last.path))
        if self.steps[-1].mode & stat.S_ISVTX:  # in a sticky directory the link's owner can replace it
            self.steps.append(self.last)
        target = Path(os.readlink("", dir_fd=link))
        self.names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        if target.is_absolute():
            os.close(self.directory)
            self.directory, self._shown = _root(), Path("/")


def _root() -> int:
    return os.open("/", _LOOK | os.O_DIRECTORY)


def _step(path: Path, descriptor: int) -> Step:
    """The step for an open file or directory.

    Raises PermissionError on another user's FUSE filesystem, which only that user, and not even root, may look at.
    """
    status = os.fstat(descriptor)
    named = _named_writers(descriptor) if status.st_mode & stat.S_IWGRP else ()
    return Step(path, status.st_uid, status.st_gid, status.st_mode, named)


def _named_writers(descriptor: int) -> tuple[Named, ...]:
    """The users and groups that a POSIX access control list allows to write.

    The list has an effect only if the group's bit in the mode allows it, too.
    """
    data = b""
    with suppress(OSError):  # most directories have no such list
        data = os.getxattr(f"/proc/self/fd/{descriptor}", _ACL)
    entries = _ACL_ENTRY.iter_unpack(data[4:]) if len(data) % _ACL_ENTRY.size == 4 else ()
    return tuple(
        Named(number, tag == _ACL_GROUP)
        for tag, rights, number in entries
        if tag in (_ACL_USER, _ACL_GROUP) and rights & _ACL_WRITE
    )


_ACL = "system.posix_acl_access"
_ACL_ENTRY = Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_ACL_WRITE = 2


def _open_to_others(step: Step, uid: int) -> bool:
    if step.mode & stat.S_ISVTX or not step.mode & BY_OTHERS:
        return False
    if step.mode & stat.S_IWOTH or not _alone_in(step.gid, uid):
        return True
    return any(
        not _alone_in(named.number, uid) if named.is_group else named.number not in (0, uid) for named in step.named
    )


def _alone_in(gid: int, uid: int) -> bool:
    """Whether the group has no members but root and this user: many systems give each user a group of his own."""
    if gid == 0:
        return True
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return True  # no such group, so nobody is a member
    members |= {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members <= {user_name(0), user_name(uid)}


def user_name(uid: int) -> str:
    """The user's name, or the number as text if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def run_as(uid: int, gid: int) -> list[str]:
    """The words that root types before a command to run it as this user. sudo accepts no users without a name."""
    try:
        return ["sudo", "-u", pwd.getpwuid(uid).pw_name]
    except KeyError:
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
