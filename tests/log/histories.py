"""A node's history, played into a backup and into the model of what that backup must give back."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import apsw

from backends.base import Position, Report, SnapshotSource
from backends.change import Change
from backends.compaction.compact import compact_log
from backends.compaction.from_copy import CopiedDatabase, snapshot_of_copy
from backends.log.backup import Backup
from backends.log.format.documents import Base
from backends.log.known_damage import found_now
from backends.log.reader.opening import open_generation
from backends.log.reader.snapshot import PIECE, SnapshotReader, open_parts
from backends.log.writer.compacted import Anew, CompactedSnapshot
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.snapshot import next_generation
from backends.log.writer.writer import Writer
from backends.places.base import Place
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from tests.fake_lightningd.calls import Call, History
from tests.log.model import Model, contents

CAMPAIGN = 20 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0" else 1
"""How many times as many random cases a campaign tries."""


def change(call: Call) -> Change:
    """A call of the fake lightningd as a change of the log."""
    return Change(call.data_version, list(call.writes))


def changes(count: int, version: int = 0, size: int = 0) -> list[Change]:
    """`count` changes that follow this version, each with about `size` bytes of noise."""
    history = History(version)
    return [change(history.note(noise(size, version + number))) for number in range(count)]


def source(data: bytes = b"", data_version: int = 0, node_id: str | None = None) -> SnapshotSource:
    """A database to be backed up."""
    return SnapshotSource(
        tuple(data[start : start + PIECE] for start in range(0, len(data), PIECE)), data_version, node_id
    )


_LETTERS = bytes(0x30 + byte % (0x7F - 0x30) for byte in range(256))


def noise(size: int, seed: int = 0) -> str:
    """Text that hardly compresses: its record is nearly as large as the text."""
    return random.Random(seed).randbytes(size).translate(_LETTERS).decode()


class StoragePlace(Place):
    """A Place that consists of a storage and nothing else."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def storage(self) -> Storage:
        return self._storage


def backup_in(storage: Storage, options: LogOptions = DEFAULT_OPTIONS) -> Backup:
    """The backup in this storage, as a new process would see it."""
    return Backup(StoragePlace(storage), options)


def silent(level: str, line: str) -> None:
    """A report function that discards everything."""


class Node:
    """A node whose commits go to a log.

    `model` is the acknowledged state. While a step is running, or after it has failed, `next` is the state that the
    step was to lead to; otherwise the two are the same. None: there is no backup.
    The test itself reads through `plain`: the storage, or the one that a failing storage wraps.
    """

    def __init__(
        self, storage: Storage, scratch: Path, plain: Storage | None = None, options: LogOptions = DEFAULT_OPTIONS
    ) -> None:
        self.storage, self.scratch, self.plain, self.options = storage, scratch, plain or storage, options
        self._writer: Writer | None = None
        self.history = History()
        self.model: Model | None = None
        self.next: Model | None = None
        self.doubted = False
        """Whether a doubt was noted in the generation that was acknowledged last."""
        self.renewed: Model | None = None
        """What was acknowledged when the last new snapshot was begun beside the log."""

    @property
    def now(self) -> Model:
        """What was acknowledged."""
        assert self.model is not None
        return self.model

    def _step(self, after: Model, act: Callable[[], object]) -> None:
        self.next = after
        act()
        self.model = after

    def create(self) -> None:
        """The backup of a node that has never started."""
        self._step(Model(), lambda: self.backup().create(source()))

    def backup(self) -> Backup:
        """The backup, as another process would see it."""
        return backup_in(self.storage, self.options)

    def open(self, session: str = "one", report: Report = silent) -> Position:
        """Open the backup for writing, as a new process would; returns the position found."""
        self._writer = None
        self._writer = self.backup().open(report, session)
        return self._writer.position

    def go_on(self, session: str) -> None:
        """Open the backup after a step that may have failed: it must hold what it held before the step, or after."""
        found = contents(self.backup())
        assert self.next is not None
        if found != self.now.contents:
            assert found == self.next.contents
            self.model = self.next
        self.next = self.model
        self.history.version = self.now.version
        self.open(session)

    @property
    def writer(self) -> Writer:
        """The writer that was opened last."""
        assert self._writer is not None
        return self._writer

    def close(self) -> None:
        """Close the writer cleanly."""
        if self._writer is not None:
            self._writer.close()

    def append(self, call: Call) -> None:
        """One commit."""
        one = change(call)
        self._step(self.now.appended(one), lambda: self.writer.append(one))

    def note(self, text: str = "") -> None:
        """One commit that inserts a row."""
        self.append(self.history.note(text))

    def snapshot(self) -> None:
        """Take a new snapshot of the database, after a run without the plugin."""
        committed = (*self.now.committed, change(self.history.note("not backed up")))
        data = database(committed)
        self._step(
            self.now.snapshotted(data, committed, next_generation(self.plain, self.now.generation)),
            lambda: self.writer.take_snapshot(source(data, self.history.version), "a run without the plugin"),
        )

    def compact(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Compact all but the last change; call `meanwhile`; publish."""
        count = self.now.compactable(1)
        compacted = compact_log(self.storage, self.scratch, leave_out=1)
        if compacted is None:
            assert count == 0
            return
        meanwhile()
        after = self.now.compacted(self._snapshot_of(compacted), count, compacted.generation)
        assert rows(after.snapshot) == rows(database(after.before))
        self._step(after, lambda: self.writer.publish_compaction(compacted))

    def renew(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Note a doubt; make a new snapshot of a copy of the database; call `meanwhile`; publish."""
        writer, begun = self.writer, self.now
        writer.damage.note(found_now("start", "a doubt", begun.generation, doubt=True))
        self.doubted, self.renewed = True, begun
        data, position = database(begun.committed), writer.position
        copy = self.scratch / "copy.sqlite3"
        copy.write_bytes(data)
        base = Base(position.sequence, position.data_version, position.checksum, foreign_keys=True)
        with reaching(self.storage):
            copied = CopiedDatabase(str(copy), base, writer.begin_segment(), begun.generation)
        meanwhile()
        made = snapshot_of_copy(self.storage, copied, lambda done, total: None, options=self.options)
        since = self.now.committed[len(begun.committed) :]
        after = Model(made.generation, data, since, begun.committed)
        self._step(after, lambda: writer.publish_compaction(made, Anew("a doubt", position.data_version)))
        self.doubted = False

    def _snapshot_of(self, compacted: CompactedSnapshot) -> bytes:
        with open_generation(self.plain) as generation, ExitStack() as files:
            file = generation.manifest.snapshot_header(compacted.generation)
            parts = open_parts(self.plain, compacted.written, files, self.plain.names())
            return b"".join(SnapshotReader(parts, file, compacted.base))


def database(committed: tuple[Change, ...]) -> bytes:
    """The database file that results from these changes."""
    with closing(apsw.Connection(":memory:")) as connection:
        for one in committed:
            for statement in one.statements:
                connection.execute(statement)
        return bytes(connection.serialize("main"))


def rows(data: bytes) -> list[tuple[object, ...]]:
    """All rows of a database file, independent of its page layout."""

    def all_of(connection: apsw.Connection) -> Iterator[tuple[object, ...]]:
        tables = list(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"))
        for name, sql in tables:
            yield name, sql
            yield from connection.execute(f'SELECT rowid, * FROM "{name}" ORDER BY rowid')

    with closing(apsw.Connection(":memory:")) as connection:
        if data:
            connection.deserialize("main", data)
        return list(all_of(connection))
