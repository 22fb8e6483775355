"""What a backup must give back according to its specification, and what it does give back."""

from dataclasses import dataclass, replace

from backends.change import Change
from backends.log.backup import Backup

Statements = tuple[int, tuple[str, ...]]
"""A change's version and its statements."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a restore reads: the snapshot's bytes, then each change that counts."""

    generation: int
    snapshot: bytes
    changes: tuple[Statements, ...]

    def __repr__(self) -> str:
        versions = [version for version, _ in self.changes]
        return f"<generation {self.generation}, {len(self.snapshot)} bytes, then versions {versions}>"


def contents(backup: Backup) -> Contents:
    """Everything in a backup, as `restore` reads it."""
    return contents_and_tear(backup)[0]


def contents_and_tear(backup: Backup) -> tuple[Contents, str | None]:
    """Everything in a backup, and the description of what was left out as torn, if anything."""
    with backup.read() as reader:
        snapshot, changes = b"".join(reader.snapshot), reader.changes()
        found = tuple((change.data_version, tuple(change.statements)) for change in changes)
        return Contents(reader.manifest.generation, snapshot, found), changes.end().torn


def versions(backup: Backup) -> list[int]:
    """The data versions of the changes that count."""
    return [version for version, _ in contents(backup).changes]


@dataclass(frozen=True, slots=True)
class Model:
    """One generation: its snapshot, and the changes after it."""

    generation: int = 1
    snapshot: bytes = b""
    changes: tuple[Change, ...] = ()
    before: tuple[Change, ...] = ()
    """The changes that led to the snapshot, since the node was new."""

    @property
    def committed(self) -> tuple[Change, ...]:
        """All changes since the node was new."""
        return self.before + self.changes

    @property
    def version(self) -> int:
        """The database's data version."""
        return self.committed[-1].data_version if self.committed else 0

    @property
    def contents(self) -> Contents:
        """What must be read back."""
        changes = tuple((change.data_version, tuple(change.statements)) for change in self.changes)
        return Contents(self.generation, self.snapshot, changes)

    def compactable(self, leave_out: int) -> int:
        """How many changes a compaction takes in if it leaves out the last `leave_out` that advance the version."""
        places = [number for number, change in enumerate(self.changes) if change.advances]
        return places[-leave_out] if len(places) >= leave_out else 0

    def appended(self, change: Change) -> "Model":
        """The model after an append."""
        return replace(self, changes=(*self.changes, change))

    def snapshotted(self, snapshot: bytes, committed: tuple[Change, ...], generation: int) -> "Model":
        """The model after a new snapshot of the database that results from these changes."""
        assert generation > self.generation
        return Model(generation, snapshot, (), committed)

    def compacted(self, snapshot: bytes, changes: int, generation: int) -> "Model":
        """The model after a compaction of the first `changes` changes into this snapshot."""
        before = self.before + self.changes[:changes]
        assert generation > self.generation
        return Model(generation, snapshot, self.changes[changes:], before)
