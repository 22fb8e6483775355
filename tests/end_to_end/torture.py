"""Kill −9, again and again: `python -m tests.end_to_end.torture --rounds 1000 --seed 7`.

Each round is a run of the node with the real plugin, and a way for it to end: a clean stop, a kill of node, plugin or
both at a random moment, writes after the plugin was stopped. In between come runs without the plugin, compactions,
resyncs, and restores that the node goes on from. After each round the backup is restored: it must hold exactly what
was committed last, or that and the one change that was in flight. With `--members`, see tests/members/torture.py.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from backends.change import foreign_keys_setting
from tests.end_to_end.db_compare import Everything, compared, everything, faults
from tests.end_to_end.statements import first_call, some_calls
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import Call, Moment, Node, PluginDied, Victim, foreign_keys, run_without_plugin

THRESHOLDS = ("400", "20000", "200000", "16777216")
"""Bytes from which on the plugin compacts by itself, in a round."""


class Torture:
    """A node in `root`, and what its backup may hold."""

    def __init__(self, root: Path, seed: int, world: Callable[[Path], World] = World) -> None:
        self.chance, self.world = random.Random(seed), world(root)
        self.did: Counter[str] = Counter()
        self._foreign_keys_off = False
        self._in_flight: list[Call] = []
        self._allowed: list[Everything] = []
        self._answered, self._unanswered = 0, False
        self.world.init().run([first_call()])
        self._allowed = [everything(self.world.database)]

    # One round

    def round(self) -> None:
        """A run, its end, whatever happens afterwards, and the proof."""
        self.world.environment["LIGHTNINGD_BACKUP_COMPACT_AT"] = self.chance.choice(THRESHOLDS)
        self._answered, self._in_flight, self._foreign_keys_off = 0, [], False
        node = self.world.node(important=self.chance.random() < 0.8)
        node.start()
        self._live(node)
        self._end(node)
        assert said_at(node, "broken") == [], node.logs
        assert "Traceback" not in node.stderr, node.stderr
        self._note_what_may_be_there()
        self.check()
        self._afterwards()

    def _live(self, node: Node) -> None:
        for _ in range(self.chance.choice((0, 1, 3, 10, 30))):
            self._make(node)
        if self._answered and not node.initialised and self.chance.random() < 0.8:
            node.init()
        if node.initialised and self.chance.random() < 0.3:
            self.did["compactions wanted"] += node.rpc("backup-compact")["started"]
            node.wire.listen(self.chance.uniform(0, 0.5))
        if self._answered and self.chance.random() < 0.1:
            self.did["restores beside the node"] += 1
            self._allowed = [everything(self.world.database)]
            self.check()

    def _make(self, node: Node) -> None:
        for call in self._next_calls():
            self._commit(node, call)

    def _next_calls(self) -> list[Call]:
        calls = some_calls(self.chance, self.world.version, without_foreign_keys=self._foreign_keys_off)
        return calls[: self.chance.randint(1, len(calls))]  # a migration may go on later, or never

    def _commit(self, node: Node, call: Call) -> None:
        node.db_write(call)
        self._took(call)

    def _took(self, call: Call) -> None:
        self._answered += 1
        setting = foreign_keys_setting(call.writes)
        if setting is not None:
            self._foreign_keys_off = not setting

    # Ends

    def _end(self, node: Node) -> None:
        end = self.chance.choice((self._stop, self._stop_late, self._kill, self._die_in_a_call, self._die_in_a_call))
        self.did[end.__name__.strip("_")] += 1
        end(node)

    def _stop(self, node: Node) -> None:
        assert node.stop() == 0

    def _stop_late(self, node: Node) -> None:
        """Stop, and write more after the plugin has ended, which the backup cannot know of."""
        if self._answered:
            self._allowed = [everything(self.world.database)]
        self._answered = 0
        assert node.stop(late=self._next_calls()) == 0

    def _kill(self, node: Node) -> None:
        node.die(self.chance.choice((Victim.BOTH, Victim.NODE)))

    def _die_in_a_call(self, node: Node) -> None:
        *before, last = self._next_calls()
        for call in before:
            self._commit(node, call)
        moment, victim = self.chance.choice(list(Moment)), self.chance.choice(list(Victim))
        delay = self.chance.choice((0.0, self.chance.uniform(0, 0.0015)))
        self.did[f"{victim.value} died {moment.name.lower().replace('_', ' ')}"] += 1
        context = [foreign_keys(last.data_version, on=False)] if self._foreign_keys_off else []
        try:
            node.die_at(moment, last, victim, delay)
        except PluginDied:
            assert victim is Victim.PLUGIN
        node.die()
        if moment is Moment.BEFORE_COMMIT:
            self._answered += 1
        committed = victim is Victim.PLUGIN and moment is Moment.BEFORE_COMMIT
        if not committed and moment is not Moment.BEFORE_HOOK:
            self._in_flight = [*context, last]
        self._unanswered = moment is Moment.IN_HOOK

    def _note_what_may_be_there(self) -> None:
        """What the node committed, if the backup was told of it; and that with the change that was in flight."""
        committed = everything(self.world.database)
        before = [] if self._answered else self._allowed
        if not self._in_flight:
            self._allowed = before or [committed]
            return
        with_it = self._with_what_was_in_flight()
        self._allowed = [*before, committed, with_it] if self._unanswered else [with_it]

    def _with_what_was_in_flight(self) -> Everything:
        aside = self.world.root / "in-flight"
        aside.mkdir()
        try:
            shutil.copy(self.world.database, aside)
            run_without_plugin(aside, self._in_flight)
            return everything(aside / self.world.database.name)
        finally:
            shutil.rmtree(aside)

    # Between two runs

    def _afterwards(self) -> None:
        kind = self.chance.random()
        if kind < 0.15:
            self._run_without_plugin()
        elif kind < 0.22:
            self._offline("compact", *self.world.key_options, self.world.url)
        elif kind < 0.27:
            self._offline("resync", "--lightning-dir", self.world.directory)
            self._allowed = [everything(self.world.database)]
        elif kind < 0.34:
            options = ("--replace", "--resume", *self.world.key_options)
            self._offline("restore", *options, self.world.url, self.world.directory)
            self._allowed = [everything(self.world.database)]
            for old in self.world.directory.glob("*.before-restore-*"):
                old.unlink()
            for old in self.world.directory.glob("backup.lock.*"):
                old.unlink()
        elif kind < 0.45:
            self._offline("verify", *self.world.key_options, self.world.url)

    def _run_without_plugin(self) -> None:
        """Also with one change only: if another one was in flight, versions then agree although contents differ."""
        self.did["runs without the plugin"] += 1
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            self.world.run_without_plugin(some_calls(self.chance, self.world.version))

    def _offline(self, act: str, *arguments: object) -> None:
        self.did[act] += 1
        said = backup_cli(act, *arguments)
        newer = re.search(r"--discard-newer (\w+)", said.err)
        if said.code == 1 and newer is not None:  # a restore after changes that the backup has not heard of
            self.did["given up on purpose"] += 1
            said = backup_cli(act, "--discard-newer", newer[1], *arguments)
        assert said.code == 0, said

    def finish(self) -> None:
        """After the last round."""

    def check(self) -> None:
        """Restore the backup and compare it with the states that it may hold."""
        target = self.world.restore()
        assert faults(target) == []
        restored = everything(target)
        wrong = [compared(restored, allowed) for allowed in self._allowed]
        assert [] in wrong, f"the backup holds none of {len(wrong)} allowed states: {wrong}"
        target.unlink()


def torture(seed: int, rounds: int, seconds: float, say: bool, kind: Callable[[Path, int], Torture] = Torture) -> int:
    """Run `rounds` rounds, or as many as fit into `seconds`. Returns their number; AssertionError if anything is
    lost."""
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    began = time.monotonic()
    done = 0
    try:
        subject = kind(root, seed)
        while done < rounds and time.monotonic() - began < seconds:
            subject.round()
            done += 1
            if say and done % 100 == 0:
                print(f"{done} rounds, {done / (time.monotonic() - began):.1f}/s", flush=True)
        subject.finish()
    except BaseException:
        print(f"failed in round {done + 1} with --seed {seed}; everything is kept in {root}", file=sys.stderr)
        raise
    shutil.rmtree(root)
    if say:
        took = time.monotonic() - began
        print(f"seed {seed}: {done} rounds in {took:.0f} s, {done / took:.1f}/s; nothing was lost")
        for what, count in sorted(subject.did.items()):
            print(f"  {count:>6} {what}")
    return done


def main() -> None:
    """Ends with a traceback, the seed and the directory when anything is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--members", action="store_true", help="a backup with several members, which fail, too")
    parser.add_argument("--large", action="store_true", help="the database counts as a large one")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    kind: Callable[[Path, int], Torture] = Torture
    if given.members:
        from tests.members.torture import MembersTorture

        kind = MembersTorture
    if given.large:
        from tests.end_to_end.live_torture import LiveTorture

        kind = LiveTorture
    torture(given.seed, given.rounds, given.seconds, say=True, kind=kind)


if __name__ == "__main__":
    main()
