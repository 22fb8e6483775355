"""Two members of one backup, on simulated disks, that differ as members do after a failure."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from backends.errors import BackupError
from backends.log.attachments import publish_attachment
from backends.log.format.attachments import Attachment
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument, OutOfSync
from backends.log.writer.options import LogOptions
from backends.members.files import copy_backup
from backends.members.peers import Peer
from backends.members.shared_files import shared_names
from backends.storage.base import Storage
from tests.fake_lightningd.calls import History
from tests.log.conftest import SMALL
from tests.log.histories import Node, backup_in, noise
from tests.log.model import Contents, Model
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

OPTIONS = replace(SMALL, max_file=3000)
"""Segments and snapshots in several small files."""


def held(storage: Storage) -> dict[str, bytes]:
    """The shared files of a member."""
    return {name: storage.read_small(name, 1 << 30) for name in shared_names(storage.names())}


def flip(storage: Storage, name: str, offset: int) -> None:
    """Change one bit of a file, as a disk does that rots: neither size nor any other byte changes."""
    data = bytearray(storage.read_small(name))
    data[offset] ^= 0x10
    with closing(storage.create(name)) as handle:
        handle.write(0, bytes(data))
        handle.sync()
    storage.sync_names()


@dataclass
class Pair:
    """A node that writes to `ahead`; `behind` was in sync with it until `part`."""

    scratch: Path
    options: LogOptions = OPTIONS
    ahead: SimulatedStorage = field(default_factory=lambda: SimulatedStorage(SimulatedDisk()))
    behind: SimulatedStorage = field(default_factory=lambda: SimulatedStorage(SimulatedDisk()))
    states: list[Contents] = field(default_factory=list)
    """What a reader may find in `behind`: its state at `part`, and every later one of `ahead`."""

    def __post_init__(self) -> None:
        self._parted: Model | None = None
        self._continued = True
        self.node = Node(self.ahead, self.scratch, options=self.options)
        self.node.create()
        self.node.open("one")
        self.node.append(self.node.history.first())

    def commit(self, count: int = 1, size: int = 300) -> None:
        """Commits of the node, with maintenance after each, as when the node has time."""
        for _ in range(count):
            self.node.note(noise(size, self.node.history.version))
            self.node.writer.maintain()
            self._note_state()

    def snapshot(self) -> None:
        self._continued = self._parted is None
        self.node.snapshot()
        self._note_state()

    def compact(self) -> None:
        self.node.compact()
        self.node.writer.maintain()
        self._note_state()

    def part(self) -> None:
        """From here on, `behind` gets nothing any more."""
        copy_backup(self.ahead, self.behind)
        self._parted = self.node.now
        self._note_state()

    def fork(self, work: Callable[[Node], None]) -> None:
        """Let another node continue `behind` on its own; what it writes there will be abandoned."""
        node = Node(self.behind, self.scratch, options=self.options)
        node.model, node.history = self.node.now, History(self.node.history.version)
        node.open("two")
        work(node)
        node.close()
        self.states.append(node.now.contents)

    def _note_state(self) -> None:
        if self._parted is None:
            return
        now = self.node.now
        self.states.append(now.contents)
        if self._continued:  # then the old generation may be read with the new one's changes
            changes = now.committed[len(self._parted.before) :]
            self.states.append(replace(self._parted, changes=changes).contents)


EPOCH = Epoch(3, "one")


def document(name: str, backup_id: str, epoch: Epoch = EPOCH, in_sync: tuple[str, ...] = ("a", "b")) -> bytes:
    """The document `members` of a backup with the members a, b and c."""
    members = tuple(Member(each, f"file:///{each}/lightning.bkp") for each in "abc")
    out = {each: OutOfSync(1_700_000_000, "it was unplugged") for each in "abc" if each not in in_sync}
    return MembersDocument(backup_id, name, epoch, in_sync, members, 1, out, {epoch.session: epoch.number}).encode()


def peer(name: str, storage: Storage) -> Peer:
    """A member with what its document says."""
    try:
        return Peer(name, storage, MembersDocument.decode(storage.read_small(MEMBERS)))
    except (BackupError, FileNotFoundError):
        return Peer(name, storage, None)


def equal_members(scratch: Path, *, kept: bool = True) -> tuple[Pair, list[Peer]]:
    """Two members in sync that hold the same: a snapshot in several files, segments, a kept generation, and a file of
    the node."""
    pair = Pair(scratch)
    pair.commit(12, 1500)
    if kept:
        pair.snapshot()
    pair.commit(20, 1500)
    pair.compact()
    pair.commit(8, 1500)
    pair.node.close()
    publish_attachment(pair.ahead, Attachment.EMERGENCY, bytes(range(200)))
    pair.part()
    backup_id = backup_in(pair.ahead).id()
    for name, storage in (("a", pair.ahead), ("b", pair.behind)):
        storage.publish(MEMBERS, document(name, backup_id))
    return pair, [peer("a", pair.ahead), peer("b", pair.behind)]
