"""Commands after which a node continues: their effect survives a power cut, and half of it never looks whole."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.world import command, spawned
from tests.fake_lightningd import Call, run_without_plugin
from tests.powercut.blocks import ALL_LUCK, NO_LUCK, BlockLog, copy_sparsely, some_luck
from tests.powercut.cuts import Cut, Marks
from tests.powercut.disks import make_image
from tests.powercut.machine import BACKUP, NODE, DurableDatabase, Machine


def _cli(*words: object) -> None:
    done = spawned(*command(*words))
    assert done.code == 0, done


def _live(machine: Machine, calls: Sequence[Call]) -> None:
    with machine.node() as node:
        node.play(calls)


def _live_with_backup(machine: Machine, calls: Sequence[Call]) -> None:
    machine.init()
    _live(machine, calls)


def _live_without(machine: Machine, calls: Sequence[Call]) -> None:
    machine.directory.mkdir(exist_ok=True)
    run_without_plugin(machine.directory, calls, DurableDatabase)


def _fall_behind(machine: Machine, calls: Sequence[Call]) -> None:
    """Put an old copy in place of the node's database; the backup has the rest."""
    half = len(calls) // 2
    _live_with_backup(machine, calls[:half])
    old = machine.database.read_bytes()
    _live(machine, calls[half:])
    machine.database.write_bytes(old)


def _lose_node(machine: Machine, calls: Sequence[Call]) -> None:
    _live_with_backup(machine, calls)
    for path in machine.directory.iterdir():
        path.unlink()


def _get_ahead(machine: Machine, calls: Sequence[Call]) -> None:
    half = len(calls) // 2
    _live_with_backup(machine, calls[:half])
    _live_without(machine, calls[half:])


def _init(machine: Machine) -> None:
    _cli("init", "--lightning-dir", machine.directory, machine.url)


def _restore(machine: Machine) -> None:
    _cli("restore", "--resume", machine.url, machine.directory)


def _restore_in_place(machine: Machine) -> None:
    _cli("restore", "--resume", "--replace", machine.url, machine.directory)


def _resync(machine: Machine) -> None:
    _cli("resync", "--lightning-dir", machine.directory)


@dataclass(frozen=True, slots=True)
class Scenario:
    """How to bring a node into a state, and the command that is then given."""

    prepare: Callable[[Machine, Sequence[Call]], None]
    act: Callable[[Machine], None]


SCENARIOS = {
    "init": Scenario(_live_without, _init),
    "restore": Scenario(_lose_node, _restore),
    "restore --replace": Scenario(_fall_behind, _restore_in_place),
    "resync": Scenario(_get_ahead, _resync),
}


def record_command(root: Path, machine: Machine, recorder: Path, scenario: Scenario, calls: Sequence[Call]) -> BlockLog:
    """Give the command once, and record it; afterwards `root` holds images of the disks before it."""
    served = [root / f"disk-{number}" for number in (NODE, BACKUP)]
    for image, filesystem in zip(served, machine.filesystems, strict=True):
        make_image(image, filesystem)
    with machine.running_on(served):
        scenario.prepare(machine, calls)
    for number, image in enumerate(served):
        copy_sparsely(image, root / f"start-{number}")
    with machine.recorded_on(recorder, served, root / "log") as record:
        record.mark(begin="command")
        scenario.act(machine)
        record.mark(end="command")
    return BlockLog(root / "log")


def around_command(name: str, marks: Marks, count: int, chance: random.Random) -> Iterator[Cut]:
    """Cuts right after the command has returned, and `count` within it; after those a start may refuse."""
    (begin, _), (end, _) = marks
    for _ in range(count):
        luck = (some_luck(chance), chance.choice([ALL_LUCK, some_luck(chance)]))
        yield Cut(f"within {name}", chance.randrange(begin, end), luck, may_refuse=True)
    yield Cut(f"node, after {name}", end, (NO_LUCK, ALL_LUCK))
    yield Cut(f"both, after {name}", end, (NO_LUCK, NO_LUCK))
