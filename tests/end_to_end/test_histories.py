"""Any history of a node, as a property: what is restored is what was committed, rowids and `sqlite_sequence` included.

The plugin's commit gate and the record log run in this process, over a real directory and a real database; deaths, runs
without the plugin, failing disks and compactions come in any order. `LIGHTNINGD_BACKUP_CAMPAIGN=1` tries many more.
"""

import errno
import os
import random
import shutil
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from backends import backup_at
from backends.change import foreign_keys_setting
from backends.compaction.compact import compact_log
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.writer import Writer
from backends.mounts import ephemeral
from backends.node.hand_over import hand_over
from backends.sqlite.copy import nothing
from backends.sqlite.rebuild import rebuild
from plugin.before_manifest import before_manifest
from plugin.commit_gate import CONTINUE, CommitGate
from plugin.sync_point import SyncPointThread
from tests.end_to_end.db_compare import Everything, compared, everything, faults
from tests.end_to_end.statements import first_call, some_calls
from tests.fake_lightningd import Call, committed_version, foreign_keys
from tests.log.histories import CAMPAIGN, silent

seeds = st.integers(0, 1 << 32)

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a sync costs nothing: no power is cut here."""

ACTS = (
    WRITE := "a transaction, or a migration with its PRAGMAs",
    BEGIN_MIGRATION := "a lone PRAGMA, and nothing after it",
    IDLE := "a time without changes",
    COMPACT := "a compaction begins",
    SWITCH := "a compaction ends",
)

ENDS = (
    STOPPED := "a clean stop",
    STOPPED_LATE := "a clean stop, and changes after it that the plugin does not hear of",
    KILLED := "a kill between two calls",
    UNTOLD := "a kill before the hook",
    UNCOMMITTED := "a kill before the commit",
    COMPACTED_UNCOMMITTED := "a kill before the commit, with a compaction in between",
    FAILED := "a write that fails",
    FAILED_AFTERWARDS := "a write that fails, and yet has reached the disk",
)


@pytest.fixture(autouse=True)
def tmpfs_counts_as_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "_IN_MEMORY", frozenset())


class Called:
    """lightningd, which has just called."""

    begun = float("inf")


class NodeHistory(RuleBasedStateMachine):
    """A node that is started, writes, dies, and is started again."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="history-", dir=IN_MEMORY))
        self.directory, self.database = self.root / "regtest", self.root / "regtest" / "lightningd.sqlite3"
        self.directory.mkdir()
        self.url = (self.root / "lightning.bkp").as_uri()
        self.gate: CommitGate | None = None
        self.points: SyncPointThread | None = None
        self.connection: apsw.Connection | None = None
        self.compacted: CompactedSnapshot | None = None
        self.version = 0
        self.foreign_keys_off = False
        self.told = False  # whether the backup has heard of what this run began with
        self.allowed: list[Everything] = [{"": []}]
        """What the backup may hold: one state, or two when a change was in flight."""

    @initialize()
    def a_new_node(self) -> None:
        backup = backup_at(self.url)
        position = backup.create(nothing())
        hand_over(self.directory, self.url, backup.id(), position)
        self._start()
        self._commit(first_call())
        self._stop([])

    def teardown(self) -> None:
        if self.gate is not None:
            self._stop([])
        self._close_what_the_dead_had_open()
        shutil.rmtree(self.root)

    def _close_what_the_dead_had_open(self) -> None:
        """A killed process's files are closed for it; those that died here would leave this one a thousand."""
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()).startswith(str(self.database)):
                    os.close(int(link.name))

    # The node

    def _start(self) -> None:
        self.gate = CommitGate(self.directory, silent, before_manifest(self.directory))
        self.version = committed_version(self.directory) or 0
        self.points = SyncPointThread(self.gate, Called())
        self._open_database()
        self.told = False

    def _open_database(self) -> None:
        self.connection = apsw.Connection(str(self.database))
        self.connection.execute("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON")
        self.foreign_keys_off = False

    @property
    def _writer(self) -> Writer:
        """Open since the first call of this run."""
        assert self.gate is not None
        assert self.gate.writer is not None
        return self.gate.writer

    def _execute(self, call: Call) -> None:
        assert self.connection is not None
        if foreign_keys_setting(call.writes) is None:
            self.connection.execute("BEGIN")
        for statement in call.writes:
            self.connection.execute(statement)

    def _end_transaction(self, call: Call, how: str) -> None:
        assert self.connection is not None
        if self.connection.in_transaction:
            self.connection.execute(how)
        if how == "COMMIT":
            self.version = call.data_version
            setting = foreign_keys_setting(call.writes)
            self.foreign_keys_off = self.foreign_keys_off if setting is None else not setting

    def _ask(self, call: Call) -> dict[str, str]:
        assert self.gate is not None
        return self.gate.db_write(call.data_version, list(call.writes))

    def _commit(self, call: Call) -> None:
        self._execute(call)
        assert self._ask(call) == CONTINUE, self.gate and self.gate.refusal
        self._look()
        self._end_transaction(call, "COMMIT")
        self._look()
        self.told, self.allowed = True, []

    def _look(self) -> None:
        """The sync point's thread may look at any moment; whatever it notes must be true."""
        if self.points is not None and random.Random(self.version).random() < 0.7:
            self.points.look()

    def _next(self, seed: int) -> list[Call]:
        return some_calls(random.Random(seed), self.version, without_foreign_keys=self.foreign_keys_off)

    def _committed(self) -> Everything:
        """What a reader sees in the database."""
        with closing(apsw.Connection(str(self.database))) as reader:
            return self._state(reader)

    def _with_open_transaction(self) -> Everything:
        """What a reader would see if the open transaction were committed."""
        assert self.connection is not None
        return self._state(self.connection)

    def _state(self, connection: apsw.Connection) -> Everything:
        copy = self.root / "copy.sqlite3"
        copy.write_bytes(connection.serialize("main"))
        try:
            return everything(copy)
        finally:
            copy.unlink()

    def _kill(self) -> None:
        """Die as the kernel makes a process die: every descriptor is closed, nothing is tidied up."""
        assert self.gate is not None
        assert self.connection is not None
        if self.gate.writer is not None:
            segments = self.gate.writer._segments
            for segment in (*segments._retired, segments.current, segments._next):
                if segment is not None:
                    segment.handle.close()
            self.gate.writer._lock.release()
        self.gate._lock._lock.forget()
        self.connection.close(True)
        self.gate = self.connection = self.compacted = None

    # What happens

    @rule(
        seed=seeds,
        absent=st.sampled_from((0, 0, 0, 0, 1, 3)),
        acts=st.lists(st.sampled_from(ACTS), max_size=6),
        end=st.sampled_from(ENDS) | st.just(UNCOMMITTED),
    )
    def run(self, seed: int, absent: int, acts: list[str], end: str) -> None:
        """`absent` changes without the plugin; then a run with it, from a start to an end."""
        if absent:
            self._run_without_the_plugin(seed, absent)
        self._start()
        for number, act in enumerate(acts):
            self._act(act, seed + number)
        self._end(self._next(seed), end)

    def _run_without_the_plugin(self, seed: int, count: int) -> None:
        self._open_database()
        for number in range(count):
            for call in self._next(seed + number):
                self._execute(call)
                self._end_transaction(call, "COMMIT")
        assert self.connection is not None
        self.connection.close()
        self.connection = None

    def _act(self, act: str, seed: int) -> None:
        assert self.gate is not None
        if act == WRITE:
            for call in self._next(seed):
                self._commit(call)
        elif act == BEGIN_MIGRATION:  # whatever comes next finds foreign keys off, and a new connection finds them on
            self._commit(foreign_keys(self.version, on=False))
        elif act == IDLE and self.gate.writer is not None:
            self.gate.writer.maintain()
            assert self.points is not None
            self.points.look(ending=True)
        elif act == COMPACT and self.told:
            self.compacted = compact_log(self._writer.storage, self.directory)
        elif act == SWITCH and self.compacted is not None:
            self._writer.publish_compaction(self.compacted)
            self.compacted = None

    def _end(self, calls: list[Call], how: str) -> None:
        if how in (STOPPED, STOPPED_LATE):
            self._stop(calls if how == STOPPED_LATE else [])
            return
        if how in (FAILED, FAILED_AFTERWARDS) and not self.told:
            self._act(WRITE, 0)
            calls = self._next(0)
        *before, last = calls
        for call in before:
            self._commit(call)
        self._settle()
        if how != KILLED:
            self._execute(last)
            self._look()
        if how in (COMPACTED_UNCOMMITTED, UNCOMMITTED):
            assert self._ask(last) == CONTINUE
            self._look()
            self.allowed = [self._with_open_transaction()]
        if how == COMPACTED_UNCOMMITTED:
            self._compact()
        if how in (FAILED, FAILED_AFTERWARDS):
            self._fail(last, reached=how == FAILED_AFTERWARDS)
        self._end_transaction(last, "ROLLBACK")
        if how in (FAILED, FAILED_AFTERWARDS):
            self._stop([])
        else:
            self._kill()

    def _stop(self, late: list[Call]) -> None:
        """lightningd stops its plugins before it has written its last."""
        assert self.gate is not None
        assert self.connection is not None
        self._settle()
        if self.points is not None:
            self.points.stop()
        self.gate.close()
        for call in late:
            self._execute(call)
            self._end_transaction(call, "COMMIT")
        self.connection.close()
        self.gate = self.connection = self.compacted = None

    def _fail(self, call: Call, *, reached: bool) -> None:
        """The disk fails in this call; nobody knows whether the change was written despite the error."""
        handle = self._writer._segments.current.handle
        durable = handle.write_durably

        def fails(offset: int, data: bytes) -> None:
            if reached:
                durable(offset, data)
            raise OSError(errno.EIO, "Input/output error")

        handle.write_durably = fails  # type: ignore[method-assign]
        for _ in range(2):
            assert self._ask(call)["result"] == "fail"
        self.allowed.append(self._with_open_transaction())

    def _compact(self) -> None:
        compacted = compact_log(self._writer.storage, self.directory)
        if compacted is not None:
            self._writer.publish_compaction(compacted)

    # What must hold

    def _settle(self) -> None:
        """Note what the backup holds now, before the database changes without the plugin."""
        if self.told and not self.allowed:
            self.allowed = [self._committed()]

    @invariant()
    def the_restored_database_is_the_committed_one(self) -> None:
        if not self.directory.exists() or not self.database.exists():
            return
        self._settle()
        target = self.root / "restored.sqlite3"
        with backup_at(self.url).read() as generation:
            rebuild(generation, target)
        try:
            assert faults(target) == []
            restored = everything(target)
            assert [] in [compared(restored, allowed) for allowed in self.allowed]
        finally:
            target.unlink()


NodeHistory.TestCase.settings = settings(
    max_examples=40 * CAMPAIGN,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestNodeHistory = pytest.mark.slow(NodeHistory.TestCase)
