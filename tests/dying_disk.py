"""A disk for SQLite on which a process dies at its n-th step: before each write, sync and cut, and around a deletion.

For a process of its own: importing this makes it the default for every database that is opened from then on.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import apsw

import backends.sqlite.connection  # noqa: F401 - sets SQLite up, which must come before this disk

_left = 0


def step() -> None:
    """Die, as by kill -9, unless a step is left."""
    global _left
    _left -= 1
    if _left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


def for_each_number_read(act: Callable[[], None]) -> None:
    """For each number on standard input, `act` in a fork that dies after so many steps.

    Prints "killed", or "done" and how many steps were left over. Ends this process if a fork fails in any other way.
    """
    global _left
    for line in sys.stdin:
        _left = int(line)
        child = os.fork()
        if not child:
            act()
            print("done", _left, flush=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            print("killed", flush=True)
        elif code:
            sys.exit(code)


class _File(apsw.VFSFile):
    def xWrite(self, *arguments: Any) -> None:  # noqa: N802
        step()
        super().xWrite(*arguments)

    def xSync(self, *arguments: Any) -> None:  # noqa: N802
        step()
        super().xSync(*arguments)

    def xTruncate(self, *arguments: Any) -> None:  # noqa: N802
        step()
        super().xTruncate(*arguments)


class _Disk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("dying", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File("unix", name, flags)

    def xDelete(self, *arguments: Any) -> None:  # noqa: N802
        step()
        super().xDelete(*arguments)
        step()


_DISK = _Disk()  # it is the default for as long as somebody holds it
