"""Makes a process give way to the node, on processor and disk. Imports little: it is called before all else."""

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

_LOWEST = 19

_SESSION = 10
"""The nice value of the session: it gets a tenth of what any other session gets. With 19, a compaction on a machine
with four busy processes for each processor took 59 and 203 s, where 6 and 15 were usual, and no other process was woken
any sooner."""

_AUTOGROUP = Path("/proc/self/autogroup")
"""The nice value of this session as a whole (see sched(7)). Missing where the kernel does not group by session."""

_TRIES, _PAUSE = 20, 0.1
"""The kernel accepts one such change in 0.1 s, from all processes of the machine, and refuses others meanwhile."""


def lower_priority() -> None:
    """Give the node priority on processor and disk, and let the kernel kill this process first when memory runs out.

    Best effort: if a sandbox forbids some of it, the process goes on with the rest.
    """
    with suppress(OSError):
        _leave_session()
    with suppress(OSError):
        os.nice(_LOWEST)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        with suppress(OSError, psutil.Error):
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def _leave_session() -> None:
    """Begin a session of our own that comes after all others.

    Linux shares the processor among sessions first, and `nice` counts only within each. In the node's session, our work
    is charged to the node, which then waits behind every other process of the machine: 11 ms in one commit of a
    hundred. Raises OSError.
    """
    with _AUTOGROUP.open("w") as autogroup:  # first: a session of its own at the usual priority would be worse
        os.setsid()
        for _ in range(_TRIES):
            try:
                os.write(autogroup.fileno(), str(_SESSION).encode())
            except BlockingIOError:
                time.sleep(_PAUSE)
            else:
                return
