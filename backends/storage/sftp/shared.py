"""The connections to a directory, shared by everything in this process that uses it.

A command makes several objects for one destination, and a login takes seconds on a small board, or over Tor.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from backends.storage.channel import Channel
from backends.storage.sftp.address import Address
from backends.storage.sftp.logins import Logins
from backends.storage.sftp.session import Session

_KEPT = 8
"""How many connections are kept although nothing uses them at the moment."""

_ATTEMPTS = 3
"""How often a commit is tried within its time, if the server does not answer: another server process may work."""

_FIRST_LOGIN = 30.0
"""Seconds to wait for a server that has never answered; over Tor, a login takes ten."""

_known: OrderedDict[Address, Channel[Session]] = OrderedDict()
_logins: dict[Address, Logins] = {}
"""What the server of each account has said to the last log-ins there."""

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Channels:
    """Two connections, each made when it is first used."""

    commits: Channel[Session]
    """For commits to one directory only, so that they wait for nothing else, and not for another member's commits."""
    rest: Channel[Session]
    """For everything else; it is shared by all directories of the account."""


def channels_to(address: Address) -> Channels:
    """The connections for the directory of this address."""
    with _lock:
        return Channels(_channel(address), _channel(replace(address, parent="", name="")))


def _channel(address: Address) -> Channel[Session]:
    channel = _known.pop(address, None)
    if channel is None:
        timeout = address.commit_timeout
        logins = _logins.setdefault(replace(address, parent="", name="", commit_timeout=0.0), Logins())
        channel = Channel(lambda until: Session(address, until, logins), timeout, timeout / _ATTEMPTS, _FIRST_LOGIN)
    _known[address] = channel
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return channel
