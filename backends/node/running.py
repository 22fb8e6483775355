"""Is a lightningd running in this network directory? There are three signs. Each is enough, and a crash leaves none.

- The POSIX lock that lightningd holds on its pid file, `lightningd-<network>.pid` in the directory above.
- A process named lightningd that works in the directory, or was started for it.
- Any process that has the database open: a node started some other way, or an sqlite3 shell that may write.

The pid file itself, the number in it, and the `lightning-rpc` socket prove nothing: a crash leaves all of them.

In another user's process, a name and a command line prove nothing either: anybody could keep the node from being
restored with `exec -a lightningd sleep 1d --lightning-dir=...`. They count in processes of this user, of root, and of
the owners of the directory and the database. Two signs count in any user's process, because they take the right to
write: a *write* lock on a pid file of these users, and the database open for writing. A read lock, and the database
open for reading, take only the right to read, and count only in processes of these users.
"""

import fcntl
import os
import pwd
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.errors import BackupError
from backends.node.directory import NETWORKS, database_path
from backends.node.processes import Process, family, opened, other_pids, process, superblock_of, works_in
from backends.text import printable

_LIGHTNINGD = "lightningd"
_FLOCK = "hhqqi0q"
"""C's `struct flock` on Linux: type, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    does: str


def running_lightningd(directory: Path) -> int | None:
    """The pid of the process that holds this network directory, None when there is none.

    0 when its pid means nothing here: it runs on another machine, or outside this container. Processes of other users
    are seen as far as the system shows them; this process itself does not count.
    """
    holder = _find(directory)
    return None if holder is None else holder.pid


def used_by_another(directory: Path) -> bool:
    """Whether this network directory is in use by anybody but this process and its ancestors.

    The database counts as in use when any process at all has it open: the lightningd that has only just started this
    plugin has not opened it yet.
    """
    ours, users = family(), _users(directory)
    holder = _pid_file_holder(directory, users)
    return (
        (holder is not None and holder.pid not in ours)
        or _lightningd_in(directory, users, ours) is not None
        or _database_user(directory, users) is not None
    )


def lightningd_has_started(directory: Path) -> bool:
    """Whether a lightningd works in this directory. Another process that has its database open does not count."""
    users = _users(directory)
    return (_pid_file_holder(directory, users) or _lightningd_in(directory, users)) is not None


def refuse_if_running(directory: Path) -> None:
    """Raise BackupError when a process holds this network directory: the caller must have it alone."""
    holder = _find(directory)
    if holder is not None:
        who = f"process {holder.pid}" if holder.pid else "a process on another machine or in another container"
        raise BackupError(
            f"the node in {directory} is in use: {who} {holder.does}; nothing was changed: stop the node first, with "
            "lightning-cli stop, wait until it has ended, and repeat this"
        )


def _find(directory: Path) -> _Holder | None:
    users = _users(directory)
    return _pid_file_holder(directory, users) or _lightningd_in(directory, users) or _database_user(directory, users)


def _users(directory: Path) -> frozenset[int]:
    """The users whose processes count by name: this user, root, and the owners of the directory and the database."""
    found = {0, os.geteuid()}
    with suppress(OSError):
        about = directory.stat()
        found.add(about.st_uid)
        if not about.st_mode & 0o002:  # otherwise anybody may have put it there
            found.add(database_path(directory).stat().st_uid)
    return frozenset(found)


# The pid file


def _pid_file_holder(directory: Path, users: Collection[int]) -> _Holder | None:
    # A link to the directory and the directory itself may have different parents.
    for place in dict.fromkeys((directory.absolute(), directory.resolve())):
        path = place.parent / f"lightningd-{place.name}.pid"
        pid = _lock_holder(path, users)
        if pid is not None:
            return _Holder(pid, f"holds the lock on {path}")
    return None


def _lock_holder(path: Path, users: Collection[int]) -> int | None:
    """The pid that holds a POSIX write lock on the file; 0 if the kernel cannot name it here, None if nobody holds one.

    This queries the lock and never takes it, not even for a moment: a lightningd that starts just then would give up.
    It asks whether a *read* lock would be granted: lightningd's own is a write lock, and anybody who can read a file
    can hold a read lock on it. A file that another user has put there, or his link to some other file, is not
    lightningd's.
    """
    try:
        if os.lstat(path).st_uid not in users:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    except OSError:
        return None  # a filesystem without locks: lightningd could not have started there
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK or about.st_uid not in users:
        return None
    return max(pid, 0) if not about.st_mode & 0o022 or _may_hold(pid, users) else None


def _may_hold(pid: int, users: Collection[int]) -> bool:
    """Whether a lock on a file that others may write counts: not if its holder is visibly one of those others."""
    holder = process(pid) if pid > 0 else None
    return holder is None or holder.belongs_to(users)


# A process named lightningd


def _lightningd_in(directory: Path, users: Collection[int], apart_from: Collection[int] = ()) -> _Holder | None:
    for pid in other_pids():
        found = None if pid in apart_from else process(pid)
        if found is None or found.ended or not _named_lightningd(found) or not found.belongs_to(users):
            continue
        # lightningd changes into its network directory before anything else.
        holds = works_in(pid, directory)
        if _started_for(directory, found) if holds is None else holds:
            return _Holder(pid, "is a lightningd that works there")
    return None


def _named_lightningd(found: Process) -> bool:
    return found.name == _LIGHTNINGD or (bool(found.words) and Path(found.words[0]).name == _LIGHTNINGD)


def _started_for(directory: Path, found: Process) -> bool:
    """Whether a command line leads to this directory, for a process whose working directory cannot be seen.

    Its config file may name the network: if the command line does not, any network counts.
    """
    if not found.words:
        return False  # it is about to end
    base, network = None, None
    for word, following in zip(found.words, [*found.words[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if name == "lightning-dir":
            base = value if equals else following
        elif name == "network":
            network = value if equals else following
        elif name in NETWORKS:
            network = name
        elif name == "mainnet":
            network = "bitcoin"
    if base is None:
        base = _home_of(found)
    if base is None or not Path(base).is_absolute() or network not in (None, directory.name):
        return False
    try:
        return directory.absolute().parent == Path(base) or directory.resolve().parent == Path(base).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links
        return False


def _home_of(found: Process) -> str | None:
    for user in found.users:
        with suppress(KeyError, OSError, OverflowError):
            return str(Path(pwd.getpwuid(user).pw_dir) / ".lightning")
    return None


# A process that has the database open


def _database_user(directory: Path, users: Collection[int]) -> _Holder | None:
    database = database_path(directory)
    try:
        name, wanted, superblock = database.resolve().name, database.stat(), superblock_of(database)
    except (OSError, RuntimeError):
        return None
    for pid in other_pids():
        writes = opened(pid, wanted, name, superblock)
        if writes is None:
            continue
        found = process(pid)
        if writes or (found is not None and found.belongs_to(users)):
            called = "now ended" if found is None else printable(found.name, 32)
            return _Holder(pid, f"({called}) has {database} open")
    return None
