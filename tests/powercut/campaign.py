"""Power cuts at every call of a recording: `python -m tests.powercut.campaign --filesystems ext4 --every 10 --seed 7`.

A node is run once, on disks that record what reaches them. Then the power is cut: for the node right after every COMMIT
and between each answer and its COMMIT, and at random for the node, its backup or both. Each time the node is started
again as lightningd starts it, makes two changes and stops; its database must hold every change that was acknowledged,
and so must a restore. Some of these starts are recorded and cut in turn.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

from tests.fake_lightningd import RECORDED_CALLS, Call, read_recording
from tests.powercut.blocks import BlockLog, copy_sparsely
from tests.powercut.commands import SCENARIOS, around_command, record_command
from tests.powercut.cuts import AtCuts, Cut, Known, Marks, at_each_call, at_random, in_start, known_at
from tests.powercut.disks import FILESYSTEMS, Unavailable, Unmountable, build_recorder, check_available, make_image
from tests.powercut.life import IDLE_FOR, Life
from tests.powercut.machine import BACKUP, NODE, Machine
from tests.powercut.model import Model
from tests.powercut.proof import GOOD, Outcome, Verdict, prove
from tests.powercut.stubs import STUBS, plugin_without

_PRIVATE = "LIGHTNINGD_BACKUP_PRIVATE_MOUNTS"
_KEPT = 5
"""How many of the cuts that went wrong are kept and shown."""

MAX_UNMOUNTABLE = 10

CALLS_BEFORE_COMMAND = 40

CUTS_OF_A_START = 3
"""How many cuts are made in each start that is recorded."""


class Campaign:
    """The campaign on one filesystem: a record, and the cuts of it."""

    def __init__(self, root: Path, machine: Machine, recorder: Path, model: Model, chance: random.Random) -> None:
        self._root, self._machine, self._program = root, machine, recorder
        self._model, self._chance = model, chance
        self.plugin_after_cut = machine.plugin
        self.outcomes: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []
        self.starts, self.seconds, self.unmountable = 0, 0.0, 0

    def record(self, calls: Sequence[Call], before: Path | None, rest: float) -> BlockLog:
        """Record the node's run on new disks, from `init` on."""
        for number in (NODE, BACKUP):
            image = make_image(self._root / f"start-{number}", self._machine.filesystems[number])
            copy_sparsely(image, self._root / f"disk-{number}")
        disks = [self._root / f"disk-{number}" for number in (NODE, BACKUP)]
        with self._machine.recorded_on(self._program, disks, self._root / "log") as recorder:
            self._machine.init(before)
            recorder.mark(begin="life")
            Life(self._machine, recorder, calls, rest).live()
        return BlockLog(self._root / "log")

    def cut(self, log: BlockLog, cuts: Sequence[Cut], marks: Marks, starts: int) -> None:
        """Make all these cuts; after `starts` of them, also cut the start that follows."""
        again = set(self._chance.sample(range(len(cuts)), min(starts, len(cuts))))
        disks = AtCuts(log, self._root, self._chance)
        for number, cut in sorted(enumerate(cuts), key=lambda each: each[1].position):
            known = known_at(marks, cut.position)
            disks.write(cut)
            if number in again:
                with self._counted_if_unmountable(cut):
                    self._cut_again(disks.images, known)
            self._start(cut, disks.images, known)

    def cut_commands(self, calls: Sequence[Call], count: int) -> None:
        """Record and cut each of the commands, given to a node that has made these calls."""
        for name, scenario in SCENARIOS.items():
            with tempfile.TemporaryDirectory(dir=self._root) as scratch:
                root = Path(scratch)
                log = record_command(root, self._machine, self._program, scenario, calls)
                disks = AtCuts(log, root, self._chance)
                cuts = around_command(name, list(log.marks()), count, self._chance)
                for cut in sorted(cuts, key=lambda each: each.position):
                    disks.write(cut)
                    self._start(cut, disks.images, (len(calls), len(calls)))

    def _cut_again(self, images: Sequence[Path], known: Known) -> None:
        """Record a start on copies of these images, and cut that start."""
        with tempfile.TemporaryDirectory(dir=self._root) as scratch:
            root = Path(scratch)
            for number, image in enumerate(images):
                copy_sparsely(image, root / f"start-{number}")
                copy_sparsely(image, root / f"disk-{number}")
            served = [root / f"disk-{number}" for number in (NODE, BACKUP)]
            with self._machine.recorded_on(self._program, served, root / "log") as recorder:
                prove(self._machine_after_cut, self._model, known, lambda: recorder.mark(asked=1))
            log = BlockLog(root / "log")
            disks = AtCuts(log, root, self._chance)
            for cut in in_start(log, list(log.marks()), CUTS_OF_A_START, self._chance):
                disks.write(cut)
                self._start(cut, disks.images, known)

    @property
    def _machine_after_cut(self) -> Machine:
        return replace(self._machine, plugin=self.plugin_after_cut)

    def _start(self, cut: Cut, images: Sequence[Path], known: Known) -> None:
        began = time.monotonic()
        with (
            self._counted_if_unmountable(cut),
            self._kept_if_wrong(images),
            self._machine.running_on(images),
        ):
            self._note(cut, known, prove(self._machine_after_cut, self._model, known))
        self.seconds += time.monotonic() - began
        self.starts += 1

    def _note(self, cut: Cut, known: Known, verdict: Verdict) -> None:
        counted = self.outcomes.setdefault(cut.kind, Counter())
        counted[verdict.outcome.name] += 1
        counted["rolled forward"] += verdict.rolled_forward
        counted["new snapshots"] += verdict.snapshot
        if verdict.outcome not in GOOD | ({Outcome.REFUSED} if cut.may_refuse else set()):
            told = [text for level, text in verdict.logs if level != "info" and text not in verdict.why]
            self.wrong.append(
                f"{cut}, {known[0]} of {known[1]} calls answered: {verdict.outcome.value}. {verdict.why} {told}"
            )

    @contextmanager
    def _counted_if_unmountable(self, cut: Cut) -> Iterator[None]:
        """No node can do anything about that; but only tearing explains it, and only a few times."""
        try:
            yield
        except Unmountable as error:
            self.unmountable += 1
            if not any(luck.torn for luck in cut.luck) or self.unmountable > MAX_UNMOUNTABLE:
                raise
            print(f"  {cut}: {error}", flush=True)

    @contextmanager
    def _kept_if_wrong(self, images: Sequence[Path]) -> Iterator[None]:
        """The disks as they were before the start, for whoever looks into it."""
        before = len(self.wrong)
        aside = [image.with_name(f"{image.name}.before") for image in images] if before < _KEPT else []
        for image, copy in zip(images, aside, strict=False):
            copy_sparsely(image, copy)
        try:
            yield
        finally:
            for number, copy in enumerate(aside):
                if len(self.wrong) > before:
                    copy.rename(self._root / f"wrong-{before + 1}-{number}")
                else:
                    copy.unlink()


def run(given: argparse.Namespace, name: str, root: Path, calls: Sequence[Call], model: Model) -> Campaign:
    """The campaign for one filesystem of the node's; prints what came out."""
    machine = Machine(root, (FILESYSTEMS[name], FILESYSTEMS[given.backup_filesystem]))
    chance = random.Random(f"{given.seed} {name}")
    campaign = Campaign(root, machine, build_recorder(root), model, chance)
    if given.without:
        campaign.plugin_after_cut = plugin_without(given.without)
    began = time.monotonic()
    log = campaign.record(calls, before_of(given.recording), given.rest)
    marks = list(log.marks())
    recorded = time.monotonic() - began
    named = list(at_each_call(marks, given.every))
    if given.sample is not None:
        named = chance.sample(named, min(given.sample, len(named)))
    cuts = [*named, *at_random(marks, given.random, chance)]
    campaign.cut(log, cuts, marks, given.starts)
    if given.commands and before_of(given.recording) is None:
        campaign.cut_commands(calls[:CALLS_BEFORE_COMMAND], given.commands)
    total = time.monotonic() - began
    speed = f"{recorded:.0f} s for the record, {campaign.seconds / campaign.starts:.2f} s a start"
    print(f"{name}: {campaign.starts} cuts in {total:.0f} s ({speed})")
    for kind, counted in sorted(campaign.outcomes.items()):
        print(f"  {kind}: " + ", ".join(f"{number} {what}" for what, number in counted.items() if number))
    for wrong in campaign.wrong[: 40 if given.verbose else _KEPT]:
        print(f"  WRONG: {wrong}")
    return campaign


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filesystems", default=",".join(FILESYSTEMS), help="the node's, separated by commas")
    parser.add_argument("--backup-filesystem", default="ext4", choices=FILESYSTEMS)
    parser.add_argument(
        "--recording",
        type=Path,
        default=RECORDED_CALLS,
        help="db_write calls, or a directory with db_write.jsonl.gz and before.sqlite3.gz",
    )
    parser.add_argument("--calls", type=int, help="play only the first CALLS of them")
    parser.add_argument("--every", type=int, default=1, help="cut at one call in EVERY")
    parser.add_argument("--sample", type=int, help="make only SAMPLE of those cuts, chosen at random")
    parser.add_argument("--random", type=int, default=100, help="number of random cuts of each kind")
    parser.add_argument("--starts", type=int, default=50, help="number of cuts after which the start is cut, too")
    parser.add_argument("--commands", type=int, default=20, help="number of cuts within each command; 0: no commands")
    parser.add_argument("--rest", type=float, default=IDLE_FOR, help="seconds for which the node rests once")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--without", choices=STUBS, help="what the plugin lacks after a cut: the campaign must then fail"
    )
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    parser.add_argument("--keep", type=Path, help="keep records and images of what went wrong there")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def calls_of(recording: Path) -> Path:
    """The file with the calls of a recording, which may be a directory."""
    return recording / "db_write.jsonl.gz" if recording.is_dir() else recording


def before_of(recording: Path) -> Path | None:
    """The database that the node began with, if the recording has one."""
    before = recording / "before.sqlite3.gz"
    return before if before.exists() else None


def _place() -> Path | None:
    """A place where flushes cost nothing: those of the recorded disks are in the record, and no others matter."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30 else None


def _in_private(arguments: Sequence[str]) -> NoReturn:
    """Run this program again in a mount namespace of its own: nobody else sees its mounts, and they end with it."""
    command = ["unshare", "--mount", "--propagation", "private", "--fork", "--kill-child=SIGTERM"]
    again = [*command, sys.executable, "-m", "tests.powercut.campaign", *arguments]
    os.execvpe(again[0], again, os.environ | {_PRIVATE: "1"})


def main() -> int:
    """Returns 0 if nothing was lost and no start was refused."""
    given = _arguments()
    filesystems = given.filesystems.split(",")
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a process that a shell starts in the background ignores it
    try:
        check_available([*filesystems, given.backup_filesystem])
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    if _PRIVATE not in os.environ:
        _in_private(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {given.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="powercut-", dir=given.keep or _place()))
    campaigns: dict[str, Campaign] = {}
    try:
        calls = list(islice(read_recording(calls_of(given.recording)), given.calls))
        model = Model(calls, root, before_of(given.recording))
        for name in filesystems:
            (root / name).mkdir()
            campaigns[name] = run(given, name, root / name, calls, model)
    finally:
        if given.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    if given.json:
        outcomes = {name: campaign.outcomes for name, campaign in campaigns.items()}
        given.json.write_text(json.dumps(outcomes))
    return 1 if any(campaign.wrong for campaign in campaigns.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
