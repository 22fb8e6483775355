"""When root runs a command, it becomes the owner of the directory that it works in before it touches anything there.

In another user's directory, a link, a file with a predictable name or a line of the config file can make root do what
that user wants, to the whole machine: `check-config` starts the config's plugin, and a `backup.lock` that was a link to
a file of root's was copied and given to the user. So root goes on as that user, and cannot become root again: whatever
the user plants there can only harm himself. New files then also belong to him from the start.

If root cannot become the owner, or if a third user could replace the directory after it was checked, the command
refuses, and prints the command line that does the same safely.
"""

import grp
import os
import pwd
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backends.errors import BackupError, ClosedToUser, Unreachable
from backends.mounts.sticks import find_stick
from backends.mounts.table import mount_of
from backends.node.directory import database_path, network_directory
from backends.system.owners import Way, run_as, user_name, way_to
from backends.text import printable, shell_line
from backends.urls import BadURL, parse_url
from backup_cli.console import say
from backup_cli.waiting import answered

_NO_MODES = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "hfsplus", "cifs", "smb3"})
"""Filesystems where the mount options decide who owns everything and who may write; modes mean nothing there."""

_KEPT = ("PATH", "LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES", "TZ", "TMPDIR")
_KEPT_BEGINNINGS = ("LC_", "LIGHTNINGD_BACKUP_")
"""The part of root's environment that another user's programs may see, as with sudo: the rest may hold tokens."""

_NOBODYS_GROUP = 65534

_typed: list[str] = []


def remember(arguments: list[str]) -> None:
    """Keep what was typed after the program's name, for the command line that a refusal advises."""
    _typed[:] = arguments


class SomebodyElses(BackupError):
    """Root would have to work in another user's directory, and cannot safely become that user."""


# Called at the start of a command


def node_directory(given: Path, *, new: bool = False) -> Path:
    """The network directory that `--lightning-dir` means. If this is root, it becomes the directory's owner.

    Raises SomebodyElses if root cannot do that safely, and BackupError like `network_directory`.
    """
    given = _absolute(given)  # before HOME and the directories that may be entered become another user's
    if os.geteuid() != 0:
        return network_directory(given, new=new)
    way = way_to(given)
    _become_owner_at_the_end_of(way)
    try:
        directory = network_directory(given, new=new)
    except PermissionError as error:
        _refuse_closed_to_its_owner(way, Path(error.filename or given))
    if os.geteuid() == 0:
        _become_owner_of(directory)  # the node's network directory may be another user's, inside one of root's
    else:
        _demand_owned(directory)
    if os.geteuid() == 0 and database_path(directory).is_symlink():
        refuse_anothers(Path(os.path.realpath(database_path(directory))).parent)
    return directory


def restore_place(dest: Path) -> Path:
    """DEST as an absolute path. If this is root, it becomes the owner of the directory: DEST itself or its parent."""
    dest = _absolute(dest)
    if os.geteuid() == 0:
        _become_owner_of(dest if _is_directory(dest) else dest.parent)
    return dest


def _is_directory(path: Path) -> bool:
    """Whether `path` is a directory; False if root may not know, on a share or in another user's FUSE filesystem."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def backup(url: str) -> bool:
    """For a command that only concerns a backup: if this is root, become the owner of the backup, or of the directory
    in which it will be created.

    Returns whether this was root and is another user now. For a place on another machine, which itself checks who asks,
    root stays root. Raises BackupError when the place does not answer.
    """
    if os.geteuid() != 0:
        return False
    try:
        way = answered(url, lambda: _way_to_backup(url))
    except BadURL:
        return False  # the command itself will say what is wrong with the URL
    if way is not None and not _is_roots(way):
        _become_owner_at_the_end_of(way)
    return os.geteuid() != 0


def backups(urls: Iterable[str]) -> None:
    """`backup` for the members of one backup: become the owner of the first one that is another user's. Those that do
    not answer are left out. Raises SomebodyElses."""
    for url in urls:
        with suppress(Unreachable):
            if backup(url):
                return


def refuse_anothers(place: Path | None) -> None:
    """Raise SomebodyElses if this is still root, and another user owns `place` or can change it. Touches nothing.

    For a further directory that the user named, such as --scratch. A command run by any other user can do no more there
    than that user could.
    """
    if os.geteuid() != 0 or place is None:
        return
    way = way_to(place)
    other = way.foreign(0) or way.exposed(0)
    if other is not None:
        raise SomebodyElses(
            f"root does not work in {printable(place)}: {_why(other.path, other.uid)}. Nothing was touched; name a "
            "directory that only root may write to, or a sticky one such as /var/tmp"
        )


def _absolute(path: Path) -> Path:
    """The absolute path, as the user who typed it means it. Raises BackupError when that cannot be told."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise BackupError(
            f"{printable(path)} cannot be found: this user has no home directory (no name, and HOME is not set); "
            "nothing was changed. Give the full path; for the node's directory, with --lightning-dir"
        ) from None
    except FileNotFoundError:
        raise BackupError(
            f"{printable(path)} cannot be found, because the current directory no longer exists; nothing was changed. "
            "Change to another directory (cd), or give the full path"
        ) from None


# Becoming the owner


def _way_to_backup(url: str) -> Way | None:
    place = parse_url(url)
    if place.scheme == "usb" and place.host:
        return way_to(find_stick(place.host).point.joinpath(*place.path.parts[1:]))
    return None if place.directory is None else way_to(place.directory)


def _is_roots(way: Way) -> bool:
    """Whether the backup is root's own, wherever it is: a command trusts nothing in a backup and follows no link in it,
    so root may work there."""
    return way.end.uid == 0


def _become_owner_of(directory: Path) -> None:
    _become_owner_at_the_end_of(way_to(directory))


def _become_owner_at_the_end_of(way: Way) -> None:
    user = _owner(way)
    _refuse_exchangeable(way, user)
    if user.uid == 0:
        return
    say(f"Run by root: going on as {user.name}, who owns {printable(way.end.path)}")
    _become(user)
    again = way_to(way.end.path)
    _refuse_exchangeable(again, user)
    if again.end.path != way.end.path:
        _refuse_closed_to_its_owner(way, again.end.path)
    _demand_readable_program(user)


def _demand_owned(directory: Path) -> None:
    """Refuse unless this directory, found inside the one that was named, belongs to the same user and nobody else can
    replace it."""
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
    """The group for an owner without a name: the directory's group if that has no name either, else nobody's.

    A setgid directory gives its group to new files, and the owner need not be a member of that group.
    """
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
            f"other users may write in {printable(other.path)} (mode {other.mode & 0o7777:04o}), and could replace "
            "what is there",
        )


def _why(path: Path, uid: int) -> str:
    return f"{printable(path)} belongs to the user {user_name(uid)}, who can replace what is there"


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
    with suppress(FileNotFoundError):  # without /proc, the attempts above must be enough
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
        os.environ.pop("TMPDIR", None)  # root's own, where this user may not write
    tempfile.tempdir = None


def _demand_readable_program(user: _User) -> None:
    """Refuse if the user cannot read this program or Python: both load parts of themselves only when needed."""
    for file in (__file__, os.__file__, sys.executable):
        if not os.access(file, os.R_OK):
            raise SomebodyElses(
                f"this command is installed where {user.name}, who owns the directory, may not read it: {file}. "
                "Nothing was touched. lightningd could not start the plugin from there either: install it where every "
                "user may read it, such as /opt/lightningd-backup, then repeat this"
            )


# Refusing


def _refuse(user: _User, directory: Path | None, why: str, *, in_container: bool = False) -> NoReturn:
    where = "the directory" if directory is None else printable(directory)
    if user.uid == 0:
        raise SomebodyElses(
            f"root does not work in {where}: {why}. Nothing was touched. Give the node a directory that other users "
            "cannot replace (each directory above it belongs to root or to the node's user, and nobody else may write "
            "to it: chmod go-w, or +t), or run this as the user that lightningd runs as"
        )
    container = f" (in a container: start it there with --user {user.uid}:{user.gid})" if in_container else ""
    raise SomebodyElses(
        f"this is run by root, and {where} belongs to the user {user.name}; root would do there what other users "
        f"want: {why}. Nothing was touched. Run this as that user: {_line(user.uid, user.gid)}{container}"
    )


def _refuse_closed_to_its_owner(way: Way, closed: Path) -> NoReturn:
    """Refuse a directory that its own owner may not enter. In a container, lightningd often runs as root in a volume
    that belongs to a user of the host."""
    directory, above = way.end.path, Way(way.steps[:-1])
    only_root_names_it = above.foreign(0) is None and above.exposed(0) is None and not above.end.mode & 0o022
    give = f": {shell_line('chown', '-h', 'root', directory)}" if only_root_names_it else ""
    raise SomebodyElses(
        f"{printable(directory)} belongs to the user {user_name(os.geteuid())}, who may not open {printable(closed)}, "
        "so lightningd runs as another user. Nothing was touched. Run this as the user that lightningd runs as. If "
        f"that is root, as in many containers, give the directory to root first{give}"
    )


def instead(error: BackupError) -> list[str]:
    """The command line to type after this error, if any: the same command, as the user who may read what it needs."""
    if not isinstance(error, ClosedToUser) or error.uid is None or error.uid == os.geteuid():
        return []
    if any("://" in word and "uid=" in word for word in _typed):
        return []  # the URL names a user to the server, whoever types it
    return [_line(error.uid, error.gid if error.gid is not None else _NOBODYS_GROUP)]


def again(*more: str) -> str:
    """The command line that was typed, with these words added."""
    return shell_line("backup-cli", *_typed, *more)


def _line(uid: int, gid: int) -> str:
    program = Path(sys.argv[0])
    if program.name == "backup-cli" and program.exists():
        words = [str(program.absolute())]
    elif program.name == "main.py":
        words = [sys.executable, "-m", "backup_cli.main"]
    else:
        words = ["backup-cli"]
    return shell_line(*run_as(uid, gid), *words, *_typed)
