"""The figures of the budget that are not commit latencies: replay and start-up."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from backends import backup_at
from backends.change import foreign_keys_setting
from backends.sqlite.rebuild import rebuild
from contrib.bench.contestants import Call
from contrib.bench.long_log import long_log, stored


def replay_ratio(directory: Path, calls: list[Call], times: int = 5) -> tuple[float, float]:
    """Statements per second, the best of `times` runs: restoring a long log end to end; and sqlite3 one by one.

    The second uses the standard library's sqlite3, and executes the same statements.
    """
    longer = long_log(calls)
    statements = sum(len(call["writes"]) for call in longer)
    url = stored(directory, longer)
    ours, theirs = [], []
    for number in range(times):
        began = time.perf_counter()
        with backup_at(url).read() as reader:
            rebuild(reader, directory / f"ours-{number}.sqlite3")
        ours.append(time.perf_counter() - began)
        theirs.append(_one_by_one(directory / f"theirs-{number}.sqlite3", longer))
    return statements / min(ours), statements / min(theirs)


def _one_by_one(path: Path, calls: list[Call]) -> float:
    """Seconds that sqlite3 takes with one transaction between two PRAGMAs and without syncs: its fastest way."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA foreign_keys = ON")
    began = time.perf_counter()
    for call in calls:
        if foreign_keys_setting(call["writes"]) is not None and database.in_transaction:
            database.execute("COMMIT")
        elif foreign_keys_setting(call["writes"]) is None and not database.in_transaction:
            database.execute("BEGIN")
        for statement in call["writes"]:
            database.execute(statement)
    if database.in_transaction:
        database.execute("COMMIT")
    took = time.perf_counter() - began
    database.close()
    return took


def startup(directory: Path, times: int = 15) -> tuple[float, float]:
    """Median seconds: from starting our plugin to its manifest; and for an interpreter that imports pyln.client."""
    environment = {**os.environ, "LIGHTNINGD_PLUGIN": "1"}
    # What pip installed is compiled already; without this variable, our modules are from the second run on.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    manifest = b'{"jsonrpc":"2.0","id":"cln:getmanifest#1","method":"getmanifest","params":{}}\n\n'
    ours, theirs = [], []
    for _ in range(times):
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "plugin.main"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(manifest)
        process.stdin.flush()
        process.stdout.readline()
        ours.append(time.perf_counter() - began)
        process.communicate()
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pyln.client; print(flush=True)"], check=True, capture_output=True)
        theirs.append(time.perf_counter() - began)
    return sorted(ours)[times // 2], sorted(theirs)[times // 2]
