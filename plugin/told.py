"""What an experiment or a test sets instead of a constant, in the environment."""

import os


def number_told(name: str) -> int | None:
    """The number in this environment variable; None if there is none."""
    told = os.environ.get(name, "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 19 else None
