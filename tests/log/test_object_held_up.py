"""A writer in an object store that is held up between any two of its requests, for as long as another one needs to take
the backup over, to acknowledge changes and to do the slow things, too: what either has acknowledged stays."""

from collections.abc import Callable

import pytest

from tests.log.histories import backup_in, silent
from tests.log.test_object_histories import OPTIONS, Machine, Town, small_pieces  # noqa: F401 (a fixture for all tests here)
from tests.storage.simulated_objects import Fault


class HeldUp(Machine):
    """A machine that is held up before one of its requests: `pause` is called there."""

    def __init__(self, town: Town, name: str) -> None:
        super().__init__(town, name, faults=False)
        self.left = -1
        self.pause: Callable[[], None] = lambda: None

    def take_over(self) -> None:
        """It may return an old position, if it was held up afterwards: then it is fenced at its first change."""
        with self.alive():
            self.writer = backup_in(self.storage, OPTIONS).open(silent, self.name)

    def _fault(self, kind: str, key: str) -> Fault:
        self.left -= 1
        if self.left == 0:
            self.pause()
        return Fault.NONE


def _appends(machine: Machine, count: int) -> None:
    for _ in range(count):
        machine.append()
        machine.maintain()


DOES: dict[str, Callable[[Machine], None]] = {
    "opens": lambda machine: machine.take_over(),
    "appends": lambda machine: _appends(machine, 6),
    "snapshot": lambda machine: machine.snapshot(),
    "closes": lambda machine: machine.close(),
}


@pytest.mark.parametrize("rival_snapshots", [False, True])
@pytest.mark.parametrize("what", DOES)
def test_writer_held_up_at_any_request_undoes_nothing_of_the_next_one(what: str, rival_snapshots: bool) -> None:
    requests = 0
    for requests in range(1, 400):
        town = Town(requests)
        before = HeldUp(town, "before")
        before.take_over()
        _appends(before, 3)
        held_up, rival = HeldUp(town, "held up"), HeldUp(town, "rival")
        town.machines.append(rival)
        if what != "opens":
            held_up.take_over()
            _appends(held_up, 2)

        def take_over(rival: HeldUp = rival) -> None:
            rival.take_over()
            _appends(rival, 3)
            if rival_snapshots:
                rival.snapshot()
                _appends(rival, 2)

        held_up.left, held_up.pause = requests, take_over
        DOES[what](held_up)
        paused = held_up.left <= 0
        town.check()
        _appends(rival, 2)
        _appends(held_up, 2)
        town.check()
        if not paused:
            break
    assert 2 <= requests < 399
