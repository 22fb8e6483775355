"""How long a commit takes at a destination: measured where and as the log will write."""

import statistics
import time
from contextlib import closing

from backends.storage.base import TEMPORARY, Storage

_NAME = f"latency{TEMPORARY}"
_WRITES = 25
_SIZE = 330
"""Bytes of a median record."""


def measured_latency(storage: Storage) -> float:
    """Seconds of one durable write into room laid ahead, the median of a few. Leaves nothing behind."""
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
