"""A new generation's snapshot, made of a copy of the node's database while a writer goes on appending.

Unlike a compaction it takes nothing from the log: it is what heals a backup whose log cannot be trusted.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backends.base import SnapshotSource
from backends.change import ahead
from backends.compaction.space_reserve import SpaceReserve
from backends.errors import BackupError
from backends.log.format.documents import Base, Manifest
from backends.log.reader.opening import check_log, read_manifest
from backends.log.writer.compacted import BY, CompactedSnapshot, removed_unless_finished
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.pace import Pace
from backends.log.writer.snapshot import next_generation, write_snapshot
from backends.sqlite.copy import BytesDone, file_pieces, of_our_file, watched
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.source import state_of
from backends.sqlite.sparing import opened_sparingly
from backends.storage.base import Storage
from backends.storage.unreachable import reaching


@dataclass(frozen=True, slots=True)
class CopiedDatabase:
    """A copy of the node's database at one point of the log.

    `base` says where that is: after record `base.sequence`, in front of segment `first_segment`, in the generation
    `replaces`. The log before it may lead elsewhere.
    """

    copy: str
    base: Base
    first_segment: int
    replaces: int

    def encode(self) -> str:
        """As JSON, for the process that makes the snapshot."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "CopiedDatabase":
        """The inverse of `encode`."""
        fields = json.loads(text)
        return cls(**{**fields, "base": Base(**fields["base"])})


def snapshot_of_copy(
    storage: Storage,
    copied: CopiedDatabase,
    progress: BytesDone,
    *,
    options: LogOptions = DEFAULT_OPTIONS,
    pace: Pace | None = None,
) -> CompactedSnapshot:
    """Check the copy, and write it as the snapshot of a new generation, under a temporary name.

    Raises BackupError: because the copy is not what it should be, because the changes since cannot be read, because the
    writer began another generation meanwhile, or because the destination fails. Then nothing that was written is left
    behind.
    """
    path = Path(copied.copy)
    size = path.stat().st_size
    _check(path, copied.base, lambda: progress(0, size))
    reserve = SpaceReserve(storage, path.parent, keep_reserve=True)
    with reaching(storage):
        begun = read_manifest(storage)
        if begun.generation != copied.replaces:
            raise BackupError("it was overtaken by another new snapshot")
        number = next_generation(storage, begun.generation)
        pieces = reserve.checked(of_our_file(file_pieces(path), path), size, pace)
        source = watched(SnapshotSource(pieces, copied.base.data_version, None, size=size), progress)
        file = begun.snapshot_header(number)
        with removed_unless_finished(storage):
            written = write_snapshot(storage, file, copied.base, source.pieces, options, by=BY, size=size, pace=pace)
            _check_log(storage, replace(begun, base=copied.base, first_segment=copied.first_segment))
    return CompactedSnapshot(copied.replaces, number, written, copied.base, copied.first_segment)


def _check(path: Path, base: Base, going_on: Callable[[], None]) -> None:
    """Raise BackupError unless the copy is a whole database at the version where it was begun."""
    with opened_sparingly(path) as connection:
        state = state_of(connection)
        if ahead(state.data_version or 0, base.data_version) != 0:
            raise BackupError(f"the copy is at version {state.data_version}, and not at {base.data_version}")
        going_on()
        what = whole_errors(connection)
    if what is not None:
        raise BackupError(f"the copy of the node's database is not whole: {what}")


def _check_log(storage: Storage, manifest: Manifest) -> None:
    """Raise BackupError unless the changes that were saved since can be read: the new generation will hold them, and
    what was found to be wrong with the backup counts no more then."""
    try:
        check_log(storage, manifest)
    except BackupError as error:
        raise BackupError(f"what was saved since the copy cannot be read: {error}") from error
