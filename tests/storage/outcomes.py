"""What power cuts may leave on a simulated disk."""

import random

from tests.storage.simulated import SimulatedDisk, SimulatedStorage

SEEDS = range(200)


def files(disk: SimulatedDisk) -> dict[str, bytes]:
    storage = SimulatedStorage(disk)
    return {name: storage.read_small(name) for name in storage.names()} if storage.exists() else {}


def outcomes(disk: SimulatedDisk) -> list[dict[str, bytes]]:
    """The files that each of many power cuts at this moment leaves."""
    return [files(disk.crash(random.Random(seed))) for seed in SEEDS]
