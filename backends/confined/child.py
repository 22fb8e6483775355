"""The process that unpacks and executes a backup's bytes: it reads a job as one line from stdin, and reports on stdout.

`parent` starts it; it is killed when its parent dies.
"""

import os
import sys
import threading
from typing import Any

from backends import keyring
from backends.confined.jobs import JOBS
from backends.confined.messages import MAX_LINE, decode, encode, failure
from backends.sqlite import limits
from backends.system import spool
from backends.system.pulse import pulse

TELL_EVERY = 0.1
"""Seconds between two progress messages. They come from a thread of their own, so that they still come, and say where
the work is, while SQLite is in one long step."""

TELL_QUIETLY_EVERY = 1.0
"""Seconds between two progress messages while the work waits for something to do."""

_MAX_JOB = 1 << 20
"""Bytes of the line with the job."""


class _Voice:
    """The pipe to the parent, for two threads; messages never mix."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # other code's output must not be taken for a message
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any], *, last: bool = False) -> None:
        line = encode(message)
        if len(line) > MAX_LINE:
            line = encode({"failed": "bug", "says": f"a message of {len(line)} bytes"})
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:  # the parent is gone
                os._exit(1)
            if last:
                os._exit(0)  # before the other thread can send anything more


def main() -> None:
    """Do one job. Never returns."""
    job = decode(sys.stdin.buffer.readline(_MAX_JOB))
    keyring.take(job.pop("keys", ()))
    spool.take(job.pop("spool", None))
    limits.end_with_the_parent(int(job["parent"]))
    limits.confine(limited=bool(job["limited"]))
    voice, over = _Voice(), threading.Event()
    threading.Thread(target=_tell, args=(voice, over), name="telling", daemon=True).start()
    voice.say(_done(job), last=True)


def _done(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job, and return its result or its error as a message."""
    try:
        return {"done": JOBS[job["job"]](**job["arguments"])}
    except MemoryError:
        return failure(limits.out_of_memory())
    except BaseException as error:  # the parent reports it; nobody should see a traceback
        return failure(error)


def _tell(voice: _Voice, over: threading.Event) -> None:
    told: object = None
    while not over.wait(TELL_QUIETLY_EVERY if pulse.quiet else TELL_EVERY):
        news = pulse.news
        more = {} if news is None or news is told else {"news": news}
        told = news
        if (error := limits.overflowing()) is not None:
            voice.say(failure(error), last=True)
        voice.say(
            {
                "read": pulse.done,
                "of": pulse.total,
                "signs": pulse.signs,
                "change": pulse.change,
                "segment": pulse.segment,
                "statement": pulse.statement,
                **more,
            }
        )
