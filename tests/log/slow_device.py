"""A disk with one queue and a node that commits to it, in simulated time: what yielding does for commits, exactly.

Nothing here depends on the machine, so a test may look at percentiles.
"""

import heapq
from collections.abc import Callable
from itertools import count

from backends.log.writer.pace import Pace
from backends.log.writer.paced import PacedFile
from backends.storage.base import WriteHandle
from backends.system.commits import Commits

RECORD = 500


class SlowDevice:
    """Does one thing after the other, in the order in which it was asked to."""

    def __init__(self, bandwidth: float = 15e6, flush: float = 0.005) -> None:
        self.bandwidth, self.flush = bandwidth, flush
        self.now = 1.0
        self._free_at = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def clock(self) -> float:
        return self.now

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), what))

    def takes(self, seconds: float) -> float:
        """When the device has done something that takes so long, if it is asked now."""
        self._free_at = max(self.now, self._free_at) + seconds
        return self._free_at

    def run_until(self, when: float) -> None:
        while self._events and self._events[0][0] <= when:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = when

    def sleep(self, seconds: float) -> None:
        self.run_until(self.now + seconds)


class Node:
    """Commits again and again, with a pause (given by `think`) after each, until `stopped`."""

    def __init__(self, device: SlowDevice, think: Callable[[], float], record: int = RECORD) -> None:
        self.device, self._think, self._record = device, think, record
        self.commits = Commits(lambda: int(device.now * 1e9))
        self.took: list[float] = []
        self.stopped = False
        self._log_end = 0
        device.at(device.now, self._begin)

    def _begin(self) -> None:
        if not self.stopped:
            self._began = self.device.now
            self.commits.begin()
            self.device.at(self.device.takes(0.0005), self._written)

    def _written(self) -> None:
        self.device.at(self.device.takes(self.device.flush), self._flushed)

    def _flushed(self) -> None:
        self.took.append(self.device.now - self._began)
        self._log_end += self._record
        self.commits.end(self._log_end)
        self.device.at(self.device.now + self._think(), self._begin)


class SlowHandle(WriteHandle):
    """A file on the device; `able` says whether its bytes can be written out without a flush."""

    def __init__(self, device: SlowDevice, *, able: bool = True) -> None:
        self._device, self._able = device, able
        self._end = self._out = 0
        self.syncs = 0

    def write(self, offset: int, data: bytes) -> None:
        self._end = offset + len(data)

    def write_durably(self, offset: int, data: bytes) -> None:
        raise AssertionError("no snapshot is written so")

    def write_out(self, offset: int, length: int) -> bool:
        if self._able:
            assert offset == self._out, "not one portion after the other"
            self._out += length
            self._device.run_until(self._device.takes(length / self._device.bandwidth))
        return self._able

    def extend(self, offset: int, length: int) -> None:
        raise AssertionError("no snapshot is extended")

    def sync(self) -> None:
        """A changed size goes through the filesystem's journal: two flushes."""
        self.syncs += 1
        written, self._out = self._end - self._out, self._end
        self._device.run_until(self._device.takes(written / self._device.bandwidth))
        self._device.run_until(self._device.takes(2 * self._device.flush))

    def truncate(self, size: int) -> None:
        raise AssertionError("no snapshot is cut")

    def close(self) -> None:
        pass


def write_beside(node: Node, size: int, *, able: bool = True, paced: bool = True) -> tuple[float, Pace | None]:
    """Write a snapshot of `size` bytes beside the node; returns the seconds that took, and its pace."""
    device = node.device
    pace = Pace(node.commits, clock=device.clock, sleep=device.sleep) if paced else None
    file = PacedFile(SlowHandle(device, able=able), 4 << 20, pace)
    began = device.now
    while file.end < size:
        device.sleep(0.001)  # reading and compressing it
        file.write(bytes(200_000))
    file.sync()
    return device.now - began, pace
