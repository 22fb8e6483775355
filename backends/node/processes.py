"""What /proc tells about other processes.

They may belong to somebody else, call themselves anything, and end while they are read: nothing here raises, and a
process that cannot be read tells nothing.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_LONGEST = 1 << 20
"""Bytes that are read from a file in /proc, such as a command line."""

_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was a moment ago. It chooses its `name` and its `words` (the command line) itself."""

    pid: int
    parent: int
    name: str
    words: list[str]
    users: frozenset[int]
    """The real, effective, saved and filesystem user ids."""
    groups: frozenset[int]
    """The same four group ids, without the supplementary groups."""
    ended: bool
    """Whether the process has ended, and only its parent has not read its exit code yet."""

    def belongs_to(self, users: Collection[int]) -> bool:
        """Whether the process belongs to one of these users, and nobody else has started it.

        A setuid program is root's, but the user who starts it chooses its name and words. That user remains its real
        user or, if it makes itself root entirely (sudo, before it asks for a password), at least its group.
        """
        return all(user in users for user in self.users) and (0 not in self.users or self.groups == {0})


def process(pid: int) -> Process | None:
    """The process with this pid; None when there is none, or it cannot be read."""
    text = _text(pid, "status").partition("\nGroups:")[0]  # the rest is most of the file, and not needed
    facts = dict(line.partition(":")[::2] for line in text.split("\n"))
    try:
        return Process(
            pid,
            int(facts["PPid"]),
            facts["Name"].strip(),
            _words(_text(pid, "cmdline")),
            frozenset(map(int, facts["Uid"].split())),
            frozenset(map(int, facts["Gid"].split())),
            facts["State"].strip()[:1] in ("Z", "X"),
        )
    except (KeyError, ValueError):
        return None


def other_pids() -> Iterator[int]:
    """The pids of all processes that are visible from here, except this one."""
    with suppress(OSError), os.scandir(PROC) as entries:  # without /proc there are none
        for entry in entries:
            if entry.name.isascii() and entry.name.isdigit() and int(entry.name) != os.getpid():
                yield int(entry.name)


def family() -> set[int]:
    """The pids of this process and its ancestors, as far as they are visible from here."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        parent = process(pid)
        pid = 0 if parent is None else parent.parent
    return found


def works_in(pid: int, directory: Path) -> bool | None:
    """Whether `directory` is the process's working directory; None when this user may not see that.

    Compared by device and inode: a container sees the same directory under another name.
    """
    try:
        return os.path.samestat((PROC / str(pid) / "cwd").stat(), directory.stat())
    except PermissionError:
        return None
    except (OSError, ValueError):
        return False  # it has ended meanwhile


def opened(pid: int, file: os.stat_result, name: str, superblock: str | None) -> bool | None:
    """Whether the process has this file open: True for writing, False only for reading, None not at all.

    `name` is the file's own name, `superblock` is what `superblock_of` says about it. A file of the other process is
    only examined when both match, because examining one on a share that is gone, or on a FUSE filesystem, may hang.
    """
    found = None
    with suppress(OSError, ValueError), os.scandir(f"{PROC}/{pid}/fd") as entries:  # it has ended, or is another user's
        for entry in entries:
            with suppress(OSError, ValueError, KeyError):  # closed meanwhile
                link = Path(entry) if _named(entry, name) else None
                if link and _may_lie_on(link, superblock) and os.path.samestat(link.stat(), file):
                    found = found or bool(int(_facts(link)["flags"], 8) & _WRITING)
    return found


def _named(entry: "os.DirEntry[str]", name: str) -> bool:
    """Whether this descriptor leads to a file of that name. A machine has thousands: a Path for each is too slow."""
    return os.readlink(entry.path).rpartition("/")[2] == name  # noqa: PTH115


def _may_lie_on(link: Path, superblock: str | None) -> bool:
    return superblock is None or _superblock(link) in (None, superblock)


def superblock_of(path: Path) -> str | None:
    """The mounted filesystem that holds the file, the same in every container; None when unknown."""
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_PATH)
        try:
            return _superblock(PROC / "self" / "fd" / str(descriptor))
        finally:
            os.close(descriptor)
    return None


def _superblock(link: Path) -> str | None:
    with suppress(OSError, ValueError):
        mount = _facts(link).get("mnt_id", "").encode()
        for line in (link.parents[1] / "mountinfo").read_bytes().split(b"\n"):
            words = line.split(None, 3)
            if len(words) > 2 and words[0] == mount:
                return os.fsdecode(words[2])
    return None


def _facts(link: Path) -> dict[str, str]:
    lines = os.fsdecode((link.parents[1] / "fdinfo" / link.name).read_bytes()).split("\n")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _text(pid: int, name: str) -> str:
    with suppress(OSError, ValueError), open(f"{PROC}/{pid}/{name}", "rb") as file:  # noqa: PTH123 (see _named)
        return os.fsdecode(file.read(_LONGEST))
    return ""


def _words(line: str) -> list[str]:
    return line.removesuffix("\0").split("\0") if line else []
