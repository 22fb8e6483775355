"""How much memory there is for files, also in the control group of this process: what containers and units set."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LIMITS = (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss"))
"""In version 2 and 1 of control groups: the file with the limit, and what `memory.stat` calls the memory that is not
the page cache's."""


def room_for_pages(root: Path = Path("/")) -> int | None:
    """Bytes of files that can be kept in memory for this process; None if the system does not tell.

    `root` is the directory with `proc` and `sys`. Raises nothing.
    """
    found = list(_free_in_groups(root))
    with suppress(OSError, ValueError, LookupError):
        found.append(_field(root / "proc/meminfo", "MemAvailable:") << 10)
    return min(found, default=None)


def fits(size: int, room: int | None) -> bool:
    """Whether a file of `size` bytes stays in memory as a whole, beside what else is read and written meanwhile.

    `room` is what `room_for_pages` has returned.
    """
    return room is None or size <= room // 5 * 4


def _free_in_groups(root: Path) -> Iterator[int]:
    """For each control group above this process: its limit, less what its processes need for themselves."""
    for group in _groups(root):
        for limit, used in _LIMITS:
            with suppress(OSError, ValueError, LookupError):  # no such file; or "max", which is no number
                yield max(int((group / limit).read_text()) - _field(group / "memory.stat", used), 0)


def _groups(root: Path) -> Iterator[Path]:
    """The directories of the control groups that may limit this process's memory, with those above them.

    In a container, `/proc/self/cgroup` may have the host's paths, of which only the end exists here, or nothing.
    """
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top = mounted / "memory"
            elif number == "0":
                top = mounted
            else:
                continue
            inner = top / path.strip("/")
            yield from (group for group in (inner, *inner.parents) if group.is_relative_to(top))


def _field(file: Path, name: str) -> int:
    """The number after `name` at the beginning of a line. Raises OSError, ValueError, LookupError."""
    for line in file.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise LookupError(name)
