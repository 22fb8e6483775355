"""The recorded run: a node's calls, and the other things that happen in a node's life.

Marks in the record say what was known at each moment: `asked`, `answered` and `committed` with the number of calls so
far, and `begin` and `end` with the name of each other event.
"""

import time
from collections.abc import Callable, Sequence

from tests.fake_lightningd import Call, committed_version
from tests.powercut.disks import Recorder
from tests.powercut.machine import Machine

IDLE_FOR = 2.8
"""Seconds of rest after which the plugin has noted in the node's directory that the database is current."""


class Life:
    """One node from its first call to its last; a dozen calls at least."""

    def __init__(self, machine: Machine, recorder: Recorder, calls: Sequence[Call], rest: float = IDLE_FOR) -> None:
        """`rest` is how long the node rests, in seconds."""
        self._machine, self._recorder, self._calls, self._seconds = machine, recorder, calls, rest
        self._node = machine.node()
        self._done = 0

    def live(self) -> None:
        """Live the whole life. The events come at fixed fractions of it, so that a short life has all of them."""
        try:
            self._live()
        finally:
            self._node.die()  # also after an error: the disks are about to go

    def _live(self) -> None:
        count = len(self._calls)
        self._start()
        for part, event in self._events():
            self._play(max(int(part * count), self._done + 1))
            self._mark(begin=event.__name__.strip("_"))
            event()
            self._mark(end=event.__name__.strip("_"))
        self._play(count)
        self._stop()
        self._mark(end="life")

    def _events(self) -> list[tuple[float, Callable[[], None]]]:
        return [
            (0.20, self._rest),
            (0.35, self._stop_and_start),
            (0.50, self._die),
            (0.65, self._die_before_commit),
            (0.80, self._compact),
        ]

    def _mark(self, **what: object) -> None:
        self._recorder.mark(**what)

    def _play(self, until: int) -> None:
        while self._done < until:
            self._ask()
            self._commit()

    def _ask(self) -> None:
        call = self._calls[self._done]
        self._node.execute(call)
        self._mark(asked=self._done + 1)
        self._node.ask(call)
        self._mark(answered=self._done + 1)

    def _commit(self) -> None:
        self._node.commit()
        self._done += 1
        self._mark(committed=self._done)

    # Events

    def _start(self) -> None:
        self._node = self._machine.node()
        self._node.start()

    def _stop(self) -> None:
        assert self._node.stop() == 0

    def _rest(self) -> None:
        time.sleep(self._seconds)

    def _stop_and_start(self) -> None:
        self._stop()
        self._start()

    def _die(self) -> None:
        self._node.die()
        self._start()

    def _die_before_commit(self) -> None:
        """kill -9 when the backup has a change that the database lacks: the next start must resolve that."""
        self._ask()
        self._node.die()
        self._start()
        if committed_version(self._machine.directory) == self._calls[self._done].data_version:
            self._done += 1

    def _compact(self) -> None:
        if not self._node.initialised:
            self._node.init()
        assert self._node.rpc("backup-compact")["started"]
        ends = ("compaction ended", "there is nothing to compact")
        ended = self._node.wire.listen(30, lambda: any(end in text for _, text in self._node.logs for end in ends))
        assert ended, self._node.logs
