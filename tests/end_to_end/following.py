"""A node that streams changes and is killed, a copy that follows its backup and is killed, and looks at that copy."""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from backends import backup_at
from backends.compaction.compact import compact_log
from tests.end_to_end.db_compare import Everything, compared, everything, faults
from tests.end_to_end.world import World, command
from tests.fake_lightningd import Aborted, Call, History, Node

COPY = "following.sqlite3"


class Stream:
    """A node that makes calls as fast as it can, from a thread. `calls` are those that are committed, by version."""

    def __init__(self, world: World, compact_at: int = 1 << 24, pause: float = 0.0) -> None:
        self.world, self._pause = world, pause
        world.environment["LIGHTNINGD_BACKUP_COMPACT_AT"] = str(compact_at)
        self.calls: dict[int, Call] = {}
        self.starts = 0
        self.refused: str | None = None
        """Why the node was refused, once it was: it does not start again."""
        self.history = History()
        self.last: Call | None = None
        """The last call, whether or not it was committed."""
        self._node: Node | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the node cleanly."""
        self._stopping.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def kill(self) -> None:
        """Kill the plugin at whatever it does: the node dies of that, and starts again."""
        node = self._node
        if node is not None:
            with suppress(ProcessLookupError, AssertionError):
                os.kill(node.pid, signal.SIGKILL)

    def wait_for(self, changes: int, seconds: float = 120.0) -> None:
        """Wait until so many changes are committed."""
        until = time.monotonic() + seconds
        while len(self.calls) < changes and self.refused is None:
            assert time.monotonic() < until, f"{len(self.calls)} changes after {seconds} s"
            assert self._thread.is_alive(), "the stream has ended"
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stopping.is_set() and self.refused is None:
            try:
                self._live()
            except Aborted as error:
                if "taken over" in str(error) or "another node" in str(error):
                    self.refused = str(error)
            except sqlite3.Error:
                pass

    def _compact(self) -> None:
        """Between two runs, because the plugin's own compaction has the lowest priority and may never get that far."""
        backup = backup_at(self.world.url)
        with closing(backup.open(lambda level, line: None)) as writer:
            compacted = compact_log(backup.storage, self.world.root)
            if compacted is not None:
                writer.publish_compaction(compacted)

    def _live(self) -> None:
        if self.starts % 2:
            self._compact()
        with self.world.node() as node:
            self._node = node
            self.starts += 1
            version = self.history.version = self.world.version
            self._settle(version)
            for number in range(1 << 30):
                if self._stopping.is_set():
                    break
                call = self.history.first() if self.history.version == 0 else self._next()
                self.last = call
                node.db_write(call)
                self.calls[call.data_version] = call
                if number == 3:
                    node.init()
                if self._pause:
                    time.sleep(self._pause)

    def _settle(self, version: int) -> None:
        """A call that was saved but not committed was rolled forward at the start, or it never was saved."""
        if version and version not in self.calls:
            assert self.last is not None and self.last.data_version == version
            self.calls[version] = self.last

    def _next(self) -> Call:
        number = self.history.version
        if number % 500 == 17:
            return self.history.big(200_000)
        return self.history.note(f"{number} " + "x" * (number % 700))


class Shadow:
    """What the node's database was at a version, made without any of the project's own code."""

    def __init__(self, directory: Path, stream: Stream) -> None:
        self._path, self._stream, self._version = directory / "shadow.sqlite3", stream, 0
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous = OFF")

    def at(self, version: int) -> Everything:
        """The database at this version, which is not lower than that of the last call."""
        assert version >= self._version, f"the copy went back from {self._version} to {version}"
        self._connection.execute("BEGIN")
        for number in range(self._version + 1, version + 1):
            while number not in self._stream.calls:  # saved, and just about to be committed
                time.sleep(0.01)
            for statement in self._stream.calls[number].writes:
                self._connection.execute(statement)
        self._connection.execute("COMMIT")
        self._version = version
        return everything(self._path)

    def close(self) -> None:
        self._connection.close()


class Follower:
    """`backup-cli follow` in a process of its own, which may be killed and started again."""

    def __init__(self, world: World, *options: object, destination: Path | None = None) -> None:
        self.world, self._options = world, options
        self.directory = destination or world.root / "warm"
        self.process: subprocess.Popen[str] | None = None
        self._log = world.root / "follow.log"

    @property
    def copy(self) -> Path:
        """The copy's file."""
        return self.directory / COPY

    @property
    def said(self) -> str:
        """What all its processes have said so far."""
        return self._log.read_text()

    def start(self) -> "Follower":
        """Begin, or go on."""
        words = command("follow", *self.world.key_options, *self._options, self.world.url, self.directory)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True)
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it, and so the process that works for it."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None
            _wait_for_release(self.copy)

    def kill_worker(self) -> None:
        """Kill only the process that works for it."""
        assert self.process is not None
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                child.kill()

    def look(self, scratch: Path) -> Path | None:
        """A copy of the copy as anybody may see it at this moment; None before there is one."""
        if not self.copy.exists():
            return None
        target = scratch / f"look-{time.monotonic_ns()}.sqlite3"
        if self.process is None:  # with the journal that a killed process has left
            for suffix in ("", "-journal"):
                with suppress(FileNotFoundError):
                    shutil.copy(f"{self.copy}{suffix}", f"{target}{suffix}")
            for suffix in ("", "-journal"):
                with suppress(FileNotFoundError):
                    Path(f"{target}{suffix}").chmod(0o600)
        else:
            source = sqlite3.connect(f"file:{self.copy}?mode=ro", uri=True, timeout=30)
            with closing(source), closing(sqlite3.connect(target)) as copied:
                try:
                    source.backup(copied)
                except sqlite3.OperationalError:  # a hot journal: the worker was killed, and is not back yet
                    return None
        return target

    def version(self) -> int:
        """The copy's version, 0 before there is one."""
        try:
            with closing(sqlite3.connect(f"file:{self.copy}?mode=ro", uri=True, timeout=30)) as connection:
                found = connection.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchone()
                return int(found[0]) if found else 0
        except sqlite3.OperationalError:
            return 0

    def wait_for(self, version: int, seconds: float = 30.0) -> float:
        """Wait until the copy is at this version; the seconds that it took."""
        began = time.monotonic()
        while self.version() < version:
            assert time.monotonic() - began < seconds, f"at {self.version()}, not {version}: {self.said}"
            time.sleep(0.02)
        return time.monotonic() - began


def _wait_for_release(path: Path) -> None:
    """The worker dies with its parent, a moment later."""
    until = time.monotonic() + 20
    while time.monotonic() < until and any(path.samefile(file) for file in _open_files(path)):
        time.sleep(0.01)


def _open_files(path: Path) -> Iterator[Path]:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.resolve() == path:
                yield link.resolve()


@contextmanager
def following(world: World, *options: object) -> Iterator[Follower]:
    """A follower that is killed at the end."""
    follower = Follower(world, *options).start()
    try:
        yield follower
    finally:
        follower.kill()


def version_of(path: Path) -> int:
    """The version of a database."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchone()
        return int(found[0]) if found else 0


def check_look(follower: Follower, shadow: Shadow, scratch: Path) -> int:
    """Look at the copy, and assert that it is the node's database at its version. Returns that; 0 if there is none."""
    seen = follower.look(scratch)
    if seen is None:
        return 0
    version = version_of(seen)
    if version:
        assert compared(everything(seen), shadow.at(version)) == [], f"at version {version}"
        assert [fault for fault in faults(seen) if fault != f"{seen.name}-journal"] == [], "(one not hot)"
    seen.unlink()
    return version


VICTIMS = ("node", "follower", "nobody", "worker")


def kill(what: str, stream: Stream, follower: Follower) -> None:
    """Kill this one of VICTIMS."""
    if what == "node":
        stream.kill()
    elif what == "follower":
        follower.kill()
    elif what == "worker":
        follower.kill_worker()
