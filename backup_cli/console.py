"""What a person sees: progress while long work runs, and plain words."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import click

from backends.text import counted, one_line
from backends.times import END_OF_TIME, UNKNOWN, UNKNOWN_TIME, known_moment
from backends.times import moment as moment
from backup_cli.terminal import Bar, columns, has_colours, is_plain, laid_out


class Progress(Protocol):
    """Called with the part that is done and the whole, in any unit."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def progress(label: str, then: str = "") -> Iterator[Progress]:
    """A bar with the remaining time on a terminal; elsewhere a plain line at the start, each quarter and the end.

    `then` is what goes on once all is done, and cannot say how far it is: a line of its own.
    """
    if is_plain(sys.stderr):
        lines = _Lines(label, then)
        yield lines
        lines.end()
        return
    with _Shown(label, then) as shown:
        yield shown


class _Shown:
    """Progress on a terminal: what is said meanwhile goes above the bar."""

    def __init__(self, label: str, then: str) -> None:
        self._then, self._bar = then, Bar(label, columns(sys.stderr) or 80)

    def __enter__(self) -> "_Shown":
        _bars.append(self._bar)
        self(0, 1)
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar.moved(done, total):
            _draw(self._bar)
            if self._then and done >= total:
                self._leave()
                say(f"{self._then} ...")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._then = ""  # it is over as well
            self(1, 1)
        self._leave()

    def _leave(self) -> None:
        if self._bar in _bars:
            _bars.remove(self._bar)
            click.echo("", err=True)


_bars: list[Bar] = []
"""Those that stand on the terminal's last line now: one at most."""

_CLEAR_LINE = "\r\x1b[K"


def _draw(bar: Bar) -> None:
    click.echo(_CLEAR_LINE + one_line(bar.text), err=True, nl=False, color=True)


class _Lines:
    """Progress where there is no terminal: a few lines that a log can hold."""

    def __init__(self, label: str, then: str) -> None:
        self._label, self._then, self._next, self._began = label, then, 25, time.monotonic()
        say(f"{label} …")

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent >= self._next:
            say(f"{self._label}: {percent} % after {time.monotonic() - self._began:.1f} s")
            self._next = (percent // 25 + 1) * 25
            if percent >= 100 and self._then:
                say(f"{self._then} …")

    def end(self) -> None:
        """All is done, also what follows; whoever works in another process may not have come to say so."""
        self._then = ""
        if self._next <= 100:
            self(1, 1)


def say(*lines: str) -> None:
    """A line about what is going on, or several; stdout is for results."""
    for line in lines:
        _echo(line, err=True)


def warn(line: str) -> None:
    """A line that must not be overlooked."""
    _warnings.append(one_line(line))
    _echo(f"warning: {line}", err=True, fg="yellow")


_warnings: list[str] = []


def warnings_so_far() -> tuple[str, ...]:
    """What this command has warned of."""
    return tuple(_warnings)


def forget_warnings() -> None:
    """A command begins."""
    _warnings.clear()


def fail(line: str) -> None:
    """Why the command ends."""
    _echo(f"error: {line}", err=True, fg="red")


def show_line(line: str, *, fg: str | None = None, bold: bool | None = None) -> None:
    """A line of the result, for a person."""
    _echo(line, fg=fg, bold=bold)


def show_row(name: str, text: str, width: int, *, level: tuple[str, str] = ("", "")) -> None:
    """A row of a table, `name` in a column of `width`; `level` are words and their colour at its beginning."""
    word, colour = level
    _echo(f"{word}{name:<{width}}{text}", hang=len(word) + width, coloured=(len(word), colour))


def say_row(name: str, text: str, width: int) -> None:
    """The same about what is going on."""
    _echo(f"{name:<{width}}{text}", err=True, hang=width)


def show_whole(line: str) -> None:
    """A line that is copied to somewhere else, so that no terminal's width may break it."""
    _echo(line, whole=True)


def hand_out(text: str) -> None:
    """A result for a program, as it is: JSON, figures. They have escaped what is foreign in them by their own rules."""
    click.echo(text, nl=not text.endswith("\n"))


def hand_out_path(path: Path) -> None:
    """A path for a program, as it is; on a terminal for a person."""
    if sys.stdout.isatty():
        show_line(str(path))
    else:
        click.echo(str(path), color=True)  # or it would take escape sequences out of it


def _echo(
    line: str,
    *,
    err: bool = False,
    fg: str | None = None,
    bold: bool | None = None,
    hang: int = 0,
    coloured: tuple[int, str] = (0, ""),
    whole: bool = False,
) -> None:
    """Whatever a person sees comes by here: one line, of which the terminal obeys nothing but its colour.

    `coloured` is how many characters at its beginning have a colour of their own.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "ascii"
    shown = (
        one_line(line).encode(encoding, "backslashreplace").decode(encoding)
    )  # an old terminal: no traceback for "…"
    colours = has_colours(stream)
    if _bars:
        click.echo(_CLEAR_LINE, err=True, nl=False, color=True)
    for part in laid_out(shown, None if whole else columns(stream), hang):
        first, colour = coloured
        before = click.style(part[:first], fg=colour) if colours and first else part[:first]
        rest = click.style(part[first:], fg=fg, bold=bold) if colours and (fg or bold) else part[first:]
        click.echo(before + rest, err=err, color=True if colours else None)
        coloured = (0, "")
    for bar in _bars:
        _draw(bar)


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
    told = known_moment(seconds)
    return UNKNOWN if told is None else f"{told} ({ago(seconds)})"
