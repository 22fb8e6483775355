"""Playing calls through deaths: each one is followed by a new start, as a supervisor would do it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.change import foreign_keys_setting
from tests.end_to_end.world import World
from tests.fake_lightningd import Call, Moment, Node, PluginDied, Victim, foreign_keys


@dataclass(frozen=True, slots=True)
class Death:
    """Who dies in a call, when, and how many seconds after that moment."""

    moment: Moment
    victim: Victim
    delay: float = 0.0

    @property
    def commits(self) -> bool:
        """Whether lightningd still commits the call: only the plugin dies, and it has said continue."""
        return self.victim is Victim.PLUGIN and self.moment is Moment.BEFORE_COMMIT


class Life:
    """A node from start to start, which makes the calls of a recording one after another."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world, self._options = world, options
        self.starts = 0
        self._node: Node | None = None
        self._made = 0  # calls in this run
        self._foreign_keys_off = False

    @property
    def node(self) -> Node:
        """The run that is under way; begun when it is first needed."""
        if self._node is None:
            self._node = self.world.node(**self._options)
            self._node.start()
            self.starts, self._made = self.starts + 1, 0
            if self._foreign_keys_off:  # a migration that was broken off begins again, with its PRAGMA
                self._make(foreign_keys(self.world.version, on=False))
        return self._node

    def _make(self, call: Call) -> None:
        node = self.node
        if self._made >= 3 and not node.initialised:
            node.init()
        node.db_write(call)
        self._made += 1

    def make(self, call: Call) -> None:
        """One call, from transaction to commit."""
        self._make(call)
        self._note(call)

    def _note(self, call: Call) -> None:
        setting = foreign_keys_setting(call.writes)
        if setting is not None:
            self._foreign_keys_off = not setting

    def kill(self) -> None:
        """Node and plugin at once, between two calls."""
        self.node.die()
        self._node = None

    def die(self, call: Call, death: Death) -> None:
        """Begin this call and die in it; made again after a new start, unless it is there then."""
        try:
            self.node.die_at(death.moment, call, death.victim, death.delay)
        except PluginDied:
            assert death.victim is Victim.PLUGIN
        self.node.die()
        self._node = None
        if death.commits or self._made_by_the_plugin(call):
            self._note(call)
        else:
            self.make(call)

    def _made_by_the_plugin(self, call: Call) -> bool:
        """Whether the next start has brought the database forward by it."""
        assert self.node.manifest
        return not call.outside_transaction and self.world.version % (1 << 32) == call.data_version

    def stop(self) -> None:
        """A clean stop."""
        self.node.stop()
        self._node = None

    def play(self, calls: Iterable[Call], deaths: Mapping[int, Death] | None = None, kill_every: int = 0) -> None:
        """Make these calls; die in those with these numbers, and be killed after every so many."""
        for number, call in enumerate(calls, start=1):
            if deaths is not None and number in deaths:
                self.die(call, deaths[number])
            else:
                self.make(call)
            if kill_every and number % kill_every == 0:
                self.kill()
