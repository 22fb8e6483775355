"""A node whose directory is on one disk and whose backup is on another; both can lose their power."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.world import DATABASE, PLUGIN, Said, backup_cli
from tests.fake_lightningd import Call, Node, committed_version, fresh_schema, recorded_database, transaction
from tests.fake_lightningd.database import Database
from tests.powercut.disks import Filesystem, Recorder, mounted

NODE, BACKUP = 0, 1
"""The numbers of the machine's disks."""


class DurableDatabase(Database):
    """The database as lightningd opens it: a rollback journal and full syncs, which are SQLite's defaults."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, synchronous="FULL")
        modes = [self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert modes == ["delete", 2], f"this SQLite differs from lightningd's: {modes}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node and its backup are while their disks are mounted: always in the same two places under `root`."""

    root: Path
    filesystems: tuple[Filesystem, Filesystem]
    plugin: Sequence[str] = tuple(PLUGIN)

    @property
    def directory(self) -> Path:
        """The node's network directory."""
        return self.root / "node" / "regtest"

    @property
    def database(self) -> Path:
        """The node's database."""
        return self.directory / DATABASE

    @property
    def url(self) -> str:
        """The URL of the backup."""
        return (self.root / "backup" / "lightning.bkp").as_uri()

    @contextmanager
    def running_on(self, images: Sequence[Path]) -> Iterator[None]:
        """Power on, with what these images hold."""
        with ExitStack() as stack:
            for source, point, filesystem in zip(images, self._points(), self.filesystems, strict=True):
                stack.enter_context(mounted(source, point, filesystem))
            yield

    @contextmanager
    def recorded_on(self, program: Path, images: Sequence[Path], log: Path) -> Iterator[Recorder]:
        """Power on, with everything that reaches the disks recorded into `log`."""
        with Recorder(program, images, log, self.root / "disks") as recorder:
            shown = [recorder.disk(number) for number in (NODE, BACKUP)]
            with self.running_on(shown):
                yield recorder

    def _points(self) -> tuple[Path, Path]:
        return self.root / "node", self.root / "backup"

    def init(self, before: Path | None = None) -> None:
        """Create the backup of a node that has never started, or that already has this (packed) database."""
        self.directory.mkdir()
        if before is not None:
            recorded_database(self.database, before)
            os.sync()
        said = backup_cli("init", "--lightning-dir", self.directory, self.url)
        assert said.code == 0, said

    def node(self, database: Callable[[Path], DurableDatabase] = DurableDatabase) -> Node:
        """A run of the node, not yet started."""
        return Node(self.directory, self.plugin, database=database)

    def restore(self, target: Path) -> Said:
        """Restore the newest state to this file."""
        return backup_cli("restore", self.url, target)

    def next_call(self) -> Call:
        """The first call of a node that finds its database in this state: a new schema, or the next change."""
        version = committed_version(self.directory)
        if version is None:
            return fresh_schema()
        name = f"after the cut at {version}"
        return transaction(version + 1, f"INSERT INTO vars (name, val) VALUES ('{name}', 'still here')")


def opened_by_sqlite(files: dict[str, bytes], directory: Path) -> bytes:
    """The database file after SQLite alone has opened it with its journal, in a directory of its own."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return (directory / DATABASE).read_bytes()
