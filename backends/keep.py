"""How long, and how much, of the history a backup keeps: the URL's `?keep=30d` or `?keep=30d,10G`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from backends.urls import KEEP, BadURL, Destination, parse_url

DEFAULT_BYTES = 10 << 30
"""Bytes that kept generations may take if the URL names no size."""

MAX_SECONDS = 100 * 366 * 86400
MAX_BYTES = 1 << 50

_TIME = {"h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_VALUE = re.compile(r"([0-9]{1,9})([hdw])(?:,([0-9]{1,9})([MGT]))?")


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many seconds replaced generations are kept, and how many bytes they may take; NOTHING keeps none."""

    seconds: int
    bytes: int


NOTHING = Keep(0, 0)


def keep_of(destination: Destination) -> Keep | None:
    """What the URL says; None if it says nothing: then it stays as it is noted in the backup. Raises BadURL."""
    value = destination.option(KEEP, "")
    if not value:
        return None
    if value == "0":
        return NOTHING
    found = _VALUE.fullmatch(value)
    if found is None:
        raise BadURL(
            f"{destination.shown}: {KEEP}={value} is not a time; write it like {KEEP}=30d, or with the most space "
            f"that it may take, {KEEP}=30d,10G (h, d or w; M, G or T), or {KEEP}=0 to keep nothing any more"
        )
    count, unit, space, space_unit = found.groups()
    kept = Keep(int(count) * _TIME[unit], int(space) * _SIZE[space_unit] if space else DEFAULT_BYTES)
    if not (0 < kept.seconds <= MAX_SECONDS and 0 < kept.bytes <= MAX_BYTES):
        raise BadURL(f"{destination.shown}: {KEEP}={value} is out of range; to keep nothing, write {KEEP}=0")
    return kept


def without_keep(destination: Destination) -> Destination:
    """The destination for a place, which knows nothing of this option. Raises BadURL for a bad value."""
    keep_of(destination)
    return replace(destination, options=tuple(each for each in destination.options if each[0] != KEEP))


def keep_of_all(urls: Iterable[str]) -> Keep | None:
    """What the URLs of several members say together, since all hold the same files: the longest time that one of them
    says, and the least space of those that say that time. Raises BadURL."""
    said = [each for url in urls if (each := keep_of(parse_url(url))) is not None]
    return max(said, key=lambda each: (each.seconds, -each.bytes), default=None)
