"""Whose directory is it, and who could put something else in its place?

The owner of a directory decides what lies in it, and so does the owner of every directory above it: he can rename what
is there, and put another directory or a link under its name. The way from `/` is walked one name at a time, each opened
in the directory before it, so that what was looked at is what was passed.
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
"""As many as the kernel follows in one path."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""The bits of a mode that let others write."""


@dataclass(frozen=True, slots=True)
class Step:
    """A directory on the way, or a link whose owner could replace it."""

    path: Path
    uid: int
    gid: int
    mode: int
    named: tuple["Named", ...] = ()
    """Whom else an access control list lets write; in `mode`, they show as the group."""


@dataclass(frozen=True, slots=True)
class Named:
    """A user, or a group, by number."""

    number: int
    is_group: bool


@dataclass(frozen=True, slots=True)
class Way:
    """Every directory from `/` to the one that a path names, which is the last; of a missing one, to the nearest."""

    steps: tuple[Step, ...]

    @property
    def end(self) -> Step:
        """The directory itself."""
        return self.steps[-1]

    def foreign(self, uid: int) -> Step | None:
        """The first on the way that belongs neither to root nor to this user: its owner can exchange what follows."""
        return next((step for step in self.steps if step.uid not in (0, uid)), None)

    def exposed(self, uid: int) -> Step | None:
        """The first directory in which further users can exchange what follows: they may write there, and it is not
        sticky (as /tmp is)."""
        return next((step for step in self.steps if stat.S_ISDIR(step.mode) and _open_to_others(step, uid)), None)


def way_to(path: Path) -> Way:
    """The way to a directory, links followed; where it ends at a file or at nothing, to the directory before that.

    It also ends before what this user may not look into. Raises OSError.
    """
    walk = Walk(path)
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            while walk.names:
                walk.go_on()
    finally:
        walk.close()
    if not stat.S_ISDIR(walk.steps[-1].mode):  # it ends behind a link
        walk.steps.append(next(step for step in reversed(walk.steps) if stat.S_ISDIR(step.mode)))
    return Way(tuple(walk.steps))


def only_roots(path: Path) -> bool:
    """Whether nobody but root decides what is there, a directory, a file or nothing, and that it is this one.

    Every directory on the way counts, also between two links. Raises nothing.
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
        end = replace(end, mode=end.mode & ~stat.S_ISVTX)  # which keeps nobody from writing to a file
    return end.uid == 0 and not _open_to_others(end, 0)


class Walk:
    """The way to what a path names, gone one name at a time; what was passed last is held open."""

    def __init__(self, path: Path) -> None:
        self.names = list(reversed(path.absolute().parts[1:]))
        """What is still to come, the next one last."""
        self.directory, self._shown = _root(), Path("/")
        self.last = _step(self._shown, self.directory)
        """What was passed last, under its real path: a directory, a link, or what the way ends with."""
        self.steps = [self.last]
        self._links = 0

    def close(self) -> None:
        """Nothing is held open any more."""
        os.close(self.directory)

    def go_on(self) -> None:
        """Pass one name. Raises OSError where it cannot be passed, or not be looked at."""
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
        if self.steps[-1].mode & stat.S_ISVTX:  # elsewhere only the directory's owner can replace it
            self.steps.append(self.last)
        target = Path(os.readlink("", dir_fd=link))
        self.names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        if target.is_absolute():
            os.close(self.directory)
            self.directory, self._shown = _root(), Path("/")


def _root() -> int:
    return os.open("/", _LOOK | os.O_DIRECTORY)


def _step(path: Path, descriptor: int) -> Step:
    """PermissionError for a user's own FUSE filesystem, of which he alone, and not even root, may know what it is."""
    status = os.fstat(descriptor)
    named = _named_writers(descriptor) if status.st_mode & stat.S_IWGRP else ()
    return Step(path, status.st_uid, status.st_gid, status.st_mode, named)


def _named_writers(descriptor: int) -> tuple[Named, ...]:
    """Of a directory's POSIX access control list; the group's bits in the mode limit what it gives."""
    data = b""
    with suppress(OSError):  # most have none
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
    """Whether nobody but root and this user is in the group: many systems give each user one of his own."""
    if gid == 0:
        return True
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return True  # a number that nobody is a member of
    members |= {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members <= {user_name(0), user_name(uid)}


def user_name(uid: int) -> str:
    """The user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def run_as(uid: int, gid: int) -> list[str]:
    """What root types before a command that this user is to run. sudo knows no users without a name."""
    try:
        return ["sudo", "-u", pwd.getpwuid(uid).pw_name]
    except KeyError:
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
