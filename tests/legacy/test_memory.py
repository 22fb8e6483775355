"""A large legacy backup is read piece by piece."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.fake_lightningd import History
from tests.legacy.conftest import Bench
from tests.legacy.written import SNAPSHOT, Written

MIB = 1 << 20

_RESTORE = """
import sys
from pathlib import Path
from backends.legacy import LegacyBackup, rebuild_legacy
with LegacyBackup(Path(sys.argv[1])) as backup:
    print(rebuild_legacy(backup, Path(sys.argv[2])).rebuilt.data_version)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_large_legacy_snapshot_and_change_are_restored_in_little_memory(bench: Bench) -> None:
    life = History()
    calls = [life.first(), *life.notes(3)]
    database = grown(bench.node(*calls), 128 * MIB)
    file = Written().change(*calls).add(life.version, database.read_bytes(), SNAPSHOT)
    path = bench.file(file.change(life.note(), life.big(16 * MIB)))
    done = subprocess.run(
        [sys.executable, "-c", _RESTORE, path, bench.path("restored.sqlite3")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    version, kib = map(int, done.stdout.split())
    assert version == life.version
    assert kib < 100 * 1024


def grown(path: Path, size: int) -> Path:
    with closing(apsw.Connection(str(path))) as connection:
        list(connection.execute("PRAGMA synchronous = OFF; CREATE TABLE grown (blob BLOB); BEGIN"))
        for _ in range(size // MIB):
            connection.execute("INSERT INTO grown VALUES (randomblob(1048576))")
        connection.execute("COMMIT")
    return path
