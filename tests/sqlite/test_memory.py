"""Memory use does not grow with the database, nor with an attacker's statement: a node may run on a small machine."""

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from backends.errors import BackupError
from backends.sqlite import connection
from backends.sqlite.connection import MEMORY
from backends.sqlite.foreign_keys import foreign_key_violations
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import ReplayFailed
from tests.sqlite.databases import NODE, node, rows

MIB = 1 << 20

SCRIPT = """
import sys
from pathlib import Path
from backends.sqlite.compare import compare
from backends.sqlite.replay import Replay
from backends.sqlite.source import copy_database

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


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


@needs_proc
def test_large_database_is_copied_compared_and_replayed_in_little_memory(tmp_path: Path) -> None:
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


TIMES = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) "

DOUBLED = "WITH RECURSIVE d(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM d LIMIT {}) "

GREEDY = {
    "doubled": f"INSERT INTO version {DOUBLED.format(30)} SELECT length(x) FROM d",
    "doubled for one row": f"UPDATE version SET version = ({DOUBLED.format(30)} SELECT max(x) FROM d)",
    "replaced": f"INSERT INTO version {DOUBLED.format(20)} SELECT length(replace(x, 'x', x)) FROM d",
    "sorted by": f"INSERT INTO version {DOUBLED.format(30)} SELECT 1 FROM d ORDER BY x || x",
}

GREED = """
import sys
from pathlib import Path
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import MemoryFailed
from tests.sqlite.databases import NODE
with Replay(Path(sys.argv[1])) as replay:
    replay.execute(NODE if replay.path.stat().st_size == 0 else [], 7)
    replay.execute(["INSERT INTO version VALUES (1)"], 8)
    try:
        replay.execute([sys.argv[2]], 9)
        replay.finish()
    except MemoryFailed as error:
        print(error)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@needs_proc
@pytest.mark.parametrize("statement", GREEDY.values(), ids=GREEDY.keys())
def test_short_statement_that_wants_all_memory_is_refused(tmp_path: Path, statement: str) -> None:
    command = [sys.executable, "-c", GREED, str(tmp_path / "db"), statement]
    said, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert said.startswith("the change with data version 9 needs more memory (over 256 MiB) than")
    assert int(peak) * 1024 < MEMORY + 64 * MIB


@needs_proc
def test_rows_returned_by_a_statement_are_not_fetched(tmp_path: Path) -> None:
    """In Python, this text takes four bytes for each of its characters."""
    tables = [f"a(x) AS MATERIALIZED (SELECT '{'x' * 1000}')"]
    for smaller, larger in ("a", "b"), ("b", "c"):
        tables.append(f"{larger}(x) AS MATERIALIZED (SELECT {' || '.join(['x'] * 40)} FROM {smaller})")
    statement = f"WITH {', '.join(tables)} SELECT {' || '.join(['x'] * 40)} || '🎉' FROM c"
    command = [sys.executable, "-c", GREED, str(tmp_path / "db"), statement]
    (peak,) = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert int(peak) * 1024 < MEMORY + 64 * MIB


def test_several_statements_in_one_that_return_rows_are_refused(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        replay.execute(["INSERT INTO version VALUES (1); INSERT INTO version VALUES (2) RETURNING version; "], 8)
        with pytest.raises(ReplayFailed, match="cannot be executed"):
            replay.execute(["SELECT version FROM version; DELETE FROM version"], 9)


def test_database_that_wants_all_memory_is_not_reported_as_a_disk_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = node(
        tmp_path / "db",
        "CREATE TABLE parent (id TEXT PRIMARY KEY)",
        f"CREATE TABLE child (a, b AS ({' || '.join(['a'] * 9)}) REFERENCES parent (id))",
        f"INSERT INTO child VALUES ('{'x' * 2_000_000}')",
    )
    monkeypatch.setattr(connection, "MEMORY", 32 * MIB)  # a small limit, so that a small database reaches it
    before = apsw.hard_heap_limit(32 * MIB)
    try:
        with pytest.raises(BackupError, match=r"takes more memory to read than there is, or .*over \d\d MiB"):
            foreign_key_violations(path)
    finally:
        apsw.hard_heap_limit(before)


def test_long_statement_may_use_the_memory_it_needs(tmp_path: Path) -> None:
    length = MEMORY // 4
    node_with_index = [*NODE, "CREATE TABLE large (x TEXT)", "CREATE INDEX by_x ON large (x)"]
    with Replay(tmp_path / "db") as replay:
        replay.execute(node_with_index, 7)
        replay.execute([f"INSERT INTO large VALUES ('{'é' * (length // 2)}')"], 8)
        replay.finish()
    assert rows(tmp_path / "db", "SELECT length(CAST(x AS BLOB)) FROM large") == [(length // 2 * 2,)]


@needs_proc
def test_large_value_in_snapshot_may_use_the_memory_it_needs(tmp_path: Path) -> None:
    """A process that did not execute the INSERT meets the large value only in the database."""
    large = f"INSERT INTO large VALUES ('{'x' * (MEMORY // 4)}')"
    with Replay(tmp_path / "db") as replay:
        replay.execute([*NODE, "CREATE TABLE large (x TEXT)", "CREATE INDEX by_x ON large (x)"], 7)
        replay.execute([large], 8)
        replay.finish()
    command = [sys.executable, "-c", GREED, str(tmp_path / "db"), "UPDATE large SET x = x || 'y'"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert len(said) == 1, said


def test_index_larger_than_memory_limit_is_built(tmp_path: Path) -> None:
    """A migration may build an index of a large table."""
    made = f"INSERT INTO large {TIMES.format(150000)} SELECT randomblob(1000) FROM n"
    with Replay(node(tmp_path / "db", "CREATE TABLE large (x)", made)) as replay:
        apsw.hard_heap_limit(96 * MIB)  # a small limit, so that a small database reaches it
        replay.execute(["CREATE INDEX by_x ON large (x)"], 10)
        replay.finish()
    assert (tmp_path / "db").stat().st_size > 300 * MIB
