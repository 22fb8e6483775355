"""A command on a pseudo-terminal of 80 columns: what a person would see there."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence

TIMEOUT = 120.0


def on_a_terminal(
    *words: object, term: str = "xterm", columns: int = 80, answers: Sequence[tuple[str, str]] = (), **environment: str
) -> tuple[int, str]:
    """The command's exit code, and everything that it wrote to the terminal.

    `answers`: what is typed, with Enter, each after its question was shown.
    """
    waiting = [(question.encode(), answer.encode() + b"\n") for question, answer in answers]
    answered = 0
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        program = [sys.executable, "-m", "backup_cli.main", *map(str, words)]
        os.execve(sys.executable, program, {**kept, "TERM": term, **environment})
    data, deadline = b"", time.monotonic() + TIMEOUT
    while True:
        ready = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]
        assert ready, data
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux reports a closed other end this way
            piece = b""
        if not piece:
            break
        data += piece
        if waiting and waiting[0][0] in data[answered:]:
            answered = len(data)
            time.sleep(0.1)  # what is typed before the terminal is silent would be dropped
            os.write(terminal, waiting.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), data.decode().replace("\r\n", "\n")


def screen(written: str) -> list[str]:
    """The lines on the screen at the end: a carriage return overwrites a line, and an erase sequence empties it."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            part = part.replace("\x1b[K", "\0")
            if part.startswith("\0"):
                shown = ""
            part = part.replace("\0", "")
            shown = part + shown[len(part) :]
        lines.append(shown)
    return lines
