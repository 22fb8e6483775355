"""A node whose backup has several members, each in a directory of its own."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from backends import backup_at
from backends.base import SnapshotSource
from backends.keyring import DataKey
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument
from backends.log.key_slots import new_keys, publish_keys
from backends.log.reader.opening import read_manifest
from backends.members.files import copy_backup
from backends.node.hand_over import record_sync_point
from backends.node.key_file import write_key
from backends.node.lockfile import Settings, write_settings
from backends.node.members_note import MembersNote, read_members_note, write_members_note
from tests.encrypted import EVERYTHING
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, backup_cli


class MembersWorld(World):
    """Like World, with the members `names`; those in `trailing` trail."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str] = ("nas", "stick"),
        *,
        trailing: Sequence[str] = (),
        need: int = 1,
        grace: float = 2.0,
    ) -> None:
        super().__init__(root)
        self.names, self.need, self.grace = tuple(names), need, grace
        for name in names:
            self.place(name).parent.mkdir(parents=True, exist_ok=True)
        self.members = tuple(Member(name, self.place(name).as_uri(), name in trailing) for name in names)

    def place(self, name: str) -> Path:
        """The member's directory."""
        return self.root / name / "lightning.bkp"

    @property
    def in_sync(self) -> tuple[str, ...]:
        """The members that are in sync at the beginning."""
        return tuple(member.name for member in self.members if not member.trailing)

    def init(self) -> "MembersWorld":
        """Make the backup, as `backup-cli init URL URL` does for a node without a database."""
        first = backup_at(self.members[0].url)

        def store(key: DataKey) -> None:
            publish_keys(first.storage, new_keys(key, hsm_derived=bytes(32)))
            write_key(self.directory, key)

        position = first.create(SnapshotSource((), 0, None), encrypt=store if EVERYTHING else None)
        key = read_manifest(first.storage).key
        for member in self.members[1:]:
            copy_backup(first.storage, backup_at(member.url).storage)
        epoch, backup_id = Epoch(1, ""), first.id()
        for member in self.members:
            document = MembersDocument(
                backup_id, member.name, epoch, self.in_sync, self.members, self.need, floor=1, key=key
            )
            backup_at(member.url).storage.publish(MEMBERS, document.encode())
        write_members_note(self.directory, MembersNote(backup_id, epoch, self.in_sync, adopted=1))
        record_sync_point(self.directory, backup_id, position)
        write_settings(self.directory, Settings(self.members[0].url, backup_id, self.members, self.need, self.grace))
        return self

    @property
    def note(self) -> MembersNote:
        """What the node knows about the members now."""
        note = read_members_note(self.directory)
        assert note is not None
        return note

    def document(self, name: str) -> MembersDocument:
        """What this member says about all of them."""
        return MembersDocument.decode((self.place(name) / MEMBERS).read_bytes())

    def restored_from(self, name: str) -> Path:
        """Restore what this member alone holds, whatever it says about the others; the database file."""
        self.restores += 1
        alone = self.root / f"alone-{self.restores}" / "lightning.bkp"
        shutil.copytree(self.place(name), alone, ignore=shutil.ignore_patterns(MEMBERS, "lock"))
        target = self.root / f"restored-{self.restores}-{name}.sqlite3"
        said = backup_cli("restore", *self.key_options, alone.as_uri(), target)
        assert said.code == 0, said
        return target

    def assert_member_equals_the_node(self, name: str) -> None:
        """A restore from this member alone equals the node's database."""
        assert differences(self.restored_from(name), self.database) == []


def eventually(holds: Callable[[], bool], within: float = 20.0) -> None:
    """Wait until it holds."""
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, "it never held"
        time.sleep(0.02)
