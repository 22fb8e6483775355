"""What the plugin does with the process that compacts: one that fails, hangs, or leaves something behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import psutil
import pytest

from backends.compaction.compact import compact_log
from backends.log.known_damage import DAMAGE, found_now
from backends.log.writer.pace import MAX_PORTION, Pace
from backends.storage.local import LocalStorage
from backends.system.commits import Commits, commits
from backends.system.scratch import scratch_directory
from plugin import compaction, low_priority, process_watch
from plugin.compaction import Compaction
from plugin.damage_watch import DamageWatch
from plugin.renewal import Renewal
from tests.fake_lightningd import History
from tests.log.histories import backup_in, change, changes, database, silent, source

FAILS = "import sys; sys.exit('it is broken')"
AUTOGROUP = Path("/proc/self/autogroup")

HANGS = "import time; time.sleep(600)"
NOTHING = "print('nothing')"


class Watched:
    """A compaction of a backup with a few changes, and what was reported of it."""

    def __init__(self, directory: Path) -> None:
        self.node = directory / "node"
        self.node.mkdir()
        self.backup = backup_in(LocalStorage(directory / "b"))
        self.backup.create(source())
        self.writer = self.backup.open(silent, "one")
        for one in changes(compaction.NEVER_COMPACTED + 4):
            self.writer.append(one)
        self.told: list[str] = []
        self.renewal = Renewal(self.node, threading.Lock())
        self.damage = DamageWatch(self.node, self.report, self.renewal)
        self.compaction = Compaction("file:///b", str(self.node), self.report, self.damage, self.renewal)

    def report(self, level: str, line: str) -> None:
        self.told.append(line)

    @property
    def troubles(self) -> tuple[str, ...]:
        return tuple(trouble.sentence for trouble in self.writer.status("").troubles)

    def begin(self) -> None:
        self.compaction.wanted = True
        self.compaction.tick(self.writer)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, self.told
            time.sleep(0.02)
            self.compaction.tick(self.writer)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(process_watch, "_LOOK_EVERY", 0.0)
    return Watched(tmp_path)


def test_compaction_that_hangs_is_killed_and_reported(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log would grow without end, and `status` would call it a compaction that is running."""
    monkeypatch.setattr(compaction, "_COMPACTOR", HANGS)
    monkeypatch.setattr(process_watch, "HANGS_AFTER", 1.0)
    watched.begin()
    children = psutil.Process().children()
    # A child of an earlier test may be a zombie still, which has no command line.
    [process] = [child for child in children if HANGS in " ".join(child.as_dict(["cmdline"])["cmdline"] or [])]
    watched.until(lambda: not watched.compaction.running)
    assert not process.is_running()
    assert [line for line in watched.told if "has done nothing for" in line] == watched.told[1:]
    assert "the last compaction failed" in watched.troubles[0]


def test_compaction_that_computes_for_long_is_not_taken_for_hanging(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", f"sum(n for n in range(30_000_000)); {NOTHING}")
    monkeypatch.setattr(process_watch, "HANGS_AFTER", 0.5)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert "nothing to compact" in watched.told[-1]


def test_compaction_with_nothing_to_do_clears_an_earlier_failure(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert "it is broken" in watched.troubles[0]
    monkeypatch.setattr(compaction, "_COMPACTOR", NOTHING)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert watched.troubles == ()


def test_compaction_that_fails_repeatedly_is_retried_at_growing_intervals(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt may have written a whole snapshot."""

    def fail() -> str:
        watched.begin()
        watched.until(lambda: not watched.compaction.running)
        return watched.told[-1]

    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    told = [fail() for _ in range(8)]
    for line, minutes in zip(told, (10, 20, 40, 80, 160, 320, 360, 360), strict=True):
        assert f"the next attempt is in {minutes} minutes, or at once with: lightning-cli backup-compact" in line
    monkeypatch.setattr(compaction, "_COMPACTOR", NOTHING)
    fail()
    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    assert "in 10 minutes" in fail()


def test_compaction_that_failed_2000_times_is_retried_in_six_hours(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    for _ in range(2000):
        watched.compaction._fail(watched.writer, "it is broken")
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert "the next attempt is in 360 minutes" in watched.told[-1]


def test_due_compaction_waits_after_a_failure(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    monkeypatch.setattr(compaction, "MIN_SEGMENT_BYTES", 1)
    clock = FakeClock()
    monkeypatch.setattr(compaction, "time", clock)
    for waiting in (600.0, 1200.0):
        watched.compaction.tick(watched.writer)
        assert watched.compaction.running
        watched.until(lambda: not watched.compaction.running)
        clock.now += waiting - 1
        watched.compaction.tick(watched.writer)
        assert not watched.compaction.running
        clock.now += 2


class FakeClock:
    """A clock that shows the same time until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


# Damage that a compaction proves


PROVES = """import sys; print('{"what": "a change cannot be executed", "generation": 1}'); sys.exit(3)"""


def test_damage_proved_by_a_compaction_is_noted_and_no_other_compaction_begins(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", PROVES)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    known = backup_in(LocalStorage(watched.node.parent / "b")).damage.read()
    assert known is not None and (known.by, known.what) == ("compaction", "a change cannot be executed")
    assert watched.writer.status("").health == "damaged"
    assert watched.told[-1].startswith(known.sentence()) and not any("failed" in line for line in watched.told)
    watched.begin()
    assert not watched.compaction.running


@pytest.mark.parametrize(
    "script",
    [
        FAILS,
        "import sys; sys.exit(3)",
        "import sys; print('[]'); sys.exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        'import sys; print(\'{"what": "of an earlier generation", "generation": 0}\'); sys.exit(3)',
    ],
    ids=["fails", "no line", "another line", "killed", "an earlier generation"],
)
def test_compaction_that_fails_without_proof_notes_no_damage(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", script)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert not (watched.node.parent / "b" / DAMAGE).exists()
    assert not watched.writer.status("").damaged


def test_damage_found_by_verify_during_a_compaction_is_not_lost(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damage may be in the records that the compaction leaves out, and those go on into the next generation."""
    watched.writer.take_snapshot(source(database((change(History().first()),)), 1), "one that can be replayed")
    for one in changes(40, 1):
        watched.writer.append(one)
    watched.compaction.tick(watched.writer)  # removes what an earlier one has left
    compacted = compact_log(watched.writer.storage, watched.node)
    assert compacted is not None
    monkeypatch.setattr(compaction, "_COMPACTOR", f"print({compacted.encode()!r})")
    watched.begin()
    backup_in(LocalStorage(watched.node.parent / "b")).damage.note(found_now("verify", "a bad change", 2))
    watched.until(lambda: not watched.compaction.running)
    assert watched.writer.manifest.generation == 2
    assert backup_in(LocalStorage(watched.node.parent / "b")).status("").health == "damaged"


def left_by_a_dead_process(watched: Watched) -> list[Path]:
    """A copy of a database in the node's directory, and half a snapshot in the backup."""
    copy = watched.node / ".lightningd-backup-x" / "compacted.sqlite3"
    copy.parent.mkdir()
    (copy.parent / "lock").touch()
    half = [watched.node.parent / "b" / f"snapshot-00000002-compaction-0a1b2c3d{part}.tmp" for part in ("", ".1")]
    for path in (copy, *half):
        path.write_bytes(b"a node's secrets")
    return [copy.parent, *half]


def test_files_left_by_a_killed_plugin_are_removed(watched: Watched) -> None:
    left = left_by_a_dead_process(watched)
    with scratch_directory(watched.node) as in_use:
        watched.compaction.tick(watched.writer)
        assert in_use.exists()
    assert not any(path.exists() for path in left)


def test_files_left_by_a_killed_compaction_are_removed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_COMPACTOR", FAILS)
    watched.begin()
    left = left_by_a_dead_process(watched)
    watched.until(lambda: not watched.compaction.running)
    assert not any(path.exists() for path in left)


def test_fenced_writer_removes_no_file_of_the_writer_that_replaced_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)  # it is on another machine
    half = left_by_a_dead_process(watched)[1]
    backup_in(LocalStorage(watched.node.parent / "b")).open(silent, "two")
    half.write_bytes(b"the other one's")
    watched.compaction.tick(watched.writer)
    assert half.exists()


def test_compaction_process_has_lowest_priorities_and_is_killed_first() -> None:
    script = (
        "import os, psutil\nfrom plugin.low_priority import lower_priority\nlower_priority()\nme = psutil.Process()\n"
        "print(me.nice(), int(me.ionice().ioclass), open('/proc/self/oom_score_adj').read())"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said.split() == ["19", str(int(psutil.IOPRIO_CLASS_IDLE)), "1000"]


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel does not share the processor out among sessions")
def test_compaction_process_has_its_own_session_with_lowest_priority() -> None:
    """In the node's session, `nice` ranks the process only below the node: against other sessions the node would
    pay."""
    script = (
        "import os\nfrom plugin.low_priority import lower_priority\nlower_priority()\n"
        "print(os.getsid(0) == os.getpid(), open('/proc/self/autogroup').read())"
    )
    before = AUTOGROUP.read_text()  # empty in the kernel's first group: for what init or a container started
    said = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    own, group, *nice = said.split()
    assert (own, nice) == ("True", ["nice", "10"])
    assert group not in before.split()
    assert AUTOGROUP.read_text() == before


def test_compaction_process_lowers_its_priority_before_any_other_import() -> None:
    """Importing alone takes half a second of the processor on a small board."""
    script = compaction._COMPACTOR
    assert script.index("lower_priority()") < script.index("plugin.compactor")
    loaded = "import sys, plugin.low_priority; print([name for name in sys.modules if name.startswith('backends')])"
    said = subprocess.run([sys.executable, "-c", loaded], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said.strip() == "[]"


def test_compaction_process_keeps_its_session_if_sessions_have_no_priority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A session at the usual priority would take more from the node than `nice` does within the node's."""
    monkeypatch.setattr(low_priority, "_AUTOGROUP", tmp_path / "missing" / "autogroup")
    monkeypatch.setattr(os, "setsid", lambda: pytest.fail("a session was made"))
    with pytest.raises(FileNotFoundError):
        low_priority._leave_session()


def test_session_priority_that_the_kernel_is_too_busy_to_set_is_retried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(low_priority, "_AUTOGROUP", tmp_path / "autogroup")
    monkeypatch.setattr(low_priority, "_PAUSE", 0.0)
    asked, write = [], os.write

    def busy(descriptor: int, data: bytes) -> int:
        asked.append(data)
        if len(asked) < 4:
            raise BlockingIOError
        return write(descriptor, data)

    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "write", busy)
    low_priority._leave_session()
    assert asked == [b"10"] * 4
    assert (tmp_path / "autogroup").read_text() == "10"


def test_lowering_priorities_in_a_sandbox_that_forbids_it_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid to lower priorities. A backup that grows without end would be worse."""

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setsid", refused)
    monkeypatch.setattr(os, "nice", refused)
    monkeypatch.setattr(psutil.Process, "ionice", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    low_priority.lower_priority()


def test_compaction_sees_when_the_plugin_commits(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it could not yield; the process has nothing but the page."""
    looks = (
        "import sys; from backends.system.commits import read_shared; "
        "sys.exit(f'it saw {read_shared(int(sys.argv[2])).ended} commits')"
    )
    monkeypatch.setattr(compaction, "_COMPACTOR", looks)
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert f"it saw {commits.ended} commits" in watched.told[-1]
    assert commits.ended >= compaction.NEVER_COMPACTED + 4


def test_compaction_without_shared_memory_runs_and_does_not_yield(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(commits), "share", lambda _: None)
    monkeypatch.setattr(compaction, "_COMPACTOR", "import sys; assert len(sys.argv) == 2; print('nothing')")
    watched.begin()
    watched.until(lambda: not watched.compaction.running)
    assert "nothing to compact" in watched.told[-1]


class _Committing:
    """A node in the same thread: one commit is always under way, and one ends whenever the compaction waits."""

    def __init__(self) -> None:
        self.commits = Commits()
        for _ in range(10):
            self.commits.begin()
            self.commits.end(0)
        self.commits.begin()

    def sleep(self, seconds: float) -> None:
        self.commits.end(0)
        self.commits.begin()


def test_compaction_lets_a_commit_go_first_after_every_portion(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path / "b")
    backup = backup_in(place)
    with closing(apsw.Connection(str(tmp_path / "old.sqlite3"))) as old:
        old.execute(
            "CREATE TABLE vars (name VARCHAR(32), val VARCHAR(255), intval INTEGER, blobval BLOB, PRIMARY KEY (name)); "
            "INSERT INTO vars VALUES ('data_version', NULL, 0, randomblob(3000000))"
        )
    backup.create(source((tmp_path / "old.sqlite3").read_bytes()))
    with closing(backup.open(silent, "one")) as writer:
        for one in changes(30):
            writer.append(one)
        node = _Committing()
        pace = Pace(node.commits, sleep=node.sleep)
        compacted = compact_log(place, tmp_path, pace=pace)
        assert compacted is not None
        assert pace.yielded.portions >= 3_000_000 // MAX_PORTION
        assert pace.yielded.waits >= pace.yielded.portions
        writer.publish_compaction(compacted)
