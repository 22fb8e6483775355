"""When the power fails, and for which disks."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.powercut.blocks import ALL_LUCK, NO_LUCK, BlockLog, DiskAtCut, Luck, some_luck
from tests.powercut.machine import BACKUP, NODE

Marks = Sequence[tuple[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails at this position of the record; `luck` is that of the node's disk and of the backup's.

    `may_refuse`: the cut interrupted a person's command, which the person will repeat.
    """

    kind: str
    position: int
    luck: tuple[Luck, Luck]
    may_refuse: bool = False

    def __str__(self) -> str:
        return f"{self.kind} at {self.position} (of what was not flushed: {self.luck[NODE]}, {self.luck[BACKUP]})"


class AtCuts:
    """The disks of a record in `root` at one cut after another; `images` are files with what they may hold."""

    def __init__(self, log: BlockLog, root: Path, chance: random.Random) -> None:
        self._chance = chance
        numbers = (NODE, BACKUP)
        self._disks = [DiskAtCut(log, each, root / f"start-{each}", root / f"at-{each}") for each in numbers]
        self.images = [root / f"cut-{number}" for number in numbers]

    def write(self, cut: Cut) -> None:
        """Write the images for this cut."""
        for disk, image, luck in zip(self._disks, self.images, cut.luck, strict=True):
            disk.write(cut.position, image, luck, self._chance)


AFTER_COMMIT = "node, after COMMIT"
BEFORE_COMMIT = "node, between answer and COMMIT"
IN_COMMIT = "node, within COMMIT"
NODE_ANYWHERE = "node, anywhere"
BACKUP_ANYWHERE = "backup, anywhere"
BOTH_AFTER_COMMIT = "both, after COMMIT"
BOTH_ANYWHERE = "both, anywhere"
IN_START = "node, within the next start"
BOTH_IN_START = "both, within the next start"

NAMED = (AFTER_COMMIT, BEFORE_COMMIT)
"""The moments at which a disk loses as much as it can."""


def at_each_call(marks: Marks, every: int) -> Iterator[Cut]:
    """Cuts at the worst moments of one call in `every`, and of the first calls after anything that is not a call.

    The node's disk has lost everything that was not flushed, and the backup has lost nothing.
    """
    first = 0
    for position, what in marks:
        if "end" in what or "begin" in what:
            first = 2
        for name, kind in (("answered", BEFORE_COMMIT), ("committed", AFTER_COMMIT)):
            if name in what and (first > 0 or what[name] % every == 0):
                yield Cut(kind, position, (NO_LUCK, ALL_LUCK))
        first -= "committed" in what


def at_random(marks: Marks, count: int, chance: random.Random) -> Iterator[Cut]:
    """`count` cuts of each kind: within a COMMIT; anywhere, for the node, for the backup, for both."""
    committing = list(_between_answer_and_commit(marks))
    for _ in range(count):
        begin, end = chance.choice(committing)
        yield Cut(IN_COMMIT, chance.randint(begin, end), (some_luck(chance), ALL_LUCK))
        yield Cut(NODE_ANYWHERE, anywhere(marks, chance), (some_luck(chance), ALL_LUCK))
        yield Cut(BACKUP_ANYWHERE, anywhere(marks, chance), (ALL_LUCK, some_luck(chance)))
        yield Cut(BOTH_ANYWHERE, anywhere(marks, chance), (some_luck(chance), some_luck(chance)))
        position = chance.choice([at for at, what in marks if "committed" in what])
        yield Cut(BOTH_AFTER_COMMIT, position, (NO_LUCK, NO_LUCK))


def _between_answer_and_commit(marks: Marks) -> Iterator[tuple[int, int]]:
    for (begin, what), (end, following) in pairwise(marks):
        if "answered" in what and "committed" in following:
            yield begin, end


def anywhere(marks: Marks, chance: random.Random) -> int:
    """A random position: half of them where something other than a call happens, which is rare in a long record."""
    first, last = marks[0][0], marks[-1][0]
    if chance.random() < 0.5:
        return chance.randint(first, last)
    begins = [(at, what["begin"]) for at, what in marks if "begin" in what]
    begin, name = chance.choice(begins)
    end = next(at for at, what in marks if at > begin and what.get("end") == name)
    soon_after = [at for at, what in marks if at > end and "committed" in what][:2]
    return chance.randint(begin, (soon_after or [end])[-1])


def in_start(log: BlockLog, marks: Marks, count: int, chance: random.Random) -> Iterator[Cut]:
    """`count` cuts of the record of a start, up to the first change that the node then makes."""
    end = next((at for at, what in marks if "asked" in what), len(log.entries))
    for _ in range(count):
        position, luck = chance.randint(0, end), some_luck(chance)
        if chance.random() < 0.7:
            yield Cut(IN_START, position, (luck, ALL_LUCK))
        else:
            yield Cut(BOTH_IN_START, position, (luck, some_luck(chance)))


Known = tuple[int, int]
"""How many calls were answered, and how many were asked: the last one may be saved without an answer."""


def known_at(marks: Marks, position: int) -> Known:
    """What was known when the power failed at this position."""
    known = {"answered": 0, "asked": 0}
    for at, what in marks:
        if at > position:
            break
        known |= {name: value for name, value in what.items() if name in known}
    return known["answered"], known["asked"]
