"""A node's directory and the members of its backup, as a session of the node leaves them: for what reads members."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from backends import backup_at
from backends.log.format.members import Epoch, Member, OutOfSync
from backends.node.lockfile import Settings, read_settings, write_settings
from backends.node.members_note import MembersNote, write_members_note
from backends.node.session import remember_sessions
from tests.log.histories import changes, silent
from tests.members.made import FIRST, directory_of, make_members, members_in, note_epoch

SESSION = "5e55105e55105e55"


class Copies:
    """Members of one backup in `top`, and the directory of their node."""

    def __init__(self, top: Path, names: Iterable[str], trailing: Iterable[str] = ()) -> None:
        self.members = members_in(top, names, tuple(trailing))
        self.node = top / "bitcoin"
        self.backup_id = ""

    def made(self, count: int = 3) -> "Copies":
        """Make them all: a backup with `count` changes, in which every member that does not trail is in sync."""
        self.backup_id = make_members(self.members)
        for member in self.members:
            self.append(member.name, count)
        self.node.mkdir()
        remember_sessions(self.node, self.backup_id, [SESSION])
        self.begin(1)
        return self

    def of_node(self, node: Path) -> "Copies":
        """Make them the members of the backup that a node has, which had one destination until now."""
        self.node, settings = node, read_settings(node)
        self.backup_id = settings.backup_id or ""
        for member in self.members:
            shutil.copytree(Path(settings.url.removeprefix("file://")), directory_of(member))
        self.begin(1)
        return self

    def path(self, name: str) -> Path:
        return directory_of(self[name])

    def __getitem__(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def append(self, name: str, count: int) -> None:
        """Let the log of one member grow, as it does while another is away."""
        with closing(backup_at(self[name].url).open(silent, SESSION)) as writer:
            for each in changes(count, writer.position.data_version):
                writer.append(each)

    def begin(
        self,
        number: int,
        *away: str,
        need: int = 1,
        out: Mapping[str, OutOfSync] | None = None,
        carried_by: Iterable[str] | None = None,
    ) -> None:
        """Begin an epoch without the members `away`: in those that carry it, in backup.lock and in the node's note."""
        in_sync = tuple(each.name for each in self.members if not each.trailing and each.name not in away)
        carried = [each for each in self.members if each.name not in away]
        if carried_by is not None:
            carried = [self[name] for name in carried_by]
        epoch = Epoch(number, SESSION)
        note_epoch(carried, self.members, self.backup_id, epoch=epoch, in_sync=in_sync, need=need, out=out)
        write_settings(self.node, Settings(self.members[0].url, self.backup_id, self.members, need))
        note = MembersNote(
            self.backup_id, epoch, in_sync, out=out or {}, history={SESSION: number}, adopted=FIRST.number
        )
        write_members_note(self.node, note)
