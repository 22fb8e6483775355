"""Points in time from files and servers, and spans of time in words.

An impossible time counts as unknown and never causes an error.
"""

import time
from typing import Any

from backends.text import counted

END_OF_TIME = 1 << 32
"""Seconds since 1970 (the year 2106). This time and any later one are not believed: a record cannot hold them."""

UNKNOWN_TIME = 0
"""A time that is missing or impossible."""

UNKNOWN = "(time unknown)"


def believed(value: Any) -> int:
    """The time (whole seconds since 1970) that a file gives; UNKNOWN_TIME if `value` is not a possible time."""
    return value if type(value) is int and 0 < value < END_OF_TIME else UNKNOWN_TIME


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A point in time in local time, for a person to read; UNKNOWN if there is none.

    Never raises, although `time.localtime` does for a large number.
    """
    return known_moment(seconds, form) or UNKNOWN


def known_moment(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str | None:
    """A point in time in local time, for a person to read; None if it is unknown."""
    if not UNKNOWN_TIME < seconds < END_OF_TIME:
        return None
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a system whose time_t ends in 2038
        return None


def age(seconds: float) -> str:
    """A span of time in words, in the largest unit that fits."""
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(max(seconds, 0)), "second")
