"""Fixtures for the tests of legacy backups."""

from itertools import count
from pathlib import Path

import pytest

from backends.legacy import LegacyBackup, rebuild_legacy
from tests.fake_lightningd import Call, contents
from tests.fake_lightningd.database import Database
from tests.legacy.written import Written


class Restored:
    """A legacy backup restored to a database, and what was reported about it."""

    def __init__(self, path: Path, target: Path, to_version: int | None = None) -> None:
        self.database = target
        with LegacyBackup(path) as backup:
            made = rebuild_legacy(backup, target, to_version=to_version)
        rebuilt = made.rebuilt
        self.left_out, self.torn, self.remarks = made.left_out, rebuilt.torn, made.remarks
        self.version, self.changes, self.foreign_keys = rebuilt.data_version, rebuilt.changes, rebuilt.foreign_keys

    def holds_what(self, database: Path) -> bool:
        return contents(self.database) == contents(database)


class Bench:
    """A place to write legacy backups, restore them, and make the databases that they should be restored to."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._numbers = directory, count()

    def path(self, name: str) -> Path:
        """A path that nothing has used yet."""
        return self._directory / f"{next(self._numbers)}-{name}"

    def file(self, written: Written | bytes, tail: bytes = b"") -> Path:
        path = self.path("legacy.bkp")
        path.write_bytes((written if isinstance(written, bytes) else written.data()) + tail)
        return path

    def restore(self, written: Written | bytes, tail: bytes = b"", to_version: int | None = None) -> Restored:
        return Restored(self.file(written, tail), self.path("restored.sqlite3"), to_version)

    def node(self, *calls: Call) -> Path:
        """A node's own database with these calls committed."""
        directory = self.path("node")
        directory.mkdir()
        own = Database(directory)
        for call in calls:
            own.execute(call.writes, transaction=not call.outside_transaction)
            own.commit()
        own.close()
        return directory / "lightningd.sqlite3"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
