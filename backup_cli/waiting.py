"""Asking a destination that may hang: the command says so, ends in time, and can be stopped with Ctrl-C meanwhile.

A call into a share or stick that hangs is not to be interrupted. So it is another thread that makes it, and that is
left behind when it does not come back.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from backends.commit_timeout import DEFAULT_COMMIT_TIMEOUT, commit_timeout_of
from backends.errors import Unreachable
from backends.urls import BadURL, parse_url
from backup_cli.console import say

FIRST_WORD = 5.0
"""Seconds after which a person should know what is waited for."""

_MARGIN = 2.0
"""Seconds that a backup gets beyond its own patience, to say itself what is wrong."""

_Result = TypeVar("_Result")


class NoAnswer(Exception):
    """It has not come back in time."""


def within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns or raises. NoAnswer when it does neither in that time; it goes on in its thread then."""
    return _Asking(ask).wait(seconds)


def answered(url: str, ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns or raises, for a destination that has as long to answer as the node would wait for it."""
    asking, patience = _Asking(ask), _patience(url)
    try:
        return asking.wait(FIRST_WORD)
    except NoAnswer:
        say(f"waiting for {url}, for {patience:.0f} seconds at most (Ctrl-C stops) …")
    try:
        return asking.wait(patience + _MARGIN - FIRST_WORD)
    except NoAnswer:
        raise Unreachable(
            f"{url} has not answered for {patience:.0f} seconds. What was saved there is safe; see whether the server "
            "or disk is up, and mount it anew if it stays silent (umount -f, then mount), then repeat the command"
        ) from None


class _Asking(Generic[_Result]):
    """A question under way in a thread of its own."""

    def __init__(self, ask: Callable[[], _Result]) -> None:
        self._ask = ask
        self._result: list[_Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._ask())
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float) -> _Result:
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise NoAnswer
        if self._error is not None:
            raise self._error
        return self._result[0]


def _patience(url: str) -> float:
    try:
        return commit_timeout_of(parse_url(url))
    except BadURL:
        return DEFAULT_COMMIT_TIMEOUT
