"""What a process really asks of the kernel, by strace: one list of system calls a thread."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (\S+)")
_PATH = re.compile(r"^-?\d+<([^>]*)>")
_IN_A_DIRECTORY = ("unlinkat", "mkdirat")
_WRITERS = ("read", "write", "pread64", "pwrite64", "writev", "pwritev")
"""Calls whose quoted arguments are data, not names."""

_NAMES = re.compile(r'(?:-?\w+<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
"""A name, and the directory that it is relative to."""

NOISE = frozenset(
    ("futex", "brk", "mmap", "munmap", "mremap", "madvise", "sched_yield", "gettid", "rt_sigaction", "rt_sigprocmask")
)
"""What a thread does for its memory and for the interpreter's lock; it concerns no file."""


@dataclass(frozen=True, slots=True)
class Syscall:
    """One system call. `path` is the file behind its descriptor, or the first one that it names."""

    name: str
    path: str
    arguments: str
    result: str

    @property
    def file(self) -> str:
        """The last part of the path."""
        return Path(self.path).name

    @property
    def names(self) -> list[str]:
        """The paths that it names, resolved against the directory that they are relative to."""
        return [os.path.normpath(Path(directory, name)) for directory, name in _NAMES.findall(self.arguments)]

    @property
    def failed(self) -> bool:
        """Whether the call returned an error."""
        return self.result == "-1"


class Trace:
    """`command` under strace, its records in `directory`."""

    def __init__(self, directory: Path, command: Sequence[str]) -> None:
        if shutil.which("strace") is None or subprocess.run(["strace", "true"], capture_output=True).returncode:
            pytest.skip("there is no strace, or processes may not be traced here")
        self._prefix, self._program = directory / "strace", str(command[0])
        self.command = ["strace", "-ff", "-qq", "-y", "-s", "120", "-o", str(self._prefix), *command]

    def threads(self) -> list[list[Syscall]]:
        """What each thread did, the first thread first; after the command's end."""
        files = {int(path.suffix[1:]): path for path in self._prefix.parent.glob(f"{self._prefix.name}.*")}
        read = {number: path.read_text(errors="replace") for number, path in files.items()}
        [first] = [number for number, text in read.items() if text.startswith(f'execve("{self._program}"')]
        # The kernel's numbers begin anew after the largest: then the first thread's is not the smallest.
        return [_parsed(read[number]) for number in sorted(read, key=lambda number: (number < first, number))]


def _parsed(text: str) -> list[Syscall]:
    calls = []
    for line in text.splitlines():
        if found := _LINE.match(line):
            name, arguments, result = found.groups()
            call = Syscall(name.removesuffix("at") if name in _IN_A_DIRECTORY else name, "", arguments, result)
            descriptor, named = _PATH.match(arguments), name in _WRITERS or not call.names
            path = descriptor[1] if descriptor and named else next(iter(call.names), "")
            calls.append(replace(call, path=path))
    return calls


def in_backup(calls: Sequence[Syscall], backup: Path) -> list[Syscall]:
    """Those that touch the backup's directory or a file in it."""
    place = str(backup)
    return [call for call in calls if call.path.startswith(place) or any(n.startswith(place) for n in call.names)]
