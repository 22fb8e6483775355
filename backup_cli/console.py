"""What a person sees: progress of long work, messages, results, and units and times in plain words."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import click

from backends.text import one_line
from backends.times import END_OF_TIME, UNKNOWN, UNKNOWN_TIME, known_moment
from backends.times import age as age
from backends.times import moment as moment
from backup_cli.terminal import Bar, columns, has_colours, is_plain, laid_out


class Progress(Protocol):
    """Called with how much is done and how much there is in all, in any unit."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def progress(label: str, then: str = "") -> Iterator[Progress]:
    """On a terminal, a bar with the remaining time; elsewhere a plain line at the start, each quarter and the end.

    `then` names work that follows and cannot report its progress; it gets a line of its own.
    """
    if is_plain(sys.stderr):
        lines = _Lines(label, then)
        yield lines
        lines.end()
        return
    with _Shown(label, then) as shown:
        yield shown


class _Shown:
    """Progress on a terminal: messages shown meanwhile go above the bar."""

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
            self._then = ""  # the work named by `then` is over as well
            self(1, 1)
        self._leave()

    def _leave(self) -> None:
        if self._bar in _bars:
            _bars.remove(self._bar)
            click.echo("", err=True)


_bars: list[Bar] = []
"""The bar that is on the terminal's last line now; one at most."""

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
        """Everything is done, including what `then` names. Work in another process may not have reported its end."""
        self._then = ""
        if self._next <= 100:
            self(1, 1)


def say(*lines: str) -> None:
    """Show messages about what is going on, one per line, on stderr; stdout is for results."""
    for line in lines:
        _echo(line, err=True)


def warn(line: str) -> None:
    """Show a warning, and keep it for the JSON result."""
    _warnings.append(one_line(line))
    _echo(f"warning: {line}", err=True, fg="yellow")


_warnings: list[str] = []


def warnings_so_far() -> tuple[str, ...]:
    """The warnings that this command has shown."""
    return tuple(_warnings)


def forget_warnings() -> None:
    """Forget the warnings of an earlier command in the same process."""
    _warnings.clear()


def fail(line: str) -> None:
    """Show the error that ends the command."""
    _echo(f"error: {line}", err=True, fg="red")


def show_line(line: str, *, fg: str | None = None, bold: bool | None = None) -> None:
    """Show a line of the result, for a person."""
    _echo(line, fg=fg, bold=bold)


def show_row(name: str, text: str, width: int, *, level: tuple[str, str] = ("", "")) -> None:
    """Show a row of a table, with `name` in a column of `width`. `level` is a text to put before it, and its colour."""
    word, colour = level
    _echo(f"{word}{name:<{width}}{text}", hang=len(word) + width, coloured=(len(word), colour))


def say_row(name: str, text: str, width: int) -> None:
    """Show a table's row, like `show_row`, but as a message on stderr."""
    _echo(f"{name:<{width}}{text}", err=True, hang=width)


def show_whole(line: str) -> None:
    """Show a line that will be copied elsewhere, so it is not broken at the terminal's width."""
    _echo(line, whole=True)


def ask(question: str) -> None:
    """Show a question at the terminal. The answer is read elsewhere, and not shown; then call `end_question`."""
    click.echo(f"{one_line(question)}: ", err=True, nl=False)


def end_question() -> None:
    """End the question's line: the line end that was typed was not shown either."""
    click.echo(err=True)


def hand_out(text: str) -> None:
    """Print a result for a program (JSON, metrics) unchanged: these formats have done their own escaping."""
    click.echo(text, nl=not text.endswith("\n"))


def hand_out_path(path: Path) -> None:
    """Print a path: unchanged for a program; escaped on a terminal, for a person."""
    if sys.stdout.isatty():
        show_line(str(path))
    else:
        click.echo(str(path), color=True)  # otherwise click would strip escape sequences from the path


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
    """Show one line; everything that a person sees passes here. Control characters are escaped, so that the terminal
    obeys nothing but our colours.

    `coloured` is the number of characters at the start that have a colour of their own, and that colour.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "ascii"
    # An old terminal's encoding may lack "…": that is escaped, instead of raising an error.
    shown = one_line(line).encode(encoding, "backslashreplace").decode(encoding)
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
    """A number of bytes in words, in the largest unit that fits."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


AHEAD = 60.0
"""Seconds by which two machines' clocks may differ before a time counts as being in the future."""


def ago(seconds: float) -> str:
    """How long ago that point in time was; the words fit the end of a sentence, or follow a comma."""
    since = time.time() - seconds
    if not UNKNOWN_TIME < seconds < END_OF_TIME:
        return "at an unknown time"
    return "in the future, by this machine's clock" if since < -AHEAD else f"{age(since)} ago"


def moment_ago(seconds: float) -> str:
    """The point in time (seconds since 1970), and how long ago it was."""
    told = known_moment(seconds)
    return UNKNOWN if told is None else f"{told} ({ago(seconds)})"
