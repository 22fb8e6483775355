"""What can go wrong with a server, as errors that say whether trying again can help."""

import errno


class Disconnected(ConnectionError):
    """The connection is of no use any more, and what was asked for may have been done or not."""


class NotNow(ConnectionError):
    """This server cannot be used at the moment: it does not answer, is starting, or is a standby."""


class Unsafe(OSError):
    """This server could lose what it confirms. Trying again does not help; an administrator must change it."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EPERM, what)


class Lost(OSError):
    """A server that took over does not hold what was confirmed before."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EIO, what)


class MissingTable(FileNotFoundError):
    """The schema or its table does not exist, so there is no backup."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "the database has no table for backups in that schema")


_BROKEN = (
    "08",  # connection_exception
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "57P05",  # idle_session_timeout
    "57014",  # query_canceled, by an administrator
    "25006",  # read_only_sql_transaction: it has become a standby
    "40",  # transaction_rollback: deadlock_detected and others
    "55P03",  # lock_not_available
)

_MISSING = ("42P01", "3F000")


def of_state(state: str, text: str) -> OSError:
    """The error for what the server answered: its SQLSTATE and its message."""
    if state.startswith(_BROKEN):
        return Disconnected(f"the server said: {text}")
    if state in _MISSING:
        return MissingTable()
    if state == "42501":
        return PermissionError(errno.EACCES, f"the server does not permit it ({text})")
    if state in ("53100", "53400"):
        return OSError(errno.ENOSPC, f"the server's disk is full ({text})")
    return OSError(errno.EIO, f"the server refused it: {text} (SQLSTATE {state or 'unknown'})")
