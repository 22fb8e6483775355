"""How long a commit may wait for its destination before the node is stopped instead of frozen."""

from backends.urls import BadURL, Destination

DEFAULT_COMMIT_TIMEOUT = 120.0
"""Seconds. If a node hangs for several minutes, its peers force-close channels."""

_MIN, _MAX = 5, 3600


def commit_timeout_of(destination: Destination) -> float:
    """Seconds that a commit may wait, as the URL's `?timeout=` says. Raises BadURL."""
    value = destination.option("timeout", "")
    if not value:
        return DEFAULT_COMMIT_TIMEOUT
    if not (value.isascii() and value.isdigit() and len(value) <= 100):  # `int` refuses 5000 digits
        raise BadURL(f"{destination.shown}: timeout={value} is not a number of seconds")
    if not _MIN <= int(value) <= _MAX:
        raise BadURL(
            f"{destination.shown}: timeout={value} is not between {_MIN} and {_MAX} seconds: less would stop the node "
            "at the first hiccup, more would let it hang until its channels are closed"
        )
    return float(value)
