"""What a person sees: progress while long work runs, and plain words."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import click

from backends.times import END_OF_TIME, UNKNOWN, UNKNOWN_TIME
from backends.times import moment as moment
from backends.words import counted, one_line


class Progress(Protocol):
    """Called with the part that is done and the whole, in any unit."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A bar with the remaining time on a terminal; elsewhere a plain line at the start, each quarter and the end."""
    if sys.stderr.isatty():
        with click.progressbar(length=1000, label=f"{label:<24}", file=sys.stderr) as bar:
            shown = 0

            def show(done: int, total: int) -> None:
                nonlocal shown
                now = min(1000, 1000 * done // max(total, 1))
                if now > shown:
                    bar.update(now - shown)
                    shown = now

            yield show
            show(1, 1)
    else:
        yield _Lines(label)


class _Lines:
    """Progress where there is no terminal: a few lines that a log can hold."""

    def __init__(self, label: str) -> None:
        self._label, self._next, self._began = label, 25, time.monotonic()
        say(f"{label} …")

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent >= self._next:
            say(f"{self._label}: {percent} % after {time.monotonic() - self._began:.1f} s")
            self._next = (percent // 25 + 1) * 25


def say(*lines: str) -> None:
    """A line about what is going on, or several; stdout is for results."""
    for line in lines:
        _echo(line, err=True)


def warn(line: str) -> None:
    """A line that must not be overlooked."""
    _echo(f"warning: {line}", err=True, fg="yellow")


def fail(line: str) -> None:
    """Why the command ends."""
    _echo(f"error: {line}", err=True, fg="red")


def show_line(line: str, *, fg: str | None = None, bold: bool | None = None, level: tuple[str, str] = ("", "")) -> None:
    """A line of the result, for a person; `level` are words and their colour at its beginning."""
    word, colour = level
    _echo(line, fg=fg, bold=bold, before=click.style(word, fg=colour) if word else "")


def hand_out(text: str) -> None:
    """A result for a program, as it is: JSON, figures. They have escaped what is foreign in them by their own rules."""
    click.echo(text, nl=not text.endswith("\n"))


def hand_out_path(path: Path) -> None:
    """A path for a program, as it is; on a terminal for a person."""
    if sys.stdout.isatty():
        show_line(str(path))
    else:
        click.echo(str(path), color=True)  # or it would take escape sequences out of it


def _echo(line: str, *, err: bool = False, fg: str | None = None, bold: bool | None = None, before: str = "") -> None:
    """Whatever a person sees comes by here: one line, of which the terminal obeys nothing but its colour."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "ascii"
    shown = (
        one_line(line).encode(encoding, "backslashreplace").decode(encoding)
    )  # an old terminal: no traceback for "…"
    click.echo(before + (click.style(shown, fg=fg, bold=bold) if fg or bold else shown), err=err)


def size(count: int) -> str:
    """Bytes as a person reads them."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def age(seconds: float) -> str:
    """A span of time as a person says it."""
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(max(seconds, 0)), "second")


AHEAD = 60.0
"""Seconds by which two machines' clocks may differ before a time counts as one to come."""


def ago(seconds: float) -> str:
    """How long ago that point in time was, in words that end a sentence or stand behind a comma."""
    since = time.time() - seconds
    if not UNKNOWN_TIME < seconds < END_OF_TIME:
        return "at an unknown time"
    return "in the future, by this machine's clock" if since < -AHEAD else f"{age(since)} ago"


def moment_ago(seconds: float) -> str:
    """The point in time, and how long ago it was."""
    told = moment(seconds)
    return told if told == UNKNOWN else f"{told} ({ago(seconds)})"
