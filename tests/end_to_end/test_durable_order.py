"""Durable before `continue`, proven by what the kernel was asked, and in which order."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.segments import play_past_a_segment
from tests.end_to_end.test_compaction import incompressible as replaced
from tests.end_to_end.tracing import NOISE, Syscall, Trace, in_backup
from tests.end_to_end.world import PLUGIN, World, command, snapshots_taken, spawned
from tests.fake_lightningd import Call, History

WRITES = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate")
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2", "link", "linkat")


def traced(world: World, calls: Sequence[Call]) -> list[list[Syscall]]:
    """A run of the node with these calls, from start to clean stop."""
    trace = Trace(world.root, PLUGIN)
    world.run(calls, command=trace.command)
    return trace.threads()


def answered(calls: Sequence[Syscall]) -> list[list[Syscall]]:
    """For each db_write: what the thread did between the read of its end and the write of its answer."""
    found: list[list[Syscall]] = []
    asked, since = False, 0
    for number, call in enumerate(calls):
        if call.name == "read" and call.arguments.startswith("0<"):
            asked, since = asked or "db_write" in call.arguments, number
        elif call.name == "write" and call.arguments.startswith("1<") and "continue" in call.arguments:
            assert asked, "an answer to nothing"
            found.append([one for one in calls[since + 1 : number] if one.name not in NOISE])
            asked = False
    return found


# A commit


COMMIT = ["pread64", "pwrite64", "fdatasync", "fstat"]
"""Read the database's header, one write, one sync, and check that the file is still this writer's."""


def names_of(commit: Sequence[Syscall]) -> list[str]:
    """What was called; some machines' fstat has another name."""
    return [re.sub("newfstatat|fstat64|statx", "fstat", call.name) for call in commit]


def test_commit_makes_one_write_and_one_sync_and_nothing_else(lived: World, history: History) -> None:
    calls = [*history.notes(40), history.foreign_keys(on=False), history.big(1 << 14), *history.notes(5)]
    first, *rest = answered(traced(lived, calls)[0])
    assert len(rest) == len(calls) - 1
    for commit in rest:
        assert names_of(commit) == COMMIT
        segment = str(lived.backup / "segment-00000001")
        assert [call.path for call in commit] == [str(lived.database), *[segment] * 3]
        assert not any(call.failed for call in commit)
    assert names_of(in_backup(first, lived.backup))[-3:] == COMMIT[1:]


def test_commit_larger_than_the_preallocated_space_still_makes_one_write_and_one_sync(
    lived: World, history: History
) -> None:
    """The file grows with that very write; fdatasync makes the size durable with it."""
    calls = [*history.notes(2), incompressible(history, 400_000), *history.notes(2)]
    for commit in answered(traced(lived, calls)[0])[1:]:
        assert names_of(commit) == COMMIT


def incompressible(history: History, size: int) -> Call:
    """A transaction that cannot be stored in much less than `size` bytes."""
    blob = random.Random(history.version).randbytes(size).hex()
    name = f"random {history.version}"
    return history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('{name}', x'{blob}')")


# What appears, appears whole and stays


class Order:
    """Follows one thread's calls on a backup, and says what was not durable when something else relied on it."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.published: list[str] = []
        self._dirty: set[str] = set()
        self._names_pending: set[str] = set()

    def follow(self, calls: Sequence[Syscall], backup: Path) -> "Order":
        """Take in these calls. What is left pending at the end is a fault, too."""
        place = str(backup)
        for call in in_backup(calls, backup):
            if not call.failed:
                self._take(call, place)
        self.faults += [f"the name {name} was never made durable" for name in sorted(self._names_pending)]
        return self

    def _take(self, call: Syscall, place: str) -> None:
        if call.name in WRITES:
            self._dirty.add(call.path)
        elif call.name in SYNCS and call.path == place:
            self._names_pending.clear()
        elif call.name in SYNCS:
            self._dirty.discard(call.path)
        elif call.name in RENAMES:
            old, new = call.names
            if old in self._dirty:
                self.faults.append(f"{new} was given its name before its content was synced")
            if Path(new).name == "manifest" and self._names_pending:
                self.faults.append(f"the manifest was published before {self._names_pending} were durable")
            self._names_pending.add(new)
            self.published.append(Path(new).name)
        elif call.name == "openat" and "O_CREAT" in call.arguments and not call.names[0].endswith((".tmp", "/lock")):
            self.faults.append(f"{call.names[0]} was created under its own name")
        elif call.name == "unlink" and self._names_pending and not call.path.endswith(".tmp"):
            self.faults.append(f"{call.path} was removed before {self._names_pending} were durable")


def assert_in_order(calls: Sequence[Syscall], world: World, *published: str) -> None:
    order = Order().follow(calls, world.backup)
    assert order.faults == []
    assert [name for name in order.published if name in published or not published] == list(published)


def test_init_makes_everything_durable_before_the_manifest_and_backup_lock_last(world: World, history: History) -> None:
    world.run_without_plugin([history.first(), *history.notes(3)])
    trace = Trace(world.root, command("init", "--lightning-dir", world.directory, world.url))
    assert spawned(*trace.command).code == 0
    calls = trace.threads()[0]
    assert_in_order(calls, world, "snapshot-00000001", "segment-00000001", "manifest")
    made = next(number for number, call in enumerate(calls) if call.name == "mkdir" and call.path == str(world.backup))
    entries = [call.path for call in calls[made:] if call.name == "fsync"]
    assert str(world.backup.parent) in entries, "the directory's own name must be durable, too"
    names = [call.names[-1] for call in calls if call.name in RENAMES]
    assert Path(names[-1]).name == "backup.lock"
    assert [call.path for call in calls if call.name == "fsync"][-1] == str(world.directory)


def test_start_writes_its_last_segment_again_before_appending_to_it(lived: World, history: History) -> None:
    threads = traced(lived, history.notes(3))
    assert_in_order(threads[0], lived, "session", "segment-00000001", "session")


def test_change_of_segment_uses_a_file_that_was_durable_before(lived: World, history: History) -> None:
    """Nine MiB that cannot be compressed, so that the writer moves on to the segment that was preallocated."""
    trace = Trace(lived.root, PLUGIN)
    with lived.node(command=trace.command) as node:
        play_past_a_segment(lived, node, [incompressible(history, 1 << 20) for _ in range(9)])
    threads = trace.threads()
    assert [Order().follow(thread, lived.backup).faults for thread in threads] == [[] for _ in threads]
    assert "segment-00000002" in [name for thread in threads for name in published(thread, lived)]
    assert {Path(commit[1].path).name for commit in answered(threads[0])[1:]} == {
        "segment-00000001",
        "segment-00000002",
    }
    assert all(names_of(commit) == COMMIT for commit in answered(threads[0])[1:])
    lived.assert_restored_equals_the_nodes()


def published(calls: Sequence[Syscall], world: World) -> list[str]:
    return Order().follow(calls, world.backup).published


def test_new_generation_is_durable_before_the_manifest_names_it(lived: World, history: History) -> None:
    """The database is ahead: snapshot and segment are durable before the manifest names them, and stay if it fails."""
    lived.run_without_plugin(history.notes(3))
    trace = Trace(lived.root, PLUGIN)
    node = lived.run(history.notes(2), command=trace.command)
    assert len(snapshots_taken(node)) == 1
    main = trace.threads()[0]
    order = Order().follow(main, lived.backup)
    assert order.faults == []
    names = [name for name in order.published if name != "session"]
    assert names == ["segment-00000001", "snapshot-00000002", "segment-00000002", "kept", "manifest"]
    removed = [call.file for call in main if call.name == "unlink" and not call.file.endswith(".tmp")]
    assert "segment-00000001" not in removed
    assert (lived.backup / "segment-00000001").exists()


@pytest.mark.parametrize("act", ["compact", "resync"])
def test_compact_and_resync_make_all_durable_before_publishing(lived: World, act: str) -> None:
    history = History(lived.version)
    with lived.node() as node:
        play_past_a_segment(lived, node, [replaced(history, 1 << 20) for _ in range(9)])
        node.play(history.notes(20))
    words = ["compact", lived.url] if act == "compact" else ["resync", "--lightning-dir", lived.directory]
    trace = Trace(lived.root, command(*words))
    assert spawned(*trace.command).code == 0
    order = Order().follow(trace.threads()[0], lived.backup)
    assert order.faults == []
    assert "manifest" in order.published
