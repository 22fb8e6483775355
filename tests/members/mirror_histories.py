"""Histories of a node with several members, played by the code itself on simulated disks.

The members fail, hang, come back empty, old or damaged, and the power fails at any point. Whatever happened: each
acknowledged change is there at every start and in every restore that asked for no consent, each member in sync holds
all of them durably, and no member can be read that silently lacks some.
"""

import argparse
import random
import secrets
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.members.machines import Fault, Hangs
from tests.members.mirror_checks import look_now, readable_files
from tests.members.mirror_world import USUALLY, Encrypted, World
from tests.members.truth import Hopeless, Lost, NodeDied
from tests.storage.simulated import PowerCut, SimulatedStorage

STEPS = 45


def play(world: World, steps: int = STEPS) -> None:
    """A random history."""
    for _ in range(steps):
        protected(world, lambda: _step(world))
        if world.rng.random() < 0.2:
            look_now(world)
    finish(world)


def protected(world: World, act: Callable[[], object]) -> None:
    try:
        act()
    except NodeDied:
        world.killed()
    except Hangs:
        world.counts["ended by the watchdog"] += 1
        world.killed()
    except PowerCut:
        world.power_failed()


def _step(world: World) -> None:
    """Something happens."""
    actions = {**ANYTIME, **(STOPPED if world.running is None else RUNNING)}
    [action] = world.rng.choices(list(actions), list(actions.values()))
    action(world)


def _any(world: World) -> str:
    return world.rng.choice(world.names)


def _cut_soon(world: World) -> None:
    world.power.cut_at = world.power.points + world.rng.randint(1, 60)


def _start(world: World) -> None:
    for machine in world.machines.values():
        machine.heal()
    world.start([each for each in world.names if world.rng.random() < 0.8])


def _commit(world: World) -> None:
    for _ in range(world.rng.choice((1, 1, 2, 5))):
        world.commit()


def _fail_soon(world: World) -> None:
    world.machines[_any(world)].fail_after(world.rng.choice((1, 2, 3, 5, 8, 13)), world.rng.choice(list(Fault)))


def _die(world: World) -> None:
    raise NodeDied


def _unplug(world: World) -> None:
    world.machines[_any(world)].dead = True


def _catch_up(world: World) -> None:
    for name in world.names:
        world.catch_up(name)


ANYTIME: dict[Callable[[World], object], int] = {
    lambda world: world.lose(_any(world)): 4,
    lambda world: world.copy(_any(world)): 4,
    lambda world: world.reboot(_any(world)): 2,
    _cut_soon: 3,
}
STOPPED: dict[Callable[[World], object], int] = {_start: 87}
RUNNING: dict[Callable[[World], object], int] = {
    _commit: 32,
    World.maintain: 7,
    World.compact: 4,
    World.change_over: 3,
    _fail_soon: 8,
    _unplug: 2,
    lambda world: world.machines[_any(world)].heal(): 9,
    World.stop: 2,
    _die: 2,
    _catch_up: 21,
}
"""What may happen, and how often out of a hundred times."""


def cut_at_every_operation(
    life: Callable[[World], None], points: int, every: int, world_at: Callable[[str], World]
) -> None:
    """Live the life once for every so many of its `points`, each time with a power cut there. Raises Lost.

    `world_at` makes a world in the directory of that name.
    """
    for cut in range(1, points, every):
        world = world_at(str(cut))
        with world.playing():
            world.power.cut_at += world.power.points + cut
            protected(world, lambda world=world: life(world))  # type: ignore[misc]
            look_now(world)
            try:
                finish(world)
            except Lost as error:
                raise Lost(f"{life.__name__}, power cut at operation {cut} of {points}: {error}") from error


def finish(world: World) -> None:
    """Everything is repaired and connected. Then the node starts, and every member becomes whole."""
    world.power.cut_at = 0
    for machine in world.machines.values():
        machine.heal()
    world.calm = True
    for attempt in range(2):
        if not _start_with_all(world):
            return
        for _ in range(12):
            for name in world.names:
                protected(world, lambda name=name: world.catch_up(name))  # type: ignore[misc]
            protected(world, world.commit)
            protected(world, world.maintain)
        if world.running is not None:
            break
        if attempt and not world.truth.tainted:
            raise Lost("the node stops although nothing is wrong")
    if world.running is None:
        return
    missing = set(world.names) - world.running.mirror.in_sync.keys()
    if missing and not world.truth.tainted & world.running.mirror.in_sync.keys():
        raise Lost(f"{missing} did not join: {world.running.obstacles} {world.running.mirror.unfinished}")
    look_now(world)
    _check_nothing_is_readable(world)


def _check_nothing_is_readable(world: World) -> None:
    """Of a backup that is encrypted by now, wherever it is in sync."""
    if world.running is None or world.writer is None or world.writer.manifest.key is None:
        return
    world.counts["ended encrypted"] += 1
    for name in world.running.mirror.in_sync:
        left = readable_files(SimulatedStorage(world.machines[name].disk), world.plain_until)
        if left:
            raise Lost(f"everybody can read {left} at {name}")


def _start_with_all(world: World) -> bool:
    if world.running is None and world.start(world.names) == "refused":
        if not world.truth.tainted:
            raise Lost(f"the node does not start with every member: {world.why}")
        world.counts["ended refused"] += 1
        return False
    for machine in world.machines.values():
        machine.heal()
    return True


def history(seed: int, scratch: Path, encrypted: Encrypted = USUALLY) -> World:
    """The random history with this number."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3))
    world = World(
        scratch / f"history-{seed}", seed, count, rng.randint(1, count) if rng.random() < 0.3 else 1, encrypted
    )
    with world.playing():
        try:
            play(world)
        except Hopeless:
            world.counts["ended with damage only"] += 1
    return world


def main() -> int:
    """Play as many random histories as are asked for; the first that loses something ends it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    names = [each.name.lower() for each in Encrypted]
    parser.add_argument(
        "--encrypted", choices=names, default=USUALLY.name.lower(), help="whether the backup is encrypted"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30), help="the number of the first history")
    arguments = parser.parse_args()
    counts = Counter[str]()
    for number in range(arguments.seed, arguments.seed + arguments.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                counts += history(number, Path(scratch), Encrypted[arguments.encrypted.upper()]).counts
            except (Exception, Hangs, NodeDied):
                traceback.print_exc()
                again = f"make members ROUNDS=1 SEED={number} ENCRYPTED={arguments.encrypted}"
                print(f"history {number}; repeat it with: {again}")
                return 1
    print(f"{arguments.rounds} histories from {arguments.seed} on: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
