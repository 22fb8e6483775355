"""Kill -9 and members that fail, again and again: `python -m tests.end_to_end.torture --members --rounds 1000`.

Each round is one of tests/end_to_end/torture.py, with two or three members and perhaps one that trails. At a random
moment a member is wiped, replaced by an old copy of itself, made read-only, or loses a file, or a byte of it changes:
under the running node, or while it is stopped. Meanwhile the others stay whole, because nothing could survive the loss
of all. After each round every whole member in sync must hold exactly what the node committed last, or that and the
change that was in flight.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from backends.log.format.records import segment_index
from tests.end_to_end.db_compare import compared, everything, faults
from tests.end_to_end.torture import Torture
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import Node, Refused
from tests.members.elsewhere import wipe
from tests.members.world import MembersWorld

NAMES = (("nas", "stick"), ("nas", "stick", "disk"), ("nas", "stick", "far"))


class MembersTorture(Torture):
    """A node whose members fail, one at a time."""

    world: MembersWorld

    def __init__(self, root: Path, seed: int) -> None:
        names = NAMES[seed % len(NAMES)]
        self._hurt: str | None = None
        """The member that may not be whole now."""
        self._hurt_in = 0
        """The epoch in which it was hurt."""
        self._old: dict[str, Path] = {}

        def make(root: Path) -> World:
            return MembersWorld(root, names, trailing=("far",), grace=2.0)

        super().__init__(root, seed, make)

    # While the node runs

    def _live(self, node: Node) -> None:
        super()._live(node)
        if self._answered and self._hurt is None and self.chance.random() < 0.6:
            self._hurt_one(self.chance.choice(self.world.names))
            for _ in range(self.chance.choice((0, 5, 30))):
                self._make(node)
            if self.chance.random() < 0.7:
                self._until_whole(node)

    def _until_whole(self, node: Node) -> None:
        """Make changes until the member has been put out of sync and has joined again."""
        until = time.monotonic() + 8
        while self._hurt is not None and time.monotonic() < until:
            self._make(node)
            time.sleep(0.01)
            self._look()
        self.did["healed under the node" if self._hurt is None else "not noticed under the node"] += 1

    def _look(self) -> None:
        """Whether the member that was hurt has joined since."""
        note = self.world.note
        if note.intent is None and note.epoch.number >= self._hurt_in + 2 and self._hurt in note.in_sync:
            self._hurt = None

    # What happens to a member

    def _hurt_one(self, name: str) -> None:
        hurt: Callable[[Path], None] = self.chance.choice(
            (wipe, self._put_old_copy_back, self._make_read_only, self._remove_a_file, self._change_a_byte)
        )
        self._hurt, self._hurt_in = name, self.world.note.newest
        self.did[hurt.__name__.strip("_")] += 1
        hurt(self.world.place(name))

    def _put_old_copy_back(self, place: Path) -> None:
        old = self._old.pop(place.parent.name, None)
        wipe(place)
        if old is not None:
            old.rename(place)

    def _make_read_only(self, place: Path) -> None:
        """What a writer that takes over does."""
        for file in _segments(place):
            file.chmod(0o400)

    def _remove_a_file(self, place: Path) -> None:
        files = sorted(file for file in place.iterdir() if file.name != "lock")
        self.chance.choice(files).unlink(missing_ok=True)

    def _change_a_byte(self, place: Path) -> None:
        """In a snapshot or a segment, perhaps the open one: what the disk does to it while nobody looks."""
        file = self.chance.choice([*_segments(place), *place.glob("snapshot-*")])
        content = file.read_bytes().rstrip(b"\0")
        offset, mode = self.chance.randrange(max(len(content), 1)), file.stat().st_mode
        file.chmod(0o600)
        with file.open("r+b") as open_file:
            open_file.seek(offset)
            open_file.write(bytes([content[offset] ^ 1 << self.chance.randrange(8)]))
        file.chmod(mode)

    # Between two runs

    def _afterwards(self) -> None:
        self._make_whole()
        for name in self.world.names:
            if self.chance.random() < 0.3:
                self._keep_copy(name)
        kind = self.chance.random()
        if kind < 0.1:
            self._run_without_plugin()
        elif kind < 0.2:
            self._offline("compact", "--lightning-dir", self.world.directory)
        elif kind < 0.25:
            self._offline("verify", "--lightning-dir", self.world.directory)
        elif kind < 0.6:
            self._start_without_one()

    def _keep_copy(self, name: str) -> None:
        kept = self.world.root / f"old-{name}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.world.place(name), kept)
        self._old[name] = kept

    def _make_whole(self) -> None:
        """Mend offline what the node cannot notice, then start it, and wait until all members are in sync."""
        said = None
        if self._hurt is not None:
            said = backup_cli("verify", "--repair", "--lightning-dir", self.world.directory)
            self.did[f"verify --repair ended with {said.code}"] += 1
        with self.world.node() as node:
            try:
                self._make(node)
            except Refused as error:
                raise AssertionError(f"{error}; verify --repair: {said}; hurt: {self._hurt}") from error
            node.init()
            until = time.monotonic() + 20
            while not self._all_in_sync():
                assert time.monotonic() < until, (self.world.note, node.logs)
                time.sleep(0.02)
            self._make(node)
        self._hurt = None
        self._allowed = [everything(self.world.database)]
        self.check()

    def _all_in_sync(self) -> bool:
        return set(self.world.note.in_sync) == set(self.world.in_sync)

    def _start_without_one(self) -> None:
        """A member fails while the node is stopped. The start goes on, or is refused and has changed nothing."""
        name = self.chance.choice(self.world.names)
        aside = self.world.root / "aside"
        shutil.copytree(self.world.place(name), aside)
        self._hurt_one(name)
        try:
            with self.world.node() as node:
                self._make(node)
                node.init()
                self._make(node)
        except Refused as error:
            self.did["starts refused"] += 1
            assert "Nothing was changed" in error.message or "Nothing was committed" in error.message, error.message
            wipe(self.world.place(name))
            aside.rename(self.world.place(name))
        else:
            self.did["starts without one member"] += 1
            self._allowed = [everything(self.world.database)]
            self.check()
        shutil.rmtree(aside, ignore_errors=True)
        self._make_whole()

    # The proof

    def check(self) -> None:
        """Restore every member that is in sync and whole, and compare it with the states that it may hold."""
        whole = [name for name in self.world.note.in_sync if name != self._hurt]
        assert whole, (self._hurt, self.world.note)
        for name in whole:
            target = self.world.restored_from(name)
            assert faults(target) == []
            restored = everything(target)
            wrong = [compared(restored, allowed) for allowed in self._allowed]
            assert [] in wrong, f"{name} holds none of {len(wrong)} allowed states: {wrong}"
            target.unlink()
            shutil.rmtree(self.world.root / f"alone-{self.world.restores}")
        self.did["members restored"] += len(whole)


def _segments(place: Path) -> list[Path]:
    return sorted(file for file in place.iterdir() if segment_index(file.name) is not None)
