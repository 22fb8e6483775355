"""Another user of the machine, who does something over and over while a test runs."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

OTHER = 64999
"""A user that is neither root nor the node's; he needs no name."""


@contextmanager
def looping(user: int, script: str) -> Iterator[None]:
    """This piece of shell, again and again, as that user. Only root can start it."""
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    running = subprocess.Popen(
        [*words, "sh", "-c", f"while :; do {script}; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
