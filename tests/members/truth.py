"""What really happened in a history of members, and what a member holds according to its files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from backends.compaction.compact import _place
from backends.log.format.documents import Base
from backends.log.reader.opening import open_generation
from backends.log.writer.compacted import BY, CompactedSnapshot
from backends.log.writer.snapshot import next_generation, write_snapshot
from backends.members.newest import SeenMember
from backends.storage.base import Storage
from tests.log.conftest import SMALL
from tests.log.histories import backup_in
from tests.log.model import contents

OPTIONS = replace(SMALL, segment_size=1500, preallocate_min=400, preallocate_max=800, max_file=3000)
"""Every few changes fill a segment."""

Ids = tuple[int, ...]


class Lost(AssertionError):
    """What must never happen."""


class Hopeless(Exception):
    """The only members that are here are damaged in a way that nobody sees without reading them completely."""


class NodeDied(BaseException):
    """lightningd has stopped, because a change could not be saved."""


def ids_in(storage: Storage) -> Ids:
    """The changes that a restore from here alone would bring back."""
    found = contents(backup_in(storage))
    return (*json.loads(found.snapshot), *(int(change[1][0].split()[1]) for change in found.changes))


def compaction(storage: Storage, leave_out: int) -> CompactedSnapshot | None:
    """What backends/compaction makes, without a database: the snapshot lists the changes."""
    with open_generation(storage) as reader:
        manifest, place = reader.manifest, _place(reader, leave_out)
    if place is None:
        return None
    ids = ids_in(storage)[: place.sequence]
    number = next_generation(storage, manifest.generation)
    pieces = [json.dumps(ids).encode()]
    base = Base(place.sequence, place.sequence, place.checksum, True)
    written = write_snapshot(storage, manifest.snapshot_header(number), base, pieces, OPTIONS, by=BY)
    return CompactedSnapshot(manifest.generation, number, written, base, place.next_segment)


def ask_all(
    questions: Mapping[str, Callable[[], SeenMember]], within: float
) -> tuple[dict[str, SeenMember], dict[str, BaseException | None]]:
    """What `ask_all` of backends/members/survey.py does, without threads."""
    answers: dict[str, SeenMember] = {}
    failures: dict[str, BaseException | None] = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except Exception as error:
            failures[name] = error
    return answers, failures


@dataclass
class Truth:
    """What really happened."""

    acknowledged: Ids = ()
    flying: int | None = None
    """The change that was begun and neither acknowledged nor given up."""
    after: dict[int, int] = field(default_factory=dict)
    """For each change the one before it."""
    tainted: set[str] = field(default_factory=set)
    """The members whose disks were lost, set back or damaged since they joined: nothing is promised for them."""

    def begin(self, number: int) -> None:
        self.flying = number
        self.after[number] = self.acknowledged[-1] if self.acknowledged else 0

    def acknowledge(self) -> None:
        assert self.flying is not None
        self.acknowledged, self.flying = (*self.acknowledged, self.flying), None

    def holds_all(self, ids: Ids) -> bool:
        return ids == self.acknowledged or (self.flying is not None and ids == (*self.acknowledged, self.flying))

    def happened(self, ids: Ids) -> bool:
        return all(self.after[number] == before for before, number in zip((0, *ids), ids, strict=False))
