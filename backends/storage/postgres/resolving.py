"""The addresses of a server's name, asked for with a deadline.

libpq itself would ask the system for them without one, and a name server that does not answer can hold that for
minutes. So it is done here, in a thread that may be left behind: whoever asks for the same name next waits for that
thread, and no second one is started.
"""

import socket
import threading
import time
from dataclasses import dataclass, field

from backends.storage.postgres.errors import NotNow

_MAX_ADDRESSES = 8
_FRESH = 30.0
"""Seconds that an answer is good for which came after the deadline of those who had asked."""


@dataclass(slots=True, eq=False)
class _Lookup:
    """One question to the system, and its answer once `done` is set."""

    done: threading.Event = field(default_factory=threading.Event)
    addresses: tuple[str, ...] = ()
    error: str = ""
    answered_at: float = 0.0

    def ask(self, name: str) -> None:
        """Set the answer. Runs in a thread of its own."""
        try:
            self.addresses = _ask(name)
        except OSError as error:
            self.error = error.strerror or str(error)
        finally:
            self.answered_at = time.monotonic()
            self.done.set()

    @property
    def stale(self) -> bool:
        """Whether it was answered too long ago."""
        return self.done.is_set() and time.monotonic() - self.answered_at > _FRESH


_lock = threading.Lock()
_lookups: dict[str, _Lookup] = {}
"""Lookups whose answer nobody has taken yet."""


def addresses_of(name: str, until: float) -> tuple[str, ...]:
    """The addresses of a host, in the order in which to try them. Does not wait beyond `until` (time.monotonic).

    Raises NotNow if there are none, or the system does not say in time.
    """
    try:
        return _ask(name, socket.AI_NUMERICHOST)
    except OSError:
        pass
    lookup = _lookup(name)
    if not lookup.done.wait(max(0.0, until - time.monotonic())):
        raise NotNow(f"the system has not resolved the name {name} in time: does its name server answer?")
    with _lock:
        if _lookups.get(name) is lookup:
            del _lookups[name]
    if not lookup.addresses:
        raise NotNow(f"the name {name} cannot be resolved ({lookup.error})")
    return lookup.addresses


def _lookup(name: str) -> _Lookup:
    with _lock:
        known = _lookups.get(name)
        if known is not None and not known.stale:
            return known
        lookup = _Lookup()
        try:
            threading.Thread(target=lookup.ask, args=(name,), name="resolve", daemon=True).start()
        except RuntimeError as error:  # no thread can be started
            raise NotNow(f"the name {name} cannot be resolved ({error})") from error
        _lookups[name] = lookup
        return lookup


def _ask(name: str, flags: int = 0) -> tuple[str, ...]:
    # As bytes, because Python would encode a string, and fails for some names.
    found = socket.getaddrinfo(name.encode(), None, type=socket.SOCK_STREAM, flags=flags)
    return tuple(dict.fromkeys(str(place[0]) for *_, place in found))[:_MAX_ADDRESSES]
