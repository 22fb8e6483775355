"""What `member-add` and `member-remove` share: the members of a stopped node's backup, made equal and at rest.

Every change of the members is a new epoch (`backends/members/epochs.py`). backup.lock names a member only once the
documents of all members in sync list it, as out of sync; it counts as in sync only after that. So after a kill at any
moment, the node starts with what was in sync before, and brings the new member up to date by itself.
"""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Member, MembersDocument
from backends.log.reader.opening import read_manifest
from backends.members.adopting import first_epoch
from backends.members.epochs import Epochs
from backends.members.opening import Members
from backends.members.survey import WITHIN, ask_all, why_not_seen
from backends.members.urls import new_name
from backends.node.directory import database_path
from backends.node.lockfile import LOCK_FILE, Settings, read_settings
from backends.node.members_note import MembersNote
from backends.node.running import running_lightningd
from backends.node.session import known_sessions
from backends.storage.unreachable import reaching
from backends.text import shell_line
from backends.urls import names_a_mount
from backup_cli import as_owner
from backup_cli.console import warn
from backup_cli.new_members import mount_points
from backup_cli.ownership import alone
from backup_cli.pairing_text import TWO_NODES
from backup_cli.waiting import answered
from plugin.member_events import MemberEvents
from plugin.start import remember_new_session


@dataclass(frozen=True, slots=True)
class AtRest:
    """The members of a backup that nobody writes to, as backup.lock and the node's note have them."""

    settings: Settings
    note: MembersNote
    session: str
    """The session that begins the next epochs; the note has it already, or is about to."""
    key: str | None
    """The public name of the key that the backup is encrypted with; None if it is not."""

    @property
    def backup_id(self) -> str:
        return self.note.backup_id

    @property
    def in_sync(self) -> tuple[str, ...]:
        """The members that hold every acknowledged change, and all the same bytes."""
        return self.note.in_sync

    def source(self) -> Backup:
        """The member to copy from."""
        return backup_at(self.settings.member(self.in_sync[0]).url)


def stopped_node(lightning_dir: Path, by_rpc: str, *words: str) -> tuple[Path, Settings]:
    """The directory of a stopped node, and its backup.lock. A running one changes its members by the RPC method
    `by_rpc`, with these words."""
    directory = as_owner.node_directory(lightning_dir)
    if running_lightningd(directory) is not None:
        raise BackupError(
            f"the node in {directory} is running, or another program has {database_path(directory).name} open; nothing "
            f"was changed. While lightningd runs, it does this itself: {shell_line('lightning-cli', by_rpc, *words)}"
        )
    settings = read_settings(directory)
    if settings.backup_id is None:
        raise BackupError(
            f"{directory / LOCK_FILE} is the older plugin's. Nothing was changed; make a backup of this plugin first: "
            "backup-cli init URL URL"
        )
    return directory, settings


def at_rest(directory: Path, settings: Settings, what: str, take_over: bool, without: Collection[str] = ()) -> AtRest:
    """Become the writer of a backup with several members, make them equal, and end the session.

    `without` are members that the user has given up: they are not even looked at, because what another node has written
    to them contradicts the others. Raises StartRefused or another BackupError if a start of the node would be refused.
    """
    there = tuple(member for member in settings.members if member.name not in without)
    members = Members(directory, replace(settings, members=there))
    backup = members.look()
    start = members.start(proven=False, changed_ago=None, without=without)
    with alone(backup.describe(), backup, what, take_over):
        backup.let_go()  # the writer takes the locks of all members
        seen = backup.look()
        session = remember_new_session(directory, seen.backup_id, seen.last_writer)
        writer, running = members.open(start, session, None, _report, MemberEvents(_report), catch_up=False)
        with closing(running), closing(writer):
            pass
    return AtRest(settings, running.epochs.note, session, running.epochs.key)


def first_of_several(directory: Path, settings: Settings, session: str) -> AtRest:
    """The backup with one destination that backup.lock names, as one that has this destination as its only member.

    Changes nothing. Raises BackupError if it is not this node's backup, or is damaged.
    """
    backup = backup_at(settings.url)
    backup_id = answered(settings.url, backup.id)
    if backup_id != settings.backup_id:
        asked = "; is the right disk mounted there?" if names_a_mount(settings.url) else "."
        raise BackupError(
            f"{settings.url} holds another backup than the one that {LOCK_FILE} names. Nothing was changed{asked} To "
            "see how the two compare, run: backup-cli check-config"
        )
    backup.end()  # raises Damaged
    sessions, writer = known_sessions(directory, backup_id), backup.last_writer()
    if writer is not None and sessions is not None and writer.session_id not in sessions:
        raise BackupError(
            f"another node ({writer.host}, {writer.process}) has written to {settings.url} since this one last did. "
            f"Nothing was changed; if that node is in use, never start this one: {TWO_NODES}"
        )
    known = tuple(sessions or ()) or ((writer.session_id,) if writer is not None else ())
    first = Member(new_name(settings.url, ()), settings.url)
    with reaching(backup.storage):
        epoch, key = first_epoch(backup.storage), read_manifest(backup.storage).key
    note = MembersNote(backup_id, epoch, (first.name,), sessions=(*known, session), adopted=epoch.number)
    return AtRest(replace(settings, members=(first,)), note, session, key)


class Changing:
    """Begins epochs of members that are at rest, with the members that `members` lists from now on."""

    def __init__(self, directory: Path, before: AtRest, members: tuple[Member, ...]) -> None:
        names = [member.name for member in members]
        note = replace(
            before.note,
            in_sync=tuple(name for name in before.in_sync if name in names),
            out={name: out for name, out in before.note.out.items() if name in names},
            mounts={name: mount for name, mount in before.note.mounts.items() if name in names}
            | mount_points([member for member in members if member.name not in before.note.mounts]),
        )
        self.settings = replace(before.settings, url=members[0].url, members=members)
        self.epochs = Epochs(directory, self.settings, note, before.session, key=before.key)

    def begin(self, in_sync: Collection[str], why: Mapping[str, str]) -> None:
        """Begin an epoch with these members in sync. `why` says of others why they are not.

        Raises BackupError, or OSError if the node cannot note it.
        """
        for name, error in self.epochs.change(in_sync, self._publish, why).items():
            warn(f"the member {name} has failed and is out of sync now: {error}")

    def document(self, name: str) -> MembersDocument:
        """The document of this member in the current epoch."""
        return self.epochs.current_document(name)

    def _publish(self, documents: Mapping[str, bytes]) -> Mapping[str, Exception]:
        urls = {member.name: member.url for member in self.settings.members}
        storages = {name: backup_at(urls[name]).storage for name in documents}
        works = {name: partial(storages[name].publish, MEMBERS, data) for name, data in documents.items()}
        failures = ask_all(works, WITHIN)[1]
        return {
            name: error if isinstance(error, OSError | BackupError) else OSError(why_not_seen(error, WITHIN))
            for name, error in failures.items()
        }


def _report(level: str, line: str) -> None:
    warn(line)
