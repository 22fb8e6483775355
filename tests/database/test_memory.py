"""Memory does not grow with the database: a node may run on a small machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.database.databases import node

MIB = 1 << 20

SCRIPT = """
import sys
from pathlib import Path
from backends.database.compare import compare
from backends.database.replay import Replay
from backends.database.source import copy_database

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

path, target = map(Path, sys.argv[1:])
before = peak()
copy_database(path, target, writable=False)
print(peak() - before)
assert not compare(path, target).differences
print(peak() - before)
with Replay(target) as replay:
    for version in range(8, 12):
        replay.execute([f"UPDATE large SET other = {version}"], version)
    replay.finish()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_ten_times_the_memory(tmp_path: Path) -> None:
    path = node(
        tmp_path / "db",
        "PRAGMA synchronous = OFF",
        "CREATE TABLE large (x, other)",
        "INSERT INTO large WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
        "SELECT zeroblob(1500), i FROM n",
    )
    assert path.stat().st_size > 150 * MIB
    command = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "copy")]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    copying, comparing, replaying = map(int, printed.split())
    assert copying < 15 * MIB and comparing < 15 * MIB
    assert replaying < 50 * MIB
