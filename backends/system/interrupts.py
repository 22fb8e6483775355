"""Ctrl-C, and what a service manager sends, at a moment that suits.

Python raises KeyboardInterrupt between any two instructions, so also after a directory was made and before anybody has
noted that it must be removed. (An `init` that was stopped there left its scratch directory behind.) A command's short
steps that belong together therefore put a stop off, or, when they are its last ones, do not hear it.
"""

import signal
import threading
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager's stop, and a terminal that is closed."""


class _Stops:
    """What has come, and whether it may be raised now."""

    def __init__(self) -> None:
        self.audible = False
        self.holds = 0
        self.deaf = 0
        self.came: int | None = None
        self.past_undoing = False


_stops = _Stops()


def listen() -> None:
    """From here on each of `STOPPING` raises KeyboardInterrupt in the main thread while it is `audible`.

    Not those that whoever started this process had it ignore, as nohup and a shell's `&` do.
    """
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def came() -> int | None:
    """The signal that this process was stopped by, if it was."""
    return _stops.came


def past_undoing() -> bool:
    """Whether a command's last steps were made: what stops it then undoes nothing any more."""
    return _stops.past_undoing


def _stop(number: int, frame: FrameType | None) -> None:
    if _stops.deaf:
        return
    _stops.came = number
    if _stops.audible and not _stops.holds:
        raise KeyboardInterrupt


class audible:  # noqa: N801 (reads as a word of the language)
    """While a command works: before and after, whoever would catch a stop is not there."""

    def __enter__(self) -> None:
        _stops.audible, _stops.past_undoing = True, False
        if _stops.came is not None:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stops.audible = False


class deferred:  # noqa: N801
    """For steps that take no time: a stop that comes meanwhile is raised at their end."""

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
    """For a command's last steps, which take no time and cannot be undone one by one: a stop is not heard."""

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
