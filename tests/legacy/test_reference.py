"""Legacy backups written by the older plugin itself, and the same built here from the recording."""

import gzip
import shutil
from pathlib import Path

import pytest

from backends.legacy import is_legacy_backup
from tests.end_to_end.db_compare import differences
from tests.fake_lightningd import read_recording, recorded_database
from tests.legacy.conftest import Bench, Restored
from tests.legacy.written import Written, payload

_SHARED = Path(__file__).parents[3] / "shared"

REFERENCES = {
    "plain": "fresh-channel",
    "compacted": "fresh-channel",
    "with-snapshot": "upgrade-v277",
    "rewound": "fresh-channel",
}
"""Each file, and the recorded node whose database it must restore to."""


def unpacked(packed: Path, target: Path) -> Path:
    if not packed.exists():
        pytest.skip(f"what the older plugin wrote is not part of this project, and is not available: {packed}")
    with gzip.open(packed) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
    return target


@pytest.mark.parametrize("name", REFERENCES)
def test_legacy_backup_written_by_the_older_plugin_restores_equal(bench: Bench, name: str) -> None:
    file = unpacked(_SHARED / "reference-backups" / f"{name}.bkp.gz", bench.path("legacy.bkp"))
    own = unpacked(_SHARED / "traces" / REFERENCES[name] / "after.sqlite3.gz", bench.path("after.sqlite3"))
    assert is_legacy_backup(file)
    restored = Restored(file, bench.path("restored.sqlite3"))
    assert differences(restored.database, own) == []
    assert restored.torn is None
    assert restored.left_out == ([434] if name == "rewound" else [])


@pytest.mark.parametrize("name", ["plain", "rewound"])
def test_legacy_writer_of_the_tests_writes_the_bytes_of_the_older_plugin(bench: Bench, name: str) -> None:
    file = unpacked(_SHARED / "reference-backups" / f"{name}.bkp.gz", bench.path("legacy.bkp"))
    assert file.read_bytes() == recorded(rewound_after=436 if name == "rewound" else None).data()


def recorded(rewound_after: int | None = None) -> Written:
    made = Written()
    for number, call in enumerate(read_recording(), 1):
        made.change(call)
        if number == rewound_after:
            made.starts_with(call)
    return made


@pytest.mark.parametrize("rewound_after", [None, 1, 3, 5, 436, 1010])
def test_recorded_node_in_legacy_backup_is_restored_equal(bench: Bench, rewound_after: int | None) -> None:
    restored = bench.restore(recorded(rewound_after))
    assert differences(restored.database, recorded_database(bench.path("after.sqlite3"))) == []
    assert len(restored.left_out) == (rewound_after is not None)


def test_recorded_node_in_compacted_legacy_backup_is_restored_equal(bench: Bench) -> None:
    calls = list(read_recording())
    compacted = Written().snapshot(1007, bench.node(*calls[:-1])).add(1008, payload(calls[-1]))
    restored = bench.restore(compacted)
    assert differences(restored.database, recorded_database(bench.path("after.sqlite3"))) == []
    assert restored.changes == 1
