"""Run by root, a command becomes the owner of the directory that it works in, before it touches anything there.

A link, a file with a predictable name or a line of the config file in somebody else's directory does whatever that user
wants; done by root, it would do it to the whole machine (`check-config` starts the config's plugin; a `backup.lock`
that was a link to a file of root's was copied, and given away). So root goes on as that user, and cannot come back:
whatever is planted there, the user does it to himself. What is made then also belongs to him at once.

Where that is impossible, or where a third user could put another directory in the place of the one that was looked at,
the command refuses, and prints the line that does it safely.
"""

import grp
import os
import pwd
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backends.errors import BackupError, ClosedToUser
from backends.mounts.sticks import find_stick
from backends.mounts.table import mount_of
from backends.node.directory import database_path, network_directory
from backends.system.owners import Way, run_as, user_name, way_to
from backends.text import printable, shell_line
from backends.urls import BadURL, parse_url
from backup_cli.console import say
from backup_cli.waiting import answered

_NO_MODES = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "hfsplus", "cifs", "smb3"})
"""Filesystems where the mount says whose everything is and who may write; there, modes tell nothing."""

_KEPT = ("PATH", "LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES", "TZ", "TMPDIR")
_KEPT_BEGINNINGS = ("LC_", "LIGHTNINGD_BACKUP_")
"""What another user's programs may see of root's environment, as with sudo: it may hold tokens."""

_NOBODYS_GROUP = 65534

_typed: list[str] = []


def remember(arguments: list[str]) -> None:
    """What was typed after the command's name, for the line that is to be typed instead."""
    _typed[:] = arguments


class SomebodyElses(BackupError):
    """Root should work in a directory that is not its own, and cannot become its owner."""


# What the commands begin with


def node_directory(given: Path, *, new: bool = False) -> Path:
    """The network directory that `--lightning-dir` means, as its owner. Raises BackupError as `network_directory`."""
    given = _absolute(given)  # before HOME, and what may be entered, are another user's
    if os.geteuid() != 0:
        return network_directory(given, new=new)
    way = way_to(given)
    _become_owner_at_the_end_of(way)
    try:
        directory = network_directory(given, new=new)
    except PermissionError as error:
        _refuse_closed_to_its_owner(way, Path(error.filename or given))
    if os.geteuid() == 0:
        _become_owner_of(directory)  # root's may have the node's own one in it
    else:
        _demand_owned(directory)
    if os.geteuid() == 0 and database_path(directory).is_symlink():
        refuse_anothers(Path(os.path.realpath(database_path(directory))).parent)
    return directory


def restore_place(dest: Path) -> Path:
    """DEST, as the owner of the directory that it is, or that it lies in."""
    dest = _absolute(dest)
    if os.geteuid() == 0:
        _become_owner_of(dest if _is_directory(dest) else dest.parent)
    return dest


def _is_directory(path: Path) -> bool:
    """As far as root may know: not of what is closed to it, on a share, or in a FUSE filesystem of its user's own."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def backup(url: str) -> bool:
    """For a command that is about nothing but a backup: as its owner, or as that of the directory that it will be in.

    Returns whether this was root, and is another user now. A place on another machine has its own ways of knowing who
    asks. Raises BackupError where it does not answer.
    """
    if os.geteuid() != 0:
        return False
    try:
        way = answered(url, lambda: _way_to_backup(url))
    except BadURL:
        return False  # the command itself says what is wrong with it
    if way is not None and not _is_roots(way):
        _become_owner_at_the_end_of(way)
    return os.geteuid() != 0


def refuse_anothers(place: Path | None) -> None:
    """For a further place that was named: refuse if this is root still, and `place` somebody else's. Touches nothing.

    (As any other user, a command can do no more in it than that user could.)
    """
    if os.geteuid() != 0 or place is None:
        return
    way = way_to(place)
    other = way.foreign(0) or way.exposed(0)
    if other is not None:
        raise SomebodyElses(
            f"{printable(place)} is no place for root to work in: {_why(other.path, other.uid)}. Nothing was touched; "
            "name a directory that only root may write to, or one that is sticky, such as /var/tmp"
        )


def _absolute(path: Path) -> Path:
    """What a path means to whoever has typed it. BackupError where that cannot be told."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise BackupError(
            f"{printable(path)} cannot be found: this user has no home directory (no name, and HOME is not set); "
            "nothing was changed. Name the whole path, the node's directory with --lightning-dir"
        ) from None
    except FileNotFoundError:
        raise BackupError(
            f"{printable(path)} cannot be found, for the directory that this was typed in does not exist any more; "
            "nothing was changed. Go to another one (cd), or name the whole path"
        ) from None


# Becoming the owner


def _way_to_backup(url: str) -> Way | None:
    place = parse_url(url)
    if place.scheme == "usb" and place.host:
        return way_to(find_stick(place.host).point.joinpath(*place.path.parts[1:]))
    if place.scheme in ("file", "nfs") and place.names_no_other_machine:
        return way_to(place.local_path)
    return None


def _is_roots(way: Way) -> bool:
    """A backup of root's own, wherever it lies: nothing in it is believed, and no link in it is followed."""
    return way.end.uid == 0


def _become_owner_of(directory: Path) -> None:
    _become_owner_at_the_end_of(way_to(directory))


def _become_owner_at_the_end_of(way: Way) -> None:
    user = _owner(way)
    _refuse_exchangeable(way, user)
    if user.uid == 0:
        return
    say(f"Run by root: goes on as {user.name}, to whom {printable(way.end.path)} belongs")
    _become(user)
    again = way_to(way.end.path)
    _refuse_exchangeable(again, user)
    if again.end.path != way.end.path:
        _refuse_closed_to_its_owner(way, again.end.path)
    _demand_readable_program(user)


def _demand_owned(directory: Path) -> None:
    """What was found in the directory that was named must belong to the same user, and be out of others' reach."""
    way = way_to(directory)
    if way.end.uid != os.geteuid():
        _refuse(_owner(way), way.end.path, _why(way.end.path, way.end.uid))
    _refuse_exchangeable(way, _owner(way))


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int
    groups: frozenset[int]
    name: str
    home: str


def _owner(way: Way) -> _User:
    uid = way.end.uid
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = _group_of_nameless(way.end.gid)
        return _User(uid, gid, frozenset({gid}), str(uid), "/")
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return _User(uid, entry.pw_gid, groups, entry.pw_name, entry.pw_dir)


def _group_of_nameless(gid: int) -> int:
    """The directory's group, if that has no name either: in a directory that is setgid, what is made gets the group of
    that, which its owner may not be in."""
    try:
        grp.getgrgid(gid)
    except KeyError:
        return gid
    return _NOBODYS_GROUP


def _refuse_exchangeable(way: Way, user: _User) -> None:
    other = way.foreign(user.uid)
    if other is not None:
        _refuse(user, way.end.path, _why(other.path, other.uid))
    other = way.exposed(user.uid)
    if other is not None and mount_of(other.path).kind not in _NO_MODES:
        _refuse(
            user,
            way.end.path,
            f"further users may write in {printable(other.path)} (mode {other.mode & 0o7777:04o}), and could exchange "
            "what lies there",
        )


def _why(path: Path, uid: int) -> str:
    return f"{printable(path)} belongs to the user {user_name(uid)}, who can exchange what lies there"


def _become(user: _User) -> None:
    try:
        os.setgroups(sorted(user.groups))
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        _refuse(user, None, f"this process may not become that user ({error.strerror})", in_container=True)
    if not _has_become(user):
        _refuse(user, None, "this process could become root again", in_container=True)
    os.umask(os.umask(0o077) | 0o022)
    _leave_roots_environment(user)


def _has_become(user: _User) -> bool:
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3 or set(os.getgroups()) - user.groups:
        return False
    tries: list[tuple[Callable[..., None], tuple[object, ...]]]
    tries = [(os.setresuid, (0, 0, 0)), (os.seteuid, (0,)), (os.setgroups, ([0],))]
    for back, arguments in tries:
        try:
            back(*arguments)
        except OSError:
            continue
        return False
    with suppress(FileNotFoundError):  # no /proc: the tries have told enough
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("CapPrm", "CapEff", "CapAmb") and int(value, 16):
                return False
    return True


def _leave_roots_environment(user: _User) -> None:
    for name in list(os.environ):
        if name not in _KEPT and not name.startswith(_KEPT_BEGINNINGS):
            del os.environ[name]
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)
    if not os.access(os.environ.get("TMPDIR", "/"), os.W_OK | os.X_OK):
        os.environ.pop("TMPDIR", None)  # root's own
    tempfile.tempdir = None


def _demand_readable_program(user: _User) -> None:
    """Python loads a part of itself only when that is needed; so does this command."""
    for file in (__file__, os.__file__, sys.executable):
        if not os.access(file, os.R_OK):
            raise SomebodyElses(
                f"this command is installed where {user.name}, to whom the directory belongs, may not read it: "
                f"{file}. Nothing was touched. lightningd could not start the plugin from there either: install it "
                "where every user may read it, such as /opt/lightningd-backup, then repeat this"
            )


# Refusing


def _refuse(user: _User, directory: Path | None, why: str, *, in_container: bool = False) -> NoReturn:
    where = "the directory" if directory is None else printable(directory)
    if user.uid == 0:
        raise SomebodyElses(
            f"root does not work in {where}: {why}. Nothing was touched. Give the node a directory that is out of "
            "others' reach (each one above it root's or its user's own, and written to by nobody else: chmod go-w, or "
            "+t), or run this as the user that lightningd runs as"
        )
    container = f" (in a container: start it there with --user {user.uid}:{user.gid})" if in_container else ""
    raise SomebodyElses(
        f"this is run by root, and {where} belongs to the user {user.name}; root would do there what other users "
        f"want: {why}. Nothing was touched. Run it as that user: {_line(user.uid, user.gid)}{container}"
    )


def _refuse_closed_to_its_owner(way: Way, closed: Path) -> NoReturn:
    """In a container, lightningd often runs as root in a volume that is a user's on the host."""
    directory, above = way.end.path, Way(way.steps[:-1])
    only_root_names_it = above.foreign(0) is None and above.exposed(0) is None and not above.end.mode & 0o022
    give = f": {shell_line('chown', '-h', 'root', directory)}" if only_root_names_it else ""
    raise SomebodyElses(
        f"{printable(directory)} belongs to the user {user_name(os.geteuid())}, to whom {printable(closed)} is closed, "
        "so lightningd runs as somebody else. Nothing was touched. Run this as the user that lightningd runs as. If "
        f"that is root, as in many containers, give the directory to root first{give}"
    )


def instead(error: BackupError) -> list[str]:
    """What to type instead of the command that ended so: the same as the user who may read what it needs."""
    if not isinstance(error, ClosedToUser) or error.uid is None or error.uid == os.geteuid():
        return []
    if any("://" in word and "uid=" in word for word in _typed):
        return []  # the URL names a user to the server, whoever types it
    return [_line(error.uid, error.gid if error.gid is not None else _NOBODYS_GROUP)]


def _line(uid: int, gid: int) -> str:
    program = Path(sys.argv[0])
    if program.name == "backup-cli" and program.exists():
        words = [str(program.absolute())]
    elif program.name == "main.py":
        words = [sys.executable, "-m", "backup_cli.main"]
    else:
        words = ["backup-cli"]
    return shell_line(*run_as(uid, gid), *words, *_typed)
