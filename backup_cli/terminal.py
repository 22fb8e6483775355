"""What a terminal can do, and how a line is laid out on it: broken between words, and never within a command.

A pipe or a log gets one line a message. A command that is to be pasted stays whole, whatever its length: the terminal
itself then breaks it, and joins it again when it is copied. Broken by us, its first line would run without the rest.
"""

import os
import re
import textwrap
import time
from typing import TextIO

_COMMAND = re.compile(
    r"""(?:sudo|setpriv|runuser|backup-cli|lightning-cli|chown|chmod|install|mount|umount|important-plugin=\S+|\S*/backup-cli)
    (?:\ (?:[a-z-]+(?=\ -|\ [A-Z/'$]|\ \S+:)|-\S+|(?:[^\s']*\$?'[^']*')+\S*|\S*[/=:\d]\S*|[A-Z]{2,}\S*|--))*""",
    re.VERBOSE,
)
"""As far as the words look like parts of a command: options, paths, URLs, numbers, quoted words, DEST."""

_INSIDE = "\uffff"
"""In the place of a space that stays; it is printed by nobody, since it is no character."""

_SIGN = re.compile(r" *(?:[-!] )?")
"""What a line begins with, under which its further lines do not go."""

_MIN_WIDTH = 20
"""Columns below which nothing is laid out."""


def is_plain(stream: TextIO) -> bool:
    """Whether it is no terminal, or one that only prints what it gets (TERM=dumb): no bars, no colours."""
    return not stream.isatty() or (os.environ.get("TERM") or "dumb") == "dumb"


def has_colours(stream: TextIO) -> bool:
    """Not where the user wants none (https://no-color.org)."""
    return not is_plain(stream) and not os.environ.get("NO_COLOR")


def columns(stream: TextIO) -> int | None:
    """How wide the terminal is; None for what is none."""
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return found or 80


def laid_out(line: str, width: int | None, hang: int = 0) -> list[str]:
    """The lines that a terminal shows of it; `hang` is the column of what stands in a table's second column."""
    if width is None or len(line) <= width or width < _MIN_WIDTH:
        return [line]
    sign = _SIGN.match(line)
    hang = hang or (sign.end() if sign is not None else 0)
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _INSIDE), line)
    lines = textwrap.wrap(
        whole[hang:],
        width,
        initial_indent=whole[:hang],
        subsequent_indent=" " * (hang if hang <= width // 2 else 0),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return [part.replace(_INSIDE, " ") for part in lines]


class Bar:
    """How far long work is, in one line that is written over and over."""

    def __init__(self, label: str, width: int) -> None:
        self._label, self._width, self._began = label, width, time.monotonic()
        self._shown = -1
        self.text = ""

    def moved(self, done: int, total: int) -> bool:
        """Whether the line reads differently now."""
        now = min(1000, 1000 * done // max(total, 1))
        if now <= self._shown:
            return False
        self._shown = now
        self.text = self._line(now)
        return True

    def _line(self, done: int) -> str:
        left = ""
        if 0 < done < 1000:
            seconds = int((time.monotonic() - self._began) * (1000 - done) / done)
            left = f"  {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
        label = f"{self._label:<24}"
        room = min(36, self._width - len(label) - len("  []  100 %  00:00:00 left") - 1)
        full = round(room * done / 1000)
        bar = f"  [{'#' * full}{'-' * (room - full)}]" if room >= 10 else ""
        return f"{label}{bar}  {done // 10:>3} %{left}"[: max(self._width - 1, 1)]
