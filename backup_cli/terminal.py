"""What a terminal can do, and how a line is laid out on it: broken between words, and never within a command.

A pipe or a log gets one line per message. A command that is to be pasted is never broken, whatever its length: the
terminal wraps it, and joins it again when it is copied. If we broke it, its first line would run without the rest.
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
"""A command, up to the last word that looks like part of one: an option, path, URL, number, quoted word or DEST."""

_INSIDE = "\uffff"
"""Stands for a space at which a line must not break; not a character, so no message contains it."""

_SIGN = re.compile(r" *(?:[-!] )?")
"""The indentation and bullet of a line; continuation lines are indented by its width."""

_MIN_WIDTH = 20
"""Terminals with fewer columns get each line unbroken."""


def is_plain(stream: TextIO) -> bool:
    """Whether the stream gets no bars and no colours: it is not a terminal, or one without controls (TERM=dumb)."""
    return not stream.isatty() or (os.environ.get("TERM") or "dumb") == "dumb"


def has_colours(stream: TextIO) -> bool:
    """Whether the stream gets colours: a terminal, unless the user has set NO_COLOR (https://no-color.org)."""
    return not is_plain(stream) and not os.environ.get("NO_COLOR")


def columns(stream: TextIO) -> int | None:
    """The terminal's width in columns, 80 if it cannot be told; None when the stream is not a terminal."""
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return found or 80


def laid_out(line: str, width: int | None, hang: int = 0) -> list[str]:
    """`line` broken to `width` columns (None: not a terminal, so not broken). `hang` is the indentation of continuation
    lines, for a table's second column."""
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
    """The progress of long work as one line, which is redrawn in place."""

    def __init__(self, label: str, width: int) -> None:
        self._label, self._width, self._began = label, width, time.monotonic()
        self._shown = -1
        self.text = ""

    def moved(self, done: int, total: int) -> bool:
        """Update the line. Returns whether its text has changed."""
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
        length = min(36, self._width - len(label) - len("  []  100 %  00:00:00 left") - 1)
        full = round(length * done / 1000)
        bar = f"  [{'#' * full}{'-' * (length - full)}]" if length >= 10 else ""
        return f"{label}{bar}  {done // 10:>3} %{left}"[: max(self._width - 1, 1)]
