"""How often a running plugin looks whether somebody has found damage in its backup, and what it then says."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from backends.errors import BackupError
from backends.log.writer.writer import Writer
from backends.sqlite.connection import Busy
from backends.sqlite.live_copy import CopyFailed
from backends.storage.base import Space
from plugin.damage_watch import DamageWatch
from plugin.renewal import Renewal
from tests.plugin.gate_states import LIFE, STATES, Node


@pytest.mark.parametrize(("costly", "looks"), [(False, 120), (True, 10)])
def test_damage_is_looked_for_rarely_where_each_request_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costly: bool, looks: int
) -> None:
    """In ten minutes with a tick each second."""
    clock, read = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    damage = SimpleNamespace(read=lambda: read.append(clock[0]))
    writer = cast("Writer", SimpleNamespace(damage=damage, storage=SimpleNamespace(costly=costly)))
    watch = DamageWatch(tmp_path, lambda *_: None, cast("Renewal", SimpleNamespace(running=False)))
    for _ in range(600):
        watch.tick(writer)
        clock[0] += 1
    assert len(read) == looks


MIB = 1 << 20


class Watched:
    """A watch over a real backup that something is noted against, with a clock and free bytes that the test sets."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.said, self.clock, self.free = Node(root), list[str](), 1000.0, 0
        self.node.live(*LIFE)
        monkeypatch.setenv("LIGHTNINGD_BACKUP_LARGE", "1")
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        self.renewal = Renewal(self.node.directory, threading.Lock())
        self.watch = DamageWatch(self.node.directory, lambda level, line: self.said.append(line), self.renewal)
        self.writer = self.node.log().open(lambda *_: None)
        monkeypatch.setattr(self.writer, "space", lambda: Space(self.free, 1 << 40))
        STATES["the backup is known to be damaged"](self.node)

    def look(self, times: int = 1) -> list[str]:
        """Look so many times, a minute after each other. Returns what was said."""
        before = len(self.said)
        for _ in range(times):
            self.clock += 60
            self.watch.tick(self.writer)
        return self.said[before:]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched(tmp_path, monkeypatch)
    yield watched
    watched.writer.close()


def test_space_that_a_new_snapshot_lacks_is_said_once_each_time_that_it_is_lacking(watched: Watched) -> None:
    watched.free = 20 * MIB
    lacking, broken = watched.look(10)
    assert "it may need 64 MiB at the destination, and 20 MiB are free there" in lacking
    assert "known to be damaged" in broken and watched.watch.heal is None
    watched.free = 100 * MIB
    assert watched.look(3) == []
    assert watched.watch.heal is not None
    watched.watch.begun()
    watched.free = 30 * MIB
    assert "30 MiB are free there" in watched.look(3)[0] and watched.watch.heal is None


def test_space_that_is_only_used_for_history_counts_as_free_for_a_new_snapshot(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.free = 20 * MIB
    sizes = replace(watched.writer.sizes(), kept=2, kept_bytes=80 * MIB)
    monkeypatch.setattr(watched.writer, "sizes", lambda: sizes)
    watched.look()
    assert watched.watch.heal is not None


def test_failed_attempts_become_rare_and_the_same_reason_is_said_once(watched: Watched) -> None:
    """As while a large database is locked by each of its transactions: each attempt reads it, and none succeeds."""
    watched.free, attempts, lines = 1 << 30, 0, list[str]()
    watched.look()
    for _ in range(6 * 60):
        if watched.watch.heal is not None:
            attempts += 1
            before = len(watched.said)
            watched.watch.could_not(Busy("it is locked"))
            lines += watched.said[before:]
        watched.look()
    assert attempts == 11  # after 1, 2, 4, 8, 16 and 32 minutes, then each hour
    assert lines == ["no new snapshot could be taken yet (the next attempt is in 1 minute): it is locked"]
    watched.watch.could_not(BackupError("it is at another version"))
    assert "in 60 minutes): it is at another version" in watched.said[-1]
    watched.watch.taken()
    watched.watch.could_not(Busy("it is locked"))
    assert "in 1 minute): it is locked" in watched.said[-1]


def test_reason_that_lasts_as_long_as_the_node_runs_is_said_with_what_to_do(watched: Watched) -> None:
    for _ in range(3):
        watched.watch.could_not(CopyFailed("the database is in WAL mode", lasting=True))
    [line] = watched.said
    assert "no new snapshot can be made while the node runs: the database is in WAL mode" in line
    assert "Restart the node" in line and line.endswith("backup-cli resync") and line.isascii()
