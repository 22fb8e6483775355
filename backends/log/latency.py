"""How long a commit takes at a destination: measured in the backup's directory, by writing as the log will."""

import statistics
import time
from contextlib import closing

from backends.storage.base import TEMPORARY, Storage

_NAME = f"latency{TEMPORARY}"
_WRITES = 25
_SIZE = 330
"""Bytes of a median record."""


def measured_latency(storage: Storage) -> float:
    """Seconds that one durable write into preallocated space takes, the median of _WRITES. Leaves nothing behind."""
    took = []
    try:
        with closing(storage.create(_NAME)) as handle:
            handle.write(0, bytes(_WRITES * _SIZE))
            handle.sync()
            for number in range(_WRITES):
                began = time.perf_counter()
                handle.write_durably(number * _SIZE, b"x" * _SIZE)
                took.append(time.perf_counter() - began)
    finally:
        storage.remove(_NAME)
    return statistics.median(took)
