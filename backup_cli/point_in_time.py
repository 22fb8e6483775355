"""Points in time as a person types them: a date with a time, or how long ago."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from backends.times import END_OF_TIME, UNKNOWN_TIME

EXAMPLES = "2026-11-26 14:30, 2026-11-26T14:30:00Z, or 2h (two hours ago; s, m, h, d and w)"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_AGO = re.compile(r"(\d{1,9})\s*([smhdw])(?:\s+ago)?", re.ASCII)

_DATE = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)(?:\s*(?:(Z|UTC)|([+-]\d{2}):?(\d{2})?))?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PointInTime:
    """A point in time, in whole seconds since 1970, and how it is told to people: with its zone."""

    seconds: int
    shown: str


def parse_time(text: str) -> PointInTime:
    """The point in time that `text` means, by this machine's clock if it is relative, and in this machine's time zone
    if it names none. Raises ValueError."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return _told(int(time.time()) - int(ago[1]) * _UNITS[ago[2]])
    date = _DATE.fullmatch(text.strip())
    if date is None:
        raise ValueError("it is not a time")
    day, clock, utc, hours, minutes = date.groups()
    zone = "+00:00" if utc else "" if hours is None else f"{hours}:{minutes or '00'}"
    whole, _, _ = (clock or "00:00").partition(".")
    return _told(int(datetime.fromisoformat(f"{day}T{whole}{zone}").timestamp()))


def _told(seconds: int) -> PointInTime:
    if not UNKNOWN_TIME < seconds < END_OF_TIME:
        raise ValueError("no backup is from that time")
    local = datetime.fromtimestamp(seconds).astimezone()
    return PointInTime(seconds, f"{local:%Y-%m-%d %H:%M:%S %z} (this machine's time zone)")


if TYPE_CHECKING:
    _Parameter = click.ParamType[PointInTime]
else:
    _Parameter = click.ParamType  # has no parameter of its own in click 8.2


class TimeParameter(_Parameter):
    """An option whose value is a point in time."""

    name = "time"

    def convert(
        self, value: str | PointInTime, param: click.Parameter | None, ctx: click.Context | None
    ) -> PointInTime:
        """Ends the command with a usage error if `value` is not a point in time."""
        if isinstance(value, PointInTime):
            return value
        try:
            return parse_time(value)
        except (ValueError, OverflowError, OSError) as error:
            self.fail(f"{value!r}: {error}; write it like {EXAMPLES}", param, ctx)
