"""Points in time from files and servers: what no clock has shown is unknown, and stands in nobody's way."""

import time
from typing import Any

END_OF_TIME = 1 << 32
"""Seconds since 1970 (the year 2106) from which on no time is believed: a record cannot hold it."""

UNKNOWN_TIME = 0
"""A time that was not told, or that cannot be."""

UNKNOWN = "(time unknown)"


def believed(value: Any) -> int:
    """The time (whole seconds since 1970) that a file tells; UNKNOWN_TIME for anything that is none."""
    return value if type(value) is int and 0 < value < END_OF_TIME else UNKNOWN_TIME


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A point in time as a person reads it, local. Never raises: `time.localtime` does so for a large number."""
    return known_moment(seconds, form) or UNKNOWN


def known_moment(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str | None:
    """The same; None when the time is unknown."""
    if not UNKNOWN_TIME < seconds < END_OF_TIME:
        return None
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a system whose clock ends in 2038
        return None
