"""What a backup must give back, by its specification, and what it does give back."""

from dataclasses import dataclass, replace

from backends.base import Backend
from backends.change import Change

Statements = tuple[int, tuple[str, ...]]
"""A change's version and its statements."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a restore works with: the snapshot's bytes, then each change that counts."""

    generation: int
    snapshot: bytes
    changes: tuple[Statements, ...]

    def __repr__(self) -> str:
        versions = [version for version, _ in self.changes]
        return f"<generation {self.generation}, {len(self.snapshot)} bytes, then versions {versions}>"


def contents(backend: Backend) -> Contents:
    """Everything, as `restore` reads it."""
    return contents_and_tear(backend)[0]


def contents_and_tear(backend: Backend) -> tuple[Contents, str | None]:
    """The same, and what was left out as torn, in words."""
    with backend.read() as generation:
        snapshot = b"".join(generation.snapshot)
        changes = tuple((change.data_version, tuple(change.statements)) for change in generation.changes())
        return Contents(generation.manifest.generation, snapshot, changes), generation.torn


def versions(backend: Backend) -> list[int]:
    """Of the changes that count."""
    return [version for version, _ in contents(backend).changes]


@dataclass(frozen=True, slots=True)
class Model:
    """One generation: its snapshot, and its records; None is a rewind."""

    generation: int = 1
    snapshot: bytes = b""
    records: tuple[Change | None, ...] = ()
    before: tuple[Change, ...] = ()
    """What made the snapshot, since the node was new."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """Those of its records that count."""
        return _that_count(self.records)

    @property
    def committed(self) -> tuple[Change, ...]:
        """Everything since the node was new."""
        return self.before + self.changes

    @property
    def version(self) -> int:
        """The database's."""
        return self.committed[-1].data_version if self.committed else 0

    @property
    def contents(self) -> Contents:
        """What must be read back."""
        changes = tuple((change.data_version, tuple(change.statements)) for change in self.changes)
        return Contents(self.generation, self.snapshot, changes)

    @property
    def foldable(self) -> int:
        """How many records a compaction folds: the last change stays out, and is never parted from its rewind."""
        kept = 2 if self.records and self.records[-1] is None else 1
        return max(0, len(self.records) - kept)

    def appended(self, change: Change) -> "Model":
        """After an append."""
        return replace(self, records=(*self.records, change))

    def rewound(self) -> "Model":
        """After a rewind."""
        return replace(self, records=(*self.records, None))

    def snapshotted(self, snapshot: bytes, committed: tuple[Change, ...]) -> "Model":
        """After a new snapshot, of the database that these changes made."""
        return Model(self.generation + 1, snapshot, (), committed)

    def folded(self, snapshot: bytes, records: int) -> "Model":
        """After a compaction of the first so many records into this snapshot."""
        before = self.before + _that_count(self.records[:records])
        return Model(self.generation + 1, snapshot, self.records[records:], before)


def _that_count(records: tuple[Change | None, ...]) -> tuple[Change, ...]:
    kept: list[Change] = []
    for record in records:
        if record is None:
            kept.pop()
        else:
            kept.append(record)
    return tuple(kept)
