"""The members of the backup that `restore` reads: those whose URLs were given, and all others that can be reached.

Nothing is written to any of them. Which of them counts, and what the user must consent to, is decided in
`backends/members/consent.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from backends import backup_at
from backends.base import Position
from backends.errors import BackupError, Damaged, Unrestorable
from backends.keyring import init_command
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Member, OutOfSync
from backends.log.format.records import time_now
from backends.members.adopting import note_of
from backends.members.consent import Choice, choose
from backends.node.hand_over import hand_over
from backends.node.lockfile import DEFAULT_GRACE, Settings, read_settings
from backends.node.members_note import MembersNote
from backends.text import counted
from backup_cli.console import say, warn
from backup_cli.members_read import Read, read_members
from backup_cli.new_members import mount_points
from backup_cli.options import existing_backup, lock_steps
from backup_cli.seen_members import has_members
from backup_cli.waiting import answered

without_option = click.option(
    "--without",
    "without",
    metavar="NAME",
    multiple=True,
    help="Restore without this member, which is lost for good; only when the command asks for it.",
)

UNKNOWN = "unknown"
"""What the user types after --without if nobody can tell which other members there are."""


@dataclass(slots=True)
class Source:
    """The backup to restore from; `members` are those of a backup that has several, otherwise None."""

    url: str
    backup: Backup
    members: "ReadMembers | None" = None

    def places(self) -> list[tuple[str, Backup]]:
        """This backup and the other members that hold the newest state, each after its URL."""
        others = [] if self.members is None else [self.members.urls[name] for name in self.members.in_sync]
        return [(self.url, self.backup), *((url, backup_at(url)) for url in others if url != self.url)]

    def hand_over(self, directory: Path, position: Position | None) -> None:
        """Have the node in `directory` go on with this backup. `position` is where its database stands, None as long as
        there is none. Raises OSError or BackupError."""
        several = None if self.members is None else self.members.several(directory)
        hand_over(directory, self.backup.place.durable_url(self.url), self.backup.id(), position, several)

    def lock_steps(self, directory: Path) -> list[str]:
        """The steps that a dry run lists for `hand_over`."""
        if self.members is None:
            urls: Sequence[str] = [self.backup.place.durable_url(self.url)]
        else:
            urls = self.members.several(directory)[0].urls
        return lock_steps(directory, " and ".join(urls))


class ReadMembers:
    """The members of one backup that were read, and what was chosen of them. `without` is what the user has typed."""

    def __init__(self, read: Read, without: Collection[str]) -> None:
        self.seen, self.urls, self._missing, self._without = dict(read.seen), read.urls, dict(read.missing), without
        self._choice: Choice | None = None

    @property
    def choice(self) -> Choice:
        """What was chosen last."""
        assert self._choice is not None
        return self._choice

    def choose(self, resume: bool) -> Source:
        """The member to restore from, the best that has not failed yet. Raises MembersMissing or Diverged, or
        BackupError if with `resume` the node could not go on with this backup."""
        before = () if self._choice is None else self._choice.given_up.keys()
        self._choice = choose(list(self.seen.values()), self._missing, self._without)
        for name, clause in self.choice.given_up.items():
            if name not in before:
                warn(f"because of --without, this is restored without {clause}")
        name = self.choice.sources[0].name
        if resume and not self.in_sync and self.seen[name].end is not None:
            raise BackupError(
                "no member that was in sync can be read, so a node could not go on with this backup. Nothing was "
                "restored; restore without --resume, then make a new backup for the node: "
                f"{init_command()}, with new URLs"
            )
        say(f"Restoring from the member {name} (epoch {self.choice.newest.epoch.number})")
        return Source(self.urls[name], backup_at(self.urls[name]), self)

    def after(self, url: str, error: BackupError, resume: bool) -> Source:
        """The member to restore from next, after restoring from the one at `url` has failed.

        Another one that is in sync is just as good. Only if none is left does the user have to give up the newest
        state. Raises `error` if no other member is left at all.
        """
        name = next(name for name, where in self.urls.items() if where == url)
        why = f"it is damaged: {error.finding}" if isinstance(error, Unrestorable) else str(error)
        as_good = [each.name for each in self.choice.sources if each.name != name and each.end is not None]
        self.seen[name] = replace(self.seen[name], end=None, why=why)
        if not any(each.end is not None for each in self.seen.values()):
            raise error
        warn(f"the member {name} cannot be restored from ({why})")
        if not as_good:  # what only this one held has to be given up
            del self.seen[name]
            self._missing[name] = why
        return self.choose(resume)

    def several(self, directory: Path) -> tuple[Settings, MembersNote]:
        """What backup.lock and the note of the node in `directory` are to say, so that it goes on with this backup.

        All members stay configured; those that were not read are out of sync, and are caught up once they are back.
        The epochs that led to the one that was restored from count as this node's own.
        """
        document = self.choice.newest
        members = tuple(replace(each, url=self._lasting(each)) for each in document.members)
        in_sync = self.in_sync
        now = OutOfSync(time_now(), "it was not there when the node was restored")
        waited_for = [each for each in members if not each.trailing]
        note = replace(
            note_of(document),
            in_sync=in_sync,
            out={each.name: document.out.get(each.name, now) for each in waited_for if each.name not in in_sync},
            mounts=mount_points([each for each in members if each.name in self.seen]),
        )
        grace = _grace(directory, document.backup_id)
        return Settings(members[0].url, document.backup_id, members, document.need, grace), note

    @property
    def in_sync(self) -> tuple[str, ...]:
        """The members that were read and that hold the newest state, the configured one first."""
        good = [each.name for each in self.choice.sources if each.end is not None]
        return tuple(name for name in self.choice.newest.in_sync if name in good)

    def resumed_with(self, url: str) -> str:
        """What the restored node goes on with, in words; it is warned of if that is not enough for a start."""
        need, there = self.choice.newest.need, len(self.in_sync)
        if there < need:
            warn(
                f"the node needs {counted(need, 'member')} in sync, and only {there} {'is' if there == 1 else 'are'} "
                "here: it does not start before more are connected"
            )
        return f"{url} and its other members" if len(self.choice.newest.members) > 1 else url

    def as_json(self, url: str) -> dict[str, object]:
        """What programs are told of the members: which one was restored from, and which were given up."""
        read = next(name for name, where in self.urls.items() if where == url)
        return {"member": read, "epoch": self.choice.newest.epoch.number, "without": list(self.choice.given_up)}

    def _lasting(self, member: Member) -> str:
        """The URL for backup.lock: where the member was read, with what tells this place from another one."""
        url = self.urls.get(member.name)
        return member.url if url is None else backup_at(url).place.durable_url(url)


def _grace(directory: Path, backup_id: str) -> float:
    """The grace that this node's backup.lock has for this backup; members do not hold it."""
    try:
        before = read_settings(directory)
    except BackupError:
        return DEFAULT_GRACE
    return before.grace if before.backup_id == backup_id else DEFAULT_GRACE


def source_at(urls: Sequence[str], without: Collection[str], resume: bool) -> Source:
    """The backup to restore from that these URLs name, of which there is at least one.

    Raises BackupError: MembersMissing, Diverged, NotABackup, Unreachable, or one that names a URL that does not belong.
    """
    if len(urls) > 1:
        return ReadMembers(read_members(urls), without).choose(resume)
    try:
        url, backup = existing_backup(urls[0])
    except Damaged:  # another member may be whole
        url, backup = urls[0], backup_at(urls[0])
        if not answered(url, lambda: has_members(backup)):
            raise
    if not answered(url, lambda: has_members(backup)):
        if without:
            raise BackupError(
                f"{url} is a backup with one destination, so there is no member to do without. Nothing was restored; "
                "leave --without out"
            )
        return Source(url, backup)
    try:
        return ReadMembers(read_members([url]), without).choose(resume)
    except Damaged as error:
        if error.file != MEMBERS:
            raise
        _demand_unknown(url, error, without)
        if resume:
            raise BackupError(
                "without the other members, a node could not go on with this backup. Nothing was restored; restore "
                f"without --resume, then make a new backup for the node: {init_command()}, with new URLs"
            ) from None
        return Source(url, backup)


def _demand_unknown(url: str, error: Damaged, without: Collection[str]) -> None:
    why = f"{url} is one member of a backup with several, and its document `{MEMBERS}` is damaged ({error.finding})"
    if UNKNOWN not in without:
        raise BackupError(
            f"{why}, so nobody can tell from here which others there are: they may hold newer changes, and a node that "
            "runs from an older state can lose every channel. Nothing was restored. Give the URLs of the others as "
            f"well, or instead. Only if all of them are lost for good, add --without {UNKNOWN}"
        ) from None
    warn(f"{why}; because of --without {UNKNOWN}, this is restored without the others")
