"""Delays Ctrl-C, and a service manager's signals, until a command can be stopped cleanly.

Python may raise KeyboardInterrupt between any two instructions, so also between making a directory and noting that it
must be removed. (An `init` that was stopped there left its scratch directory behind.) So while a command takes a few
short steps that belong together, a stop is deferred; during its last steps, a stop is ignored.
"""

import signal
import threading
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that stop a command: Ctrl-C, a service manager's stop, and the closing of the terminal."""


class _Stops:
    """The signal that came, and whether it may raise KeyboardInterrupt now."""

    def __init__(self) -> None:
        self.audible = False
        """Whether a command is working, so that a stop may be raised at all."""
        self.holds = 0
        """How many `deferred` blocks the main thread is in."""
        self.deaf = 0
        """How many `ignored` blocks the main thread is in."""
        self.came: int | None = None
        self.past_undoing = False


_stops = _Stops()


def listen() -> None:
    """Install handlers: each signal of `STOPPING` raises KeyboardInterrupt in the main thread inside `audible`.

    Signals that this process was started to ignore, as by nohup or a shell's `&`, stay ignored.
    """
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def came() -> int | None:
    """The signal that stopped this process, if one did."""
    return _stops.came


def past_undoing() -> bool:
    """Whether the command's last steps are done, so that a later stop undoes nothing any more."""
    return _stops.past_undoing


def _stop(number: int, frame: FrameType | None) -> None:
    if _stops.deaf:
        return
    _stops.came = number
    if _stops.audible and not _stops.holds:
        raise KeyboardInterrupt


class audible:  # noqa: N801 (reads like a keyword)
    """A `with` block in which a command works and a stop is raised. Outside, nothing would catch the exception."""

    def __enter__(self) -> None:
        _stops.audible, _stops.past_undoing = True, False
        if _stops.came is not None:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stops.audible = False


class deferred:  # noqa: N801
    """A `with` block for short steps: a stop that comes during them is raised at the end of the block."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = _stops.came
            _stops.holds += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._main:
            return
        _stops.holds -= 1
        if _stops.came is not self._before and _stops.audible and not _stops.holds:
            raise KeyboardInterrupt


class ignored:  # noqa: N801
    """A `with` block for a command's last steps, which are short and cannot be undone one by one: a stop is ignored."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            _stops.deaf += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            _stops.past_undoing = _stops.past_undoing or error is None
            _stops.deaf -= 1
