"""Compaction: the history is folded into a new snapshot, beside a writer that goes on.

The last change stays out: it may still turn out not to have been committed. What is folded is read, replayed and
checked like a restore; publishing the result is the writer's, by one rename.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.database.rebuild import BytesDone, rebuild
from backends.database.taking import file_pieces, scratch_directory
from backends.errors import BackupError
from backends.log.documents import Base
from backends.log.format import RecordKind
from backends.log.generation import Generation, open_generation
from backends.log.snapshot import write_snapshot
from backends.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Folded:
    """A snapshot that waits under its temporary name `written` to be published as `generation`."""

    generation: int
    written: str
    base: Base
    first_segment: int

    def encode(self) -> str:
        """As JSON: the process that folded hands it to the writer's."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Folded":
        """The inverse. Raises ValueError, KeyError or TypeError for anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "base": Base(**fields["base"])})


@dataclass(frozen=True, slots=True)
class _Place:
    """A record's place in the log: where the new generation's snapshot could stand."""

    sequence: int
    checksum: int
    next_segment: int  # the segment that holds the record after it


def fold(storage: Storage, scratch: Path, progress: BytesDone | None = None) -> Folded | None:
    """Write the snapshot of a new generation; None when there is nothing to fold.

    A copy of the database lies in `scratch` meanwhile. Raises BackupError (Damaged, ReplayFailed, or when the writer
    began another generation meanwhile) and OSError from the storage.
    """
    with open_generation(storage) as generation:
        begun = generation.manifest
        place = _last_but_one(generation)
    if place is None:
        return None
    with scratch_directory(scratch) as directory, open_generation(storage) as generation:
        if generation.manifest != begun:
            raise BackupError("the compaction was overtaken by a new snapshot; it begins anew when it is needed")
        database = directory / "folded.sqlite3"
        rebuilt = rebuild(generation, database, progress, take=lambda change: change.sequence <= place.sequence)
        manifest = generation.manifest
        written = write_snapshot(
            storage,
            manifest.backup_id,
            manifest.generation + 1,
            rebuilt.data_version,
            file_pieces(database),
            by="-compaction",
        )
    base = Base(place.sequence, rebuilt.data_version, place.checksum, rebuilt.foreign_keys)
    return Folded(manifest.generation + 1, written, base, place.next_segment)


def _last_but_one(generation: Generation) -> _Place | None:
    """The last place that leaves the last change out, and does not part a change from its rewind."""
    base = generation.manifest.base
    places: list[_Place] = []  # the last few
    before: tuple[int, int] | None = None  # sequence and checksum
    rewound = False
    for index, header in generation.headers():
        if before is not None:
            places = [*places[-2:], _Place(*before, index)]
        before = (header.sequence, header.checksum)
        rewound = header.kind == RecordKind.REWIND
    if rewound:  # [..., change, rewind]: both stay
        places = places[:-1]
    return places[-1] if places and places[-1].sequence > base.sequence else None
