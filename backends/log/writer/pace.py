"""How fast a snapshot is written beside a node that commits to the same disk: its writer yields to the commits.

A disk does one thing after the other. A commit that comes while 4 MiB of a snapshot are on their way to a stick waits
for all of them: 300 ms, where it takes 6. So a snapshot is written in portions, each on the disk before the next one
begins, and after each portion a commit that is under way goes first. So no commit waits for more than one portion, and
the portion is what the disk writes in a fraction of the time that a commit takes anyway.

`step` is the rule; `Pace` applies it.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from backends.system.commits import KEPT, CommitTimes

MIN_PORTION, MAX_PORTION = 16 << 10, 1 << 20
"""Bytes."""

MAX_PAUSE = 0.5
"""Seconds after one portion, at most, for which commits have the disk to themselves."""

MAX_WAIT = 0.1
"""Seconds for which a commit that is under way is waited for: it may hang."""

SHARE, LATE = 0.5, 0.5
"""A portion takes this share of the time of a commit. If commits still take longer by more than LATE of that time, the
portions shrink, and pauses follow them."""

FLUSHED_SHARE, FLUSHED_PAUSE = 6.0, 2.5
"""Where only a sync brings data to the disk, each portion costs one, and small portions would cost little else. There
a portion takes so many times as long as a commit, and is followed by a pause of so many times its own length. Commits
that follow one another then wait for a portion once in fifteen times."""

QUIET = 5.0
"""A pause ends when no commit has come for so many times as long as one takes."""

VERY_LATE = 4.0
"""A commit that takes more than so many times as long as usual counts as one that takes so long."""

QUICKEST = 1e-5
"""Seconds that any commit takes, at least."""

USUAL = 0.005
"""Seconds that a commit is taken to need as long as too few were seen."""

WAITS_PER_WORK, WAITS_FREE = 3.0, 5.0
"""For each second of its own work, it waits for at most so many seconds; and so many on top. That is the lower bound of
the pace, whatever the commits do: the work takes four times as long as without waiting."""

GROWTH = 2.0
"""The snapshot has to grow so many times as fast as the log; otherwise it does not yield."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known about the disk and its commits. Times are in seconds."""

    usual: float
    """What a commit takes when nothing else is written."""
    recent: float
    """What commits have taken lately, on average."""
    rate: float
    """Bytes of a snapshot that the disk writes in a second."""
    flushed: bool = False
    """Whether only a sync brings data to the disk."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: write a portion of so many bytes, then leave the disk to commits for so many seconds."""

    portion: int
    pause: float


HURRIED = Step(4 << 20, 0.0)
"""For a snapshot that must not yield any more."""


def step(seen: Seen) -> Step:
    """The next portion and pause. The later the commits are, the smaller the one and the longer the other."""
    usual = max(seen.usual, QUICKEST)
    late = max(seen.recent / usual - 1, LATE)
    ease = LATE / late
    if seen.flushed:
        takes = FLUSHED_SHARE * usual
        portion, pause = seen.rate * (takes - usual), FLUSHED_PAUSE * takes / ease
    else:
        takes = SHARE * usual
        portion, pause = seen.rate * takes * ease, takes * (1 / ease - 1)
    return Step(int(min(max(portion, MIN_PORTION), MAX_PORTION)), min(max(pause, 0.0), MAX_PAUSE))


@dataclass(slots=True)
class Yielded:
    """What a snapshot has done for the commits."""

    portions: int = 0
    waits: int = 0
    """How often it let commits go first."""
    worked: float = 0.0
    waited: float = 0.0
    """Seconds."""


class Pace:
    """Applies the rule to one snapshot. `commits` are those to yield to.

    A process that makes no commits, hangs or is dead is yielded to for a moment at most, never waited for.
    """

    def __init__(
        self,
        commits: CommitTimes,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._commits, self.now, self._sleep = commits, clock, sleep
        self._undisturbed = deque((commit.took for commit in commits.since(0)), maxlen=KEPT)
        self._known = commits.usual() is not None
        self._usual = commits.usual() or USUAL
        self._recent = self._usual
        self._rates: deque[float] = deque(maxlen=16)
        self._seen = commits.ended
        self._log_before: int | None = None
        self.done = 0
        """Bytes that were written."""
        self._last = 0.0
        self._counted = clock()
        self.yielded = Yielded()
        self.short_of_space = False
        """Set when the disk is nearly full: then it does not yield, because only the end of the work frees space."""
        self.flushed = False
        """Set when nothing but a sync brings data to this disk."""

    def another(self) -> "Pace":
        """For other work, on another disk perhaps, beside the same commits."""
        return Pace(self._commits, clock=self.now, sleep=self._sleep)

    def on_another_disk(self) -> "Pace":
        """For what goes on after this, as part of the same work, on a disk of which nothing is known yet.

        What has been waited so far counts: a pace of its own would begin with as much free waiting again.
        """
        other = self.another()
        other.yielded, other.done, other._log_before = self.yielded, self.done, self._log_before
        other.short_of_space = self.short_of_space
        return other

    @property
    def hurried(self) -> bool:
        """Whether it must not yield now: it is short of space, or the log grows faster than it does."""
        grown = 0 if self._log_before is None else self._commits.written - self._log_before
        return self.short_of_space or (grown > HURRIED.portion and self.done < GROWTH * grown)

    @property
    def _may_wait(self) -> bool:
        return not self.hurried and self.yielded.waited <= WAITS_PER_WORK * self.yielded.worked + WAITS_FREE

    @property
    def next(self) -> Step:
        """The next portion, and the pause after it."""
        if self.hurried or (self.flushed and not self._known):  # small portions cost time, and nobody commits
            return HURRIED
        return step(Seen(self._usual, self._recent, self._rate(), self.flushed))

    def _rate(self) -> float:
        """What the disk writes in a second: of the last portions, the slower ones had to wait for commits, and a few
        were on the disk already, because the kernel writes by itself, too."""
        rates = sorted(self._rates)
        return rates[3 * len(rates) // 4] if rates else MIN_PORTION / self._usual

    def wrote(self, size: int, began: float) -> None:
        """A portion of `size` bytes has reached the disk; it was begun at `began`. Waits for as long as is due."""
        now = self.now()
        took = max(now - began, 1e-6)
        self.done += size
        if self._log_before is None:
            self._log_before = self._commits.written
        self.yielded.portions += 1
        self._count_work(now)
        flush = min(self._usual, took * 7 / 8) if self.flushed else 0.0
        if size:
            self._rates.append(size / (took - flush))
        if self._learn(began, now):
            self._rest(self.next.pause)
        self.give_way()

    def give_way(self) -> None:
        """Let a commit that is under way go first."""
        self._count_work(self.now())
        ended = self._commits.ended
        if self._commits.under_way:
            self._wait(lambda: self._commits.ended != ended, min(max(4 * self._usual, MAX_WAIT / 4), MAX_WAIT))

    def _rest(self, pause: float) -> None:
        """Leave the disk to the commits, as long as there are any."""
        begun, since = self._commits.begun, self.now()

        def quiet() -> bool:
            nonlocal begun, since
            if self._commits.under_way or self._commits.begun != begun:
                begun, since = self._commits.begun, self.now()
            return self.now() - since > QUIET * self._usual

        self._wait(quiet, pause)

    def _wait(self, over: Callable[[], bool], most: float) -> None:
        if most <= 0 or not self._may_wait:
            return
        began = now = self.now()
        nap = min(max(self._usual / 20, 0.0001), 0.001)
        while now - began < most and not over():
            self._sleep(nap)
            now = self.now()
        self.yielded.waits += 1
        self.yielded.waited += now - began
        self._counted = now

    def _count_work(self, now: float) -> None:
        """Count the time since the last call, or since the last wait, as work."""
        self.yielded.worked += now - self._counted
        self._counted = now

    def _learn(self, began: float, ended: float) -> bool:
        """Learn from the commits that have ended, knowing that a portion was written between these two times.

        Returns whether there are any commits now.
        """
        fresh = self._commits.since(self._seen)
        self._seen = self._commits.ended
        busy = bool(fresh) or self._commits.under_way
        if not busy:
            self._recent += (self._usual - self._recent) / 16
        for commit in fresh:
            # One that takes very long has met something else, such as a stick that erases blocks.
            self._recent += (min(commit.took, VERY_LATE * self._usual) - self._recent) / 16
            if self._last < commit.began and commit.began + commit.took < began:  # between this portion and the last
                self._undisturbed.append(commit.took)
        self._last = ended
        self._known = self._known or bool(fresh)
        if fresh and len(self._undisturbed) >= 5:
            self._usual = max(statistics.median(self._undisturbed), QUICKEST)
        return busy
