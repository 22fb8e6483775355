"""Which state of the node a point in time means.

The times are those of the node's clock, and a clock may jump. What counts is the order of the changes, which is
certain; the times are read along it. A point in time means the state right before the first change that carries a later
time. So a clock that was set back (a board that boots in 1970) moves nothing: the changes that it stamped too early
follow those before them. After a clock that ran ahead for a while, the state is an earlier one than was asked for,
never a later one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backends.errors import BackupError, Damaged
from backends.log.format.documents import Manifest
from backends.log.reader.generation import Reader
from backends.log.reader.passes import Scan
from backends.times import UNKNOWN_TIME


@dataclass(frozen=True, slots=True)
class State:
    """A state of the node: the database right after a change, or in a snapshot. `time` is when that change was saved,
    in seconds since 1970, or UNKNOWN_TIME."""

    generation: int
    sequence: int
    data_version: int
    time: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a point in time means."""

    state: State
    set_back: State | None
    """The last state of the same generation that comes later, although its time is not later than the one asked for:
    the clock was set back. None if there is none."""


class NotHeld(BackupError):
    """No generation holds the state that a point in time means: it is before `first` or after `last`, the first and
    the last state that were looked at; or it is in the `gap` between these two states, of two generations."""

    def __init__(self, first: State, last: State, gap: tuple[State, State] | None = None) -> None:
        super().__init__("the backup holds no state of that time")
        self.first, self.last, self.gap = first, last, gap


def state_at(generations: Sequence[Callable[[], Reader]], when: int) -> Found:
    """The state at `when` (seconds since 1970) among these generations, of which there is at least one. They are in
    order, and opened one by one.

    Raises NotHeld; Damaged if that state may be one that damage hides. OSError from the storage.
    """
    walk = _Walk(when)
    for open_it in generations:
        try:
            with open_it() as reader:
                walk.through(reader)
        except Damaged as error:
            walk.damaged(error)
        if walk.later is not None:
            break
    return walk.found()


def states_of(manifest: Manifest, scan: Scan, *, follows: bool = False) -> Iterator[State]:
    """The states of one generation, in order: that of the snapshot, then one for each change that `scan` yields.

    Raises Damaged. `follows`: the generation before it ends with the snapshot's state. Otherwise, where nothing tells
    any more when the last change in a snapshot was saved, that state gets the time of the change after it: it is known
    from then on.
    """
    base = manifest.base

    def first(after: int) -> State:
        when = manifest.created  # the database was read then; but a compaction's snapshot is of an earlier change
        if manifest.made_by_compaction:
            when = scan.base_time if follows or scan.base_time != UNKNOWN_TIME else after
        return State(manifest.generation, base.sequence, base.data_version, when)

    begun = False
    for _, header in scan:
        if not begun:
            yield first(header.time)
            begun = True
        yield State(manifest.generation, header.sequence, header.data_version, header.time)
    if not begun:
        yield first(manifest.created)


class _Walk:
    """The way through the states, up to the first that is later than `when`, and on to the end of its generation."""

    def __init__(self, when: int) -> None:
        self._when = when
        self._first: State | None = None
        self._last: State | None = None
        self._chosen: State | None = None
        self.later: State | None = None
        self._set_back: State | None = None
        self._gap = False
        self._latest = UNKNOWN_TIME
        self._damage: Damaged | None = None
        """Found since `_chosen`."""

    def through(self, reader: Reader) -> None:
        """Go through one generation. Raises Damaged."""
        manifest, before = reader.manifest, self._last
        follows = before is not None and before.sequence == manifest.base.sequence
        lost = before is not None and manifest.made_by_compaction and not follows
        for state in states_of(manifest, reader.scan(), follows=follows):
            if self._step(state) and lost:
                self._gap = True
            lost = False

    def damaged(self, error: Damaged) -> None:
        """A generation is damaged, or the rest of it is. What comes after the state that was found does not matter."""
        if self.later is None:
            self._damage = error

    def _step(self, state: State) -> bool:
        """Whether this is the first state that is later."""
        self._first, self._last = self._first or state, state
        self._latest = max(self._latest, state.time)
        if self.later is not None:
            if state.time <= self._when:
                self._set_back = state
            return False
        if state.time > self._when:
            self.later = state
            return True
        self._chosen, self._damage = state, None
        return False

    def found(self) -> Found:
        """The result. Raises NotHeld or Damaged."""
        if self._damage is not None:
            raise self._damage
        assert self._first is not None and self._last is not None
        gap = (self._chosen, self.later) if self._gap and self._chosen is not None and self.later is not None else None
        if self._chosen is None or gap is not None:
            raise NotHeld(self._first, self._last, gap)
        if self.later is None and self._latest < self._when:
            raise NotHeld(self._first, self._last)
        return Found(self._chosen, self._set_back)
