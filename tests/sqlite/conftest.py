"""The recorded nodes. Those of upgrades begin with lightningd's own test data, which is not part of this project."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.log.reader.passes import StoredChange
from backends.sqlite import read_ahead
from backends.sqlite.read_ahead import ChangesAhead

_ROOT = Path(__file__).parents[2]
_TRACES = _ROOT.parent / "shared" / "traces"
_OWN = _ROOT / "backup_cli" / "drill" / "recordings"

UPGRADES = ("upgrade-no-data-version", "upgrade-v135", "upgrade-v199", "upgrade-v277")


@dataclass(frozen=True)
class Recording:
    """A recorded node: its database before and after, unpacked, and its calls."""

    before: Path | None
    after: Path
    calls: Path

    def changes(self) -> Iterator[tuple[int, list[str]]]:
        with gzip.open(self.calls, "rt") as lines:
            for line in lines:
                call = json.loads(line)
                yield call["data_version"], call["writes"]


@pytest.fixture
def fresh_channel(tmp_path: Path) -> Recording:
    after = _unpacked(_OWN / "fresh-channel.sqlite3.gz", tmp_path / "after.sqlite3")
    return Recording(None, after, _OWN / "fresh-channel.jsonl.gz")


@pytest.fixture(params=UPGRADES)
def upgrade(request: pytest.FixtureRequest, tmp_path: Path) -> Recording:
    folder = _TRACES / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"the recording {request.param} is not beside this project, and its database may not be part of it")
    before = _unpacked(folder / "before.sqlite3.gz", tmp_path / "before.sqlite3")
    after = _unpacked(folder / "after.sqlite3.gz", tmp_path / "after.sqlite3")
    return Recording(before, after, folder / "db_write.jsonl.gz")


def _unpacked(packed: Path, target: Path) -> Path:
    with gzip.open(packed) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target


@pytest.fixture
def free_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is free to read ahead, whatever else runs here."""
    monkeypatch.setattr(read_ahead, "_load", float)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of changes are written here, and none has to survive a power cut."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


@pytest.fixture
def own_reading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the last sequence each time that this process has to read the log itself."""
    read: list[int] = []
    own = ChangesAhead._own

    def noted(self: ChangesAhead, last: int) -> Iterator[StoredChange]:
        read.append(last)
        return own(self, last)

    monkeypatch.setattr(ChangesAhead, "_own", noted)
    return read
