"""A second writer takes over from one at full speed: what either of them acknowledged must be in the backup.

    python -m tests.destinations.second_writer [3|4.1] [ROUNDS]       (as root; needs NFS-Ganesha)

Each has its own Backup object and its own connections, as two machines would; the second one comes at a random moment,
in every way in which a second writer comes to a backup.
"""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import apsw

from backends import place_at
from backends.compaction.compact import compact_log
from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from tests.destinations.places import Places
from tests.fake_lightningd.calls import History, fresh_schema
from tests.log.histories import change, database, noise, silent, source
from tests.log.model import contents

Open = Callable[[], Backup]

SMALL_SEGMENTS = replace(DEFAULT_OPTIONS, segment_size=32 << 10)
"""So small that a writer constantly moves to its next segment."""

GOES_ON = 40
"""How many changes the first writer tries after it was replaced, and how many the second one makes."""


@dataclass(slots=True)
class Tally:
    """The results of some rounds."""

    rounds: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """The errors with which the second writer failed to open."""
    never_stopped: int = 0
    """How many first writers were not refused soon."""
    damaged: str = ""
    """What is wrong with the backup if the two have destroyed it; that ends the rounds."""

    def __str__(self) -> str:
        refused = "; ".join(sorted(set(self.refused)))
        return (
            f"{self.rounds} rounds, {self.acknowledged} changes acknowledged, {len(self.lost)} of them lost, "
            f"{self.never_stopped} writers not refused, "
            f"damage: {self.damaged or 'none'}, {len(self.refused)} second writers refused{refused and ': '}{refused}"
        )


class Stream:
    """A writer that commits as fast as it can until it is refused, with a maintenance thread beside it."""

    def __init__(self, open_: Open, name: str) -> None:
        self.writer, self._name = open_().open(silent, name), name
        self.acknowledged: list[str] = []
        self.error: BaseException | None = None
        self.most = 1 << 30
        """After this many acknowledged changes it stops by itself."""
        self._history = History(self.writer.position.data_version)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._write, self._maintain)]

    def start(self) -> "Stream":
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def join(self) -> None:
        """Wait until both threads have ended."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs"

    def _write(self) -> None:
        try:
            while len(self.acknowledged) < self.most:
                text = f"{self._name} {len(self.acknowledged)} "
                large = 20_000 if random.random() < 0.05 else 100
                self.writer.append(change(self._history.note(text + noise(large, len(self.acknowledged)))))
                self.acknowledged.append(text)
        except BackupError as error:
            self.error = error

    def _maintain(self) -> None:
        while self._threads[0].is_alive():
            self.writer.maintain()
            time.sleep(0.01)


def by_another_node(open_: Open, name: str, _: Path) -> list[str]:
    """A node with a copy of the directory continues the backup. Returns what was acknowledged to it."""
    second = Stream(open_, name)
    second.most = GOES_ON
    second.start().join()
    assert second.error is None, second.error
    second.writer.close()
    return second.acknowledged


def by_compaction(open_: Open, name: str, scratch: Path) -> list[str]:
    """A compaction that believes the node to be stopped."""
    backup = open_()
    writer = backup.open(silent)
    compacted = compact_log(backup.storage, scratch)
    if compacted is not None:
        writer.publish_compaction(compacted)
    writer.close()
    return []


def by_starts(open_: Open, name: str, _: Path) -> list[str]:
    """A node that starts three times, and commits nothing."""
    for number in range(3):
        open_().open(silent, f"{name} {number}").close()
    return []


WAYS = (by_another_node, by_compaction, by_starts)


def disturb(open_: Open, scratch: Path, rounds: int, seed: int) -> Tally:
    """Play rounds in which a second writer replaces a first one; `open_` opens a new backup. Returns the results."""
    tally, expected, choice = Tally(), list[str](), random.Random(seed)
    for number in range(rounds):
        first = Stream(open_, f"first {seed} {number}").start()
        time.sleep(choice.uniform(0, 0.15))
        way = choice.choice(WAYS)
        came = True
        try:
            expected_of_second = way(open_, f"second {seed} {number}", scratch)
        except BackupError as error:
            tally.refused.append(f"{way.__name__}: {error}")
            came, expected_of_second = False, []
        first.most = len(first.acknowledged) + GOES_ON
        first.join()
        tally.never_stopped += came and first.error is None
        expected += first.acknowledged + expected_of_second
        tally.rounds += 1
        tally.acknowledged += len(first.acknowledged) + len(expected_of_second)
        try:
            there = notes(open_())
        except Damaged as error:
            tally.damaged = str(error)
            tally.lost += expected
            break
        missing = [text for text in expected if text not in there]
        tally.lost += missing
        expected = [text for text in expected if text in there]
    return tally


def notes(backup: Backup) -> set[str]:
    """The beginning of every row that a restore would bring back; everything read is checked and replayed."""
    found = contents(backup)
    with closing(apsw.Connection(":memory:")) as connection:
        if found.snapshot:
            connection.deserialize("main", found.snapshot)
        for _, statements in found.changes:
            for statement in statements:
                connection.execute(statement)
        rows = connection.execute("SELECT val FROM vars WHERE name LIKE 'note %'")
        return {" ".join(str(value).split(" ")[:4]) + " " for (value,) in rows}


def created(open_: Open) -> Open:
    """Create a backup of a node at version 1 there; returns `open_`."""
    open_().create(source(database((change(fresh_schema()),)), 1))
    return open_


def main() -> None:
    """Rounds over NFS-Ganesha, 20 on each backup."""
    version, rounds = (sys.argv[1:2] or ["4.1"])[0], int((sys.argv[2:3] or ["200"])[0])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = Places(directory, stack)
        for done in range(0, rounds, 20):
            open_ = opener(places.url("nfs3" if version == "3" else "nfs41"), SMALL_SEGMENTS)
            print(done, disturb(created(open_), directory, min(20, rounds - done), done), flush=True)


def opener(url: str, options: LogOptions = DEFAULT_OPTIONS) -> Open:
    """A function that returns the backup at this URL, as another process would see it."""
    return lambda: Backup(place_at(url), options)


if __name__ == "__main__":
    main()
