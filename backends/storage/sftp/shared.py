"""The connections to an account, shared by everything in this process that uses it.

A command makes several objects for one destination, and a login takes seconds on a small board, or over Tor.
"""

import threading
from collections import OrderedDict
from dataclasses import replace

from backends.storage.channel import Channel
from backends.storage.sftp.address import Address
from backends.storage.sftp.session import Session

_KEPT = 4
"""How many accounts keep their connections although nothing uses them at the moment."""

_ATTEMPTS = 3
"""How often a commit is tried within its time, if the server does not answer: another server process may work."""

_FIRST_LOGIN = 30.0
"""Seconds to wait for a server that has never answered; over Tor, a login takes ten."""

_known: OrderedDict[Address, "Channels"] = OrderedDict()
_lock = threading.Lock()


class Channels:
    """Two connections, each made when it is first used: one for commits only, so that they wait for nothing else."""

    def __init__(self, address: Address) -> None:
        self.commits, self.rest = _channel(address), _channel(address)


def channels_to(address: Address) -> Channels:
    """The connections to the account of this address."""
    account = replace(address, parent="", name="")
    with _lock:
        found = _known.pop(account, None) or Channels(account)
        _known[account] = found
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return found


def _channel(address: Address) -> Channel[Session]:
    timeout = address.commit_timeout
    return Channel(lambda until: Session(address, until), timeout, timeout / _ATTEMPTS, _FIRST_LOGIN)
