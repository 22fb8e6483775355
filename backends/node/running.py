"""Is a lightningd at work in this network directory? Three signs, each enough, none of them left behind by a crash.

- The POSIX lock that lightningd holds on its pid file, `lightningd-<network>.pid` in the directory above.
- A process named lightningd that works in the directory, or was started for it.
- Any process that has the database open: a node started some other way, or an sqlite3 shell that may write.

The pid file, a number in it, or the `lightning-rpc` socket prove nothing: a crash leaves all of them.
"""

import fcntl
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from backends.errors import BackupError
from backends.node.directory import NETWORKS, database_path
from backends.words import printable

_LIGHTNINGD = "lightningd"
_PROCESSES = Path("/proc")
_FLOCK = "hhqqi0q"
"""C's `struct flock` on Linux: type, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    does: str


def running_lightningd(directory: Path) -> int | None:
    """The process that holds this network directory, None when there is none.

    0 when there is one whose pid means nothing here: it runs on another machine, or outside this container.
    Processes of other users are seen as far as the system shows them; this process itself does not count.
    """
    holder = _find(directory)
    return None if holder is None else holder.pid


def used_by_another(directory: Path) -> bool:
    """Whether anybody but this process and those that started it holds this network directory, or anybody at all has
    the database open: the lightningd that has only just started this plugin has not."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    holder = _pid_file_holder(directory)
    return (
        (holder is not None and holder.pid not in family)
        or _lightningd_in(directory, family) is not None
        or _database_user(database_path(directory)) is not None
    )


def lightningd_has_started(directory: Path) -> bool:
    """Whether a lightningd works in this directory. Other processes may have its database open, and do not count."""
    return (_pid_file_holder(directory) or _lightningd_in(directory)) is not None


def refuse_if_running(directory: Path) -> None:
    """BackupError when a process holds this network directory: what follows must have it alone."""
    holder = _find(directory)
    if holder is not None:
        who = f"process {holder.pid}" if holder.pid else "a process on another machine or in another container"
        raise BackupError(
            f"the node in {directory} is in use: {who} {holder.does}; nothing was changed: stop the node first, with "
            "lightning-cli stop, wait until it has ended, and repeat this"
        )


def _find(directory: Path) -> _Holder | None:
    return _pid_file_holder(directory) or _lightningd_in(directory) or _database_user(database_path(directory))


# The pid file


def _pid_file_holder(directory: Path) -> _Holder | None:
    # A link to the directory and the directory itself may have different parents.
    for place in dict.fromkeys((directory.absolute(), directory.resolve())):
        path = place.parent / f"lightningd-{place.name}.pid"
        pid = _lock_holder(path)
        if pid is not None:
            return _Holder(pid, f"holds the lock on {path}")
    return None


def _lock_holder(path: Path) -> int | None:
    """Who holds a POSIX lock on the file, 0 when that is nobody the kernel can name here, None when nobody does.

    It asks and never takes the lock, not even for a moment: a lightningd starting just then would give up.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    except OSError:
        return None  # a filesystem without locks: lightningd could not have started there
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


# A process named lightningd


def _lightningd_in(directory: Path, apart_from: Collection[int] = ()) -> _Holder | None:
    for process in psutil.process_iter(["pid", "name", "cmdline", "status"]):
        pid, words = process.info["pid"], process.info["cmdline"] or []
        named = _LIGHTNINGD in (process.info["name"], Path(words[0]).name if words else None)
        if not named or pid == os.getpid() or pid in apart_from or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        try:
            # lightningd moves into its network directory before anything else.
            holds = _same(_PROCESSES / str(pid) / "cwd", directory)
        except PermissionError:
            holds = _started_for(directory, words, process)
        if holds:
            return _Holder(pid, "is a lightningd that works there")
    return None


def _same(one: Path, other: Path) -> bool:
    """By device and inode: a container sees the same directory under another name.

    PermissionError when `one` may not be looked at.
    """
    try:
        return os.path.samestat(one.stat(), other.stat())
    except PermissionError:
        raise
    except OSError:
        return False  # ended meanwhile


def _started_for(directory: Path, words: list[str], process: psutil.Process) -> bool:
    """Whether a command line leads to this directory, for a process of another user.

    Its configuration file may name the network: where the command line is silent, any network counts.
    """
    base, network = None, None
    for word, following in zip(words, [*words[1:], ""], strict=True):
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
        base = _home_of(process)
    if base is None or not Path(base).is_absolute() or network not in (None, directory.name):
        return False
    return directory.absolute().parent == Path(base) or directory.resolve().parent == Path(base).resolve()


def _home_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error, OSError, RuntimeError):
        return str(Path(f"~{process.username()}").expanduser() / ".lightning")
    return None


# A process that has the database open


def _database_user(database: Path) -> _Holder | None:
    try:
        file, wanted = database.resolve(), database.stat()
    except OSError:
        return None
    for pid in _other_processes():
        with suppress(OSError):  # ended meanwhile, or another user's
            for link in (_PROCESSES / str(pid) / "fd").iterdir():
                if _leads_to(link, file.name, wanted):
                    return _Holder(pid, f"({_name(pid)}) has {database} open")
    return None


def _other_processes() -> Iterator[int]:
    with suppress(OSError):  # no /proc here
        for entry in _PROCESSES.iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                yield int(entry.name)


def _leads_to(link: Path, name: str, wanted: os.stat_result) -> bool:
    try:
        # The name first: to look at a file on a network share that is gone would hang this process.
        return link.readlink().name == name and os.path.samestat(link.stat(), wanted)
    except OSError:
        return False  # closed meanwhile


def _name(pid: int) -> str:
    with suppress(psutil.Error):
        return printable(psutil.Process(pid).name(), 40)
    return "now ended"
