"""Asking a destination that may hang: the command says that it waits, gives up in time, and can be stopped with Ctrl-C.

A call into a share or stick that hangs cannot be interrupted. So another thread makes the call, and is abandoned if it
does not return.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from backends.commit_timeout import DEFAULT_COMMIT_TIMEOUT, commit_timeout_of
from backends.errors import BackupError, Unreachable
from backends.storage.unreachable import is_silence
from backends.urls import BadURL, names_a_mount, parse_url
from backup_cli.console import say

FIRST_WORD = 5.0
"""Seconds after which the command says what it waits for."""

_MARGIN = 2.0
"""Extra seconds beyond the commit timeout, so that the backup itself can report what is wrong."""

_Result = TypeVar("_Result")


class NoAnswer(Exception):
    """The destination has not answered in time."""


def within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """Return or raise what `ask` does. Raises NoAnswer if it does not end within `seconds`; its thread then goes on."""
    return _Asking(ask).wait(seconds)


def answered(url: str, ask: Callable[[], _Result]) -> _Result:
    """Return or raise what `ask` does. The destination gets as long as the node would wait for it, its commit timeout.

    Raises Unreachable if it does not answer in that time.
    """
    before = silence_of(url)
    if before is not None:
        raise before
    try:
        return _waited_for(url, ask)
    except (BackupError, OSError) as error:
        if is_silence(error):  # its own client has given up, sooner than this
            note_silence(
                url,
                error
                if isinstance(error, BackupError)
                else _no_answer(url, f"cannot be used: {error.strerror or error}"),
            )
        raise


def _waited_for(url: str, ask: Callable[[], _Result]) -> _Result:
    asking, timeout = _Asking(ask), _commit_timeout(url)
    try:
        return asking.wait(FIRST_WORD)
    except NoAnswer:
        say(f"waiting for {url}, for at most {timeout:.0f} seconds (Ctrl-C stops) …")
    try:
        return asking.wait(max(timeout + _MARGIN - FIRST_WORD, 0.0))
    except NoAnswer:
        error = no_answer(url, timeout)
    note_silence(url, error)
    raise error


def no_answer(url: str, seconds: float) -> Unreachable:
    """The error for a destination that has not answered for so long."""
    return _no_answer(url, f"has not answered for {seconds:.0f} seconds")


def _no_answer(url: str, what: str) -> Unreachable:
    return Unreachable(
        f"{url} {what}. What was saved there is safe; {_what_to_check(url)}; then repeat the command",
        clause=f"it {what}",
    )


def _what_to_check(url: str) -> str:
    if names_a_mount(url):
        return "check whether the server or disk is up, and if it stays silent, remount it (umount -f, then mount)"
    return "check whether the server is up, and whether this machine can reach it"


@contextmanager
def asked_once() -> Iterator[None]:
    """Meanwhile, a destination that has not answered in time is not asked again: it has failed for all that follows.

    Whoever asks without `answered`, such as several at once, looks at `silence_of` before, and calls `note_silence`.
    """
    global _silent
    _silent = {}
    try:
        yield
    finally:
        _silent = None


def silence_of(url: str) -> BackupError | None:
    """The error of a destination that is not to be asked again, because it has not answered before."""
    return None if _silent is None else _silent.get(url)


def note_silence(url: str, error: BackupError) -> None:
    """This destination has not answered in time: under `asked_once`, it has failed with this error from now on."""
    if _silent is not None:
        _silent[url] = error


_silent: dict[str, BackupError] | None = None
"""The URLs that have not answered, each with the error; None if each is to be asked whenever it is needed."""


class _Asking(Generic[_Result]):
    """A call to a destination, running in its own thread."""

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


def _commit_timeout(url: str) -> float:
    try:
        return commit_timeout_of(parse_url(url))
    except BadURL:
        return DEFAULT_COMMIT_TIMEOUT
