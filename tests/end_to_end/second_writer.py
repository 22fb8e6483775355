"""A second writer, again and again: `python -m tests.end_to_end.second_writer --rounds 1000 --seed 7`.

Each round is a node that streams changes into its backup at full speed, with the real plugin, and somebody who disturbs
it at a random moment: a copy of its directory that starts as well (equal, older, or another node's), or a command, from
the same or from another PID namespace, with the lock in the backup or as if it came from another machine. What either
was told is saved must be in the backup, however the round ends.
"""

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.end_to_end.world import World
from tests.fake_lightningd import Call, History, Node, PluginDied, Refused
from tests.fake_lightningd.calls import transaction
from tests.fake_lightningd.database import SeparateDatabase

_NO_LOCK = "from backends.storage.local import LocalStorage; LocalStorage.lock = lambda self, what: None;"
_UNFENCED = "from backends.storage import local_files; local_files._is_ours = lambda descriptor: True;"
_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


class Stream:
    """A node's commits at full speed, each with a row of its own, until it is ended or refused."""

    def __init__(self, node: Node, version: int, name: str) -> None:
        self._node, self._version, self.name = node, version, name
        self.acknowledged: list[str] = []
        self.refusal = ""
        self._stop, self._paused = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __str__(self) -> str:
        return f"{self.name}: {len(self.acknowledged)} acknowledged, {self.refusal[:300]!r}"

    def start(self) -> "Stream":
        self._thread.start()
        return self

    def pause(self) -> threading.Lock:
        """Held, it keeps the node from its next commit: `with stream.pause():`."""
        return self._paused

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _next(self) -> Call:
        row = f"{self.name} {self._version + 1}"
        return transaction(self._version + 1, f"INSERT INTO vars (name, val) VALUES ('{row}', '{'x' * 200}')")

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._paused:
                try:
                    self._node.db_write(self._next())
                except (Refused, PluginDied) as error:
                    self.refusal = str(error)
                    return
                self._version += 1
                self.acknowledged.append(f"{self.name} {self._version}")
            time.sleep(0)


def new_node(node_id: str) -> list[Call]:
    """The first calls of a node with this key."""
    history = History()
    key = f"INSERT INTO vars (name, blobval) VALUES ('node_id', x'{node_id}')"
    return [history.first(), history.transaction(key)]


class Disturbed:
    """One node, its backup, and what happens to them."""

    def __init__(self, root: Path, seed: int, *, fenced: bool = True) -> None:
        self.chance, self.root, self.did = random.Random(seed), root, Counter[str]()
        self.told = ""
        """What happened in the last round."""
        self.lost = 0
        """Changes that were acknowledged and are not in the backup, over all rounds."""
        self._number, self._fenced = 0, fenced

    def round(self) -> None:
        """One round: a stream, a disturbance, and a check of what the backup holds afterwards."""
        self._number += 1
        self.world = World(self.root / f"round-{self._number}")
        self.world.init().run([*new_node("02aa"), *History(2).notes(3)])
        self._older = self._copy("older")
        # Both sides must be without the lock for it not to be there.
        self._locked = self.chance.random() < 0.3
        self._nodes: list[Node] = []
        self.stream = Stream(self._start(self.world), self.world.version, "first").start()
        self._told: list[Stream] = [self.stream]
        time.sleep(self.chance.uniform(0.02, 0.3))
        act = self.chance.choice((self._equal, self._equal, self._behind, self._another_node, self._command))
        act()
        time.sleep(self.chance.uniform(0.0, 0.2))
        for stream in self._told:
            stream.end()
        for node in self._nodes:
            node.die()
        lost = self.lost
        self._check()
        lock = "with" if self._locked else "without"
        self.told = "; ".join([f"{act.__name__.strip('_')}, {lock} the lock", *map(str, self._told)])
        if self.lost == lost:
            shutil.rmtree(self.world.root, ignore_errors=True)  # a plugin whose node has died may still be ending there

    # Those who disturb it

    def _equal(self) -> None:
        """A copy of the directory as it is now; the first node waits, and then goes on."""
        with self.stream.pause():
            copy = self._copy("equal")
            second = self._start(copy)
            first = Stream(second, copy.version, "second")
            self._told.append(first.start())
            time.sleep(self.chance.choice((0.0, 0.3, 0.6)))
        self.did["equal copies"] += 1

    def _behind(self) -> None:
        second = self._start(self._older)
        self._told.append(Stream(second, self._older.version, "second").start())
        time.sleep(self.chance.uniform(0.3, 0.8))
        self.did["older copies"] += 1

    def _another_node(self) -> None:
        """A database of its own, in a directory that names the same backup."""
        copy = self._copy("another")
        copy.database.unlink()
        copy.run_without_plugin(new_node("03bb"))
        copy.run_without_plugin(History(2).notes(self.chance.choice((1, 50, 3000))))
        second = self._start(copy)
        self._told.append(Stream(second, copy.version, "second").start())
        time.sleep(self.chance.uniform(0.3, 0.8))
        self.did["other databases"] += 1

    def _command(self) -> None:
        directory, elsewhere = self.world.directory, self.world.root / "elsewhere" / "regtest"
        elsewhere.mkdir(parents=True)
        words = self.chance.choice(
            (
                ["compact", self.world.url],
                ["resync", "--lightning-dir", directory],
                ["resync", "--lightning-dir", self._older.directory],
                ["restore", "--resume", self.world.url, elsewhere],
                ["verify", self.world.url],
            )
        )
        program = f"from backup_cli.main import run; import sys; sys.exit(run({[str(word) for word in words]!r}))"
        done = subprocess.run(self._program(program), capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        self.did[f"{words[0]} {'done' if done.returncode == 0 else 'refused'}"] += 1

    def _start(self, world: World) -> Node:
        # Its database in a process of its own: several threads make its calls.
        node = world.node(SeparateDatabase, command=self._program("from plugin.main import main; main()"))
        node.start()
        node.init()
        self._nodes.append(node)
        return node

    def _program(self, text: str) -> list[str]:
        before = ("" if self._locked else _NO_LOCK) + ("" if self._fenced else _UNFENCED)
        namespace = _NAMESPACE if self._locked and self.chance.random() < 0.5 and _may_unshare() else []
        return [*namespace, sys.executable, "-c", before + text]

    def _copy(self, name: str) -> World:
        world = World(self.world.root / name)
        world.directory.rmdir()
        shutil.copytree(self.world.directory, world.directory, ignore=shutil.ignore_patterns("*-journal"))
        world.backup = self.world.backup
        return world

    # What must hold

    def _check(self) -> None:
        with closing(sqlite3.connect(self.world.restore())) as connection:
            rows = {name for (name,) in connection.execute("SELECT name FROM vars")}
        missing = [row for stream in self._told for row in stream.acknowledged if row not in rows]
        self.lost += len(missing)
        self.did["refused first" if self.stream.refusal else "went on first"] += 1
        self.did["refused second"] += sum(1 for stream in self._told[1:] if stream.refusal)
        self.did["acknowledged"] += sum(len(stream.acknowledged) for stream in self._told)


def _may_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode
    )


def disturb(seed: int, rounds: int, seconds: float, *, say: bool, fenced: bool = True) -> tuple[int, int]:
    """Run `rounds` rounds, or as many as fit into `seconds`. Returns their number, and how many changes were lost."""
    root = Path(tempfile.mkdtemp(prefix="second-writer-", dir="/var/tmp"))
    began, done = time.monotonic(), 0
    subject = Disturbed(root, seed, fenced=fenced)
    report: Callable[[str], None] = print if say else lambda line: None
    try:
        while done < rounds and time.monotonic() - began < seconds:
            before = subject.lost
            subject.round()
            done += 1
            if subject.lost > before:
                report(f"round {done} (seed {seed}): {subject.lost - before} changes are missing: {subject.told}")
            if done % 50 == 0:
                report(f"{done} rounds in {time.monotonic() - began:.0f} s, {subject.lost} changes lost")
    finally:
        if not subject.lost:  # else the rounds that have lost something are kept there
            with suppress(OSError):
                shutil.rmtree(root)
    report(f"seed {seed}: {done} rounds, {subject.lost} acknowledged changes lost")
    for what, count in sorted(subject.did.items()):
        report(f"  {count:>6} {what}")
    return done, subject.lost


def main() -> None:
    """Exits with 1 when anything acknowledged was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--unfenced", action="store_true", help="without the fence check after each sync: must lose changes"
    )
    given = parser.parse_args()
    _, lost = disturb(given.seed, given.rounds, given.seconds, say=True, fenced=not given.unfenced)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
