"""The torture of a node whose database counts as large: `python -m tests.end_to_end.torture --large`.

A new snapshot is then made beside the node, which dies, stops, or is started without its plugin in the middle of it.
As long as the backup names a doubt, a restore may fail, or give another state. No start is refused; and as soon as the
doubt is gone, and at the end it is, a restore gives what was acknowledged.
"""

import time
from collections.abc import Callable
from pathlib import Path

from backends.log.known_damage import DAMAGE
from tests.end_to_end.torture import Torture
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import Node

HEALED_WITHIN = 60.0
"""Seconds."""

MAY_FAIL = (0, 3)


class LiveTorture(Torture):
    """As `Torture`; `heal` ends a doubt."""

    def __init__(self, root: Path, seed: int, world: Callable[[Path], World] = World) -> None:
        super().__init__(root, seed, world)
        self.world.environment["LIGHTNINGD_BACKUP_LARGE"] = "1"

    @property
    def doubted(self) -> bool:
        """Whether the backup names a doubt."""
        return (self.world.backup / DAMAGE).exists()

    def round(self) -> None:
        super().round()
        if self.doubted and self.chance.random() < 0.2:
            self.heal()

    def _live(self, node: Node) -> None:
        super()._live(node)
        for _ in range(self.chance.choice((0, 0, 1, 3))):  # into the copy, its process, the publication
            time.sleep(self.chance.uniform(0, 0.5))
            self._make(node)
        taken = [line for line in said_at(node, "unusual") if "the backup is complete again" in line]
        self.did["new snapshots beside the node"] += len(taken)

    def _offline(self, act: str, *arguments: object) -> None:
        if self.doubted and act == "restore":  # the node is alive: nobody restores it from that
            return
        if not self.doubted or act == "resync":
            super()._offline(act, *arguments)
            return
        self.did[f"{act} in doubt"] += 1
        said = backup_cli(act, *arguments)
        assert said.code in MAY_FAIL, said
        assert "until a new snapshot of its database is complete" in said.text, said

    def check(self) -> None:
        if not self.doubted:
            super().check()
            return
        target = self.world.root / "in-doubt.sqlite3"
        said = backup_cli("restore", *self.world.key_options, self.world.url, target)
        if self.doubted:  # otherwise the new snapshot was complete in the meantime
            self.did[f"restores in doubt that ended with {said.code}"] += 1
            assert said.code in MAY_FAIL, said
            assert "until a new snapshot of its database is complete" in said.text, said
        target.unlink(missing_ok=True)

    def heal(self) -> None:
        """Let the node run until the backup is whole, and prove that it is."""
        self.did["healed"] += 1
        self._answered, self._in_flight, self._foreign_keys_off = 0, [], False
        with self.world.node() as node:
            end = time.monotonic() + HEALED_WITHIN
            while self.doubted or not self._answered:
                assert time.monotonic() < end, node.logs
                self._make(node)
                time.sleep(0.05)
            assert said_at(node, "broken") == [], node.logs
        self._note_what_may_be_there()
        assert not self.doubted
        self.check()

    def finish(self) -> None:
        self.heal()
