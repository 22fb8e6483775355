"""A stranger's backup that would use up the machine: memory, time and disk have bounds, and Ctrl-C is obeyed."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends import backup_at
from backends.confined import parent
from backends.log.reader.last_changes import MAX_CHANGES, read_end
from backends.sqlite import limits
from tests.attacks.bombs import (
    BUSY,
    DOUBLING,
    TABLES,
    legacy_file,
    log,
    long_statement,
    many_rows,
    snapshot_of,
    written,
)
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import Said, backup_cli, command
from tests.log.corruption import Files
from tests.log.forge import FRAME, Forged, backup, packed, segment

MIB = 1 << 20

SPINNING = (
    "import sys; sys.path += sys.argv[1:]\n"
    "import hashlib, os\n"
    "from backends.confined import child\n"
    "from backends.system.pulse import pulse\n"
    "def spin(**arguments):\n"
    "    open(arguments['target'], 'wb').close()\n"
    "    pulse.total, pulse.change, pulse.segment = 1, 7, 3\n"
    "    hashlib.pbkdf2_hmac('sha256', b'', b'', (1 << 31) - 1)\n"
    "child.JOBS['rebuild_backup'] = spin\n"
    "child.main()\n"
)
"""A child process that never returns from one call: another such call may be found in SQLite, whatever is forbidden."""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The directory for databases while they are rebuilt."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def hostile(tmp_path: Path, **changed: bytes) -> str:
    """The URL of a whole backup in which these files are replaced."""
    return written(tmp_path / "hostile.bkp", backup(**changed)).as_uri()


def measured(scratch: Path, *words: object) -> tuple[Said, int, int]:
    """Run a command in a process of its own: its output; MiB of memory of the largest process; MiB that it wrote.

    Its own peak is VmHWM: ru_maxrss would begin with what this test's process, from which it was forked, had at that
    moment, and that grows with each test (28 MiB became 100). Its children are forked from itself.
    """
    script = (
        "import resource, sys\n"
        "from backup_cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "own = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "peak = max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "print(f'peak {peak // 1024}', file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    environment = os.environ | {"TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30)),
    )  # fmt: skip
    largest = 0
    try:
        while process.poll() is None:
            largest = max(largest, taken(scratch))
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    *lines, peak = err.splitlines()
    return Said(process.returncode, out, "\n".join(lines)), int(peak.removeprefix("peak ")), largest // MIB


def taken(directory: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 (they come and go)
            except FileNotFoundError:
                continue
    return total


# Time


def stopped(words: list[str], number: int, begun: Callable[[], bool]) -> tuple[int, float, str]:
    """Send a running command this signal once its work has begun: its exit code, seconds until its end, its output."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not begun() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        assert process.poll() is None, process.communicate()
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        return process.returncode, time.monotonic() - sent, err
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("act", ["verify", "restore"])
def test_call_that_never_ends_is_ended_by_a_signal(tmp_path: Path, scratch: Path, act: str, number: int) -> None:
    url = hostile(tmp_path, segment=log(TABLES))
    spinning = (
        "import sys\nfrom backends.confined import parent\n"
        f"parent._CHILD = {SPINNING!r}\n"
        "from backup_cli.main import main\nmain(sys.argv[1:])\n"
    )
    words = ["verify", url, "--scratch", str(scratch)] if act == "verify" else ["restore", url, str(scratch / "db")]
    code, took, err = stopped([sys.executable, "-c", spinning, *words], number, lambda: any(scratch.rglob("*")))
    assert "stopped; the unfinished work was undone" in err and "Traceback" not in err
    assert code == (130 if number == signal.SIGINT else -number)
    assert took < 2
    assert list(scratch.iterdir()) == []
    assert children_at(scratch) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_statement_that_never_ends_is_refused_or_ended_by_a_signal(tmp_path: Path, scratch: Path, number: int) -> None:
    """The same with a real statement, as far as SQLite still executes it."""
    url = hostile(tmp_path, segment=log(TABLES, (BUSY,)))
    process = subprocess.Popen(
        command("verify", url, "--scratch", scratch), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        err = process.stderr.readline()  # it has begun
        time.sleep(1)
        process.send_signal(number)
        err += process.communicate(timeout=5)[1]
    finally:
        process.kill()
    assert process.returncode != 0 and "Traceback" not in err
    assert list(scratch.iterdir()) == []


def children_at(place: Path) -> list[int]:
    """Processes that have this path in their command line."""
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            if any(str(place) in argument for argument in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_call_that_never_ends_is_ended_by_the_time_limit(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that used too much processor time without progress is ended, and the message says where it was stuck."""
    monkeypatch.setattr(parent, "_CHILD", SPINNING)
    monkeypatch.setattr(limits, "STUCK_AFTER", 1.0)
    said = backup_cli("verify", hostile(tmp_path, segment=log(TABLES)), "--scratch", scratch)
    assert_refused(said, "got stuck at the change with data version 7 in segment-00000003.*--no-limits", 3)
    assert list(scratch.iterdir()) == []
    assert not list(Path(tmp_path / "hostile.bkp").glob("damage"))  # it is no proof


def test_child_process_dies_with_its_killed_parent(tmp_path: Path, scratch: Path) -> None:
    spinning = (
        "import sys\nfrom backends.confined import parent\n"
        f"parent._CHILD = {SPINNING!r}\n"
        "from backup_cli.main import main\nmain(sys.argv[1:])\n"
    )
    url = hostile(tmp_path, segment=log(TABLES))
    process = subprocess.Popen(
        [sys.executable, "-c", spinning, "verify", url, "--scratch", str(scratch)], stderr=subprocess.DEVNULL
    )
    try:
        child = None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any(scratch.rglob("verified*")):
            time.sleep(0.02)
        (child,) = psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs([child], timeout=5)
    assert alive == []


# Memory and disk


def test_table_of_a_million_rows_instead_of_one_stays_within_the_limits(tmp_path: Path, scratch: Path) -> None:
    url = hostile(tmp_path, snapshot=snapshot_of(many_rows(tmp_path / "rows")), segment=segment())
    said, memory, disk = measured(scratch, "verify", url)
    assert said.code == 3 and "several rows" in said.err, said
    assert memory < 75 and disk < 100


def test_legacy_backup_of_a_million_rows_stays_within_the_limits(tmp_path: Path, scratch: Path) -> None:
    old = tmp_path / "older.bkp"
    old.write_bytes(legacy_file(many_rows(tmp_path / "rows"), ("SELECT 1",)))
    said, memory, disk = measured(scratch, "restore", f"file://{old}", scratch / "restored")
    assert said.code == 3, said
    assert memory < 75 and disk < 100
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("older", [False, True])
def test_table_that_doubles_stays_within_the_limits(tmp_path: Path, scratch: Path, older: bool) -> None:
    if older:
        place = tmp_path / "older.bkp"
        place.write_bytes(legacy_file(b"", TABLES, DOUBLING))
        said, memory, disk = measured(scratch, "restore", f"file://{place}", scratch / "restored")
    else:
        url = hostile(tmp_path, segment=log(TABLES, DOUBLING))
        said, memory, disk = measured(scratch, "verify", url)
    assert_refused(said, "grows beyond .* MiB.*--no-limits", 3)
    assert memory < 200 and disk < 200
    assert list(scratch.iterdir()) == []


def test_snapshot_that_unpacks_to_gigabytes_stays_within_the_limits(tmp_path: Path, scratch: Path) -> None:
    piece = bytes(1 << 18)
    url = hostile(tmp_path, snapshot=snapshot_of(piece * 600), segment=segment())
    said, memory, disk = measured(scratch, "verify", url)
    assert_refused(said, "grows beyond .* MiB", 3)
    assert memory < 150 and disk < 200


def test_statement_that_unpacks_to_hundreds_of_megabytes_stays_within_the_limits(tmp_path: Path, scratch: Path) -> None:
    size = (300 << 20) + 100
    bomb = Forged(long_statement(size), size=size, flags=FRAME | 4)
    url = hostile(tmp_path, segment=segment(bomb))
    said, memory, _ = measured(scratch, "verify", url)
    assert said.code == 3 and "Traceback" not in said.err, said
    assert memory < 1100


SORTS = "INSERT INTO vars (name) WITH n (i) AS (VALUES {rows}) SELECT q0.i FROM {lists} LIMIT 1".format(
    rows=", ".join(f"({row})" for row in range(50)),
    lists=", ".join(f"(SELECT x, i FROM t, n ORDER BY x, i DESC LIMIT 49 OFFSET 1) AS q{n}" for n in range(12)),
)
"""Twelve sorted lists of 50 MB that are on the disk at the same time; with more of them, any disk is full."""


def test_temporary_files_of_one_statement_do_not_fill_the_disk(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the files is smaller than the limit for one file."""
    tighter = "from backends.confined import child; from backends.sqlite import limits; limits.SPOOL = 0; child.main()"
    monkeypatch.setattr(parent, "_CHILD", f"import sys; sys.path += sys.argv[1:]; {tighter}")
    value = f"INSERT INTO t VALUES (x'{'41' * 1_000_000}')"
    url = hostile(tmp_path, segment=log(TABLES, ("CREATE TABLE t (x BLOB)", value), (SORTS,)))
    said = backup_cli("verify", url, "--scratch", scratch)
    assert_refused(said, "temporary files for this backup grow beyond .* MiB.*--no-limits", 3)
    assert list(scratch.iterdir()) == []


def test_log_of_20000_changes_without_effect_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A start of the node reads the end of the log: 77 MB of such records took 460 MiB of memory."""
    nothing = packed(b"PRAGMA foreign_keys = ON", flags=FRAME, data_version=0)
    advancing = packed(data_version=1)
    url = hostile(tmp_path, segment=segment(advancing, *[nothing] * 20_000))
    with backup_at(url).read() as generation:
        end = read_end(generation)
    assert len(end.changes) == MAX_CHANGES and end.sequence == 20_001 and not end.whole


def test_no_limits_option_accepts_a_backup_beyond_the_limits(tmp_path: Path, scratch: Path) -> None:
    """Nobody is ever locked out of their own money."""
    fewer = DOUBLING[:12]
    url = hostile(tmp_path, segment=log(TABLES, fewer))
    assert backup_cli("verify", url, "--scratch", scratch).code == 3
    said = backup_cli("verify", url, "--scratch", scratch, "--no-limits")
    assert said.code == 0 and "version 2" in said.out, said
    assert backup_cli("verify", url, "--scratch", scratch).code == 3


# What the child says


@pytest.mark.parametrize(
    "says",
    [
        b"x\n",
        b"[]\n",
        b'{"done":1}\n',
        b'{"done":{}}\n',
        b'{"failed":"SystemExit","says":"x"}\n',
        b'{"failed":1}\n',
        b'{"read":-1,"of":1,"signs":0,"change":null,"segment":0}\n',
        b'{"read":1e400,"of":1,"signs":0,"change":null,"segment":0}\n',
        b"[" * 100_000 + b"\n",
        b"[" * 100_000,
        b"",
    ],
)
def test_child_process_that_answers_nonsense_is_not_believed(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    times = 1 if says.endswith(b"\n") else 30
    child = f"import sys; sys.stdin.read(); sys.stdout.buffer.write({says!r} * {times}); sys.stdout.flush()"
    monkeypatch.setattr(parent, "_CHILD", child)
    said = backup_cli("restore", hostile(tmp_path, segment=log(TABLES)), scratch / "restored")
    assert said.code != 0 and said.out == "" and "Traceback" not in said.err
    assert "makes no sense" in said.err or "died" in said.err
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("made", ["link", "fifo", "shorter", "nothing", "other"])
def test_file_that_the_child_process_did_not_make_properly_is_not_published(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"SQLite format 3\0".ljust(4096, b"\0"))
    acts = {
        "link": f"os.symlink({str(victim)!r}, target)",
        "fifo": "os.mkfifo(target)",
        "shorter": "open(target, 'wb').write(b'SQLite format 3\\0')",
        "nothing": "pass",
        "other": "os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600)); os.truncate(target, 4096)",
    }
    done: dict[str, Any] = {
        "state_version": 1, "node_id": None, "is_lightningd": True, "empty": False, "data_version": 1, "changes": 1,
        "last_time": 0, "foreign_keys": True, "torn": None, "end_unverified": None, "bytes": 4096,
        "unknown": {"objects": [], "count": 0, "checksum": ""}, "generation": 1,
        "stored": 1, "sequence": 1, "checksum": 0, "violations": [], "all_checked": True,
    }  # fmt: skip
    child = (
        "import json, os, sys\n"
        "target = json.loads(sys.stdin.readline())['arguments']['target']\n"
        f"{acts[made]}\n"
        f"print(json.dumps({{'done': {done!r}}}), flush=True)\n"
    )
    monkeypatch.setattr(parent, "_CHILD", child)
    said = backup_cli("restore", hostile(tmp_path, segment=log(TABLES)), scratch / "restored")
    assert said.code == 1 and "nothing was replaced" in said.err, said
    assert not (scratch / "restored").exists()
    assert victim.stat().st_size == 4096


def test_error_in_the_child_process_keeps_sentence_exit_code_and_finding(tmp_path: Path, scratch: Path) -> None:
    """The parent reports the child's error: its sentence, its exit code, and the damage noted in the backup."""
    files: Files = backup(segment=log(TABLES, ("INSERT INTO nowhere VALUES (1)",)))
    place = written(tmp_path / "hostile.bkp", files)
    said = backup_cli("verify", place.as_uri(), "--scratch", scratch)
    assert_refused(said, "data version 2 cannot be executed.*no such table", 3)
    assert b"cannot be executed" in (place / "damage").read_bytes()


def test_interrupt_while_modules_are_loaded_ends_without_a_traceback() -> None:
    interrupted = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'backup_cli.commands.verify':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['/bin/backup-cli', 'verify', 'file:///nowhere']\n"
        "from backup_cli.isolated import backup_cli\n"
        "backup_cli()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        [sys.executable, "-c", interrupted], capture_output=True, text=True, env=environment, timeout=60
    )
    assert process.returncode == -signal.SIGINT
    assert process.stdout == process.stderr == ""
