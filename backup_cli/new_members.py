"""What `init` does for a backup with several members, and what `member-add` shares with it: the checks beforehand, the
copies, the documents and the node's note."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import combinations

import click

from backends import backup_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.members import Member, MembersDocument
from backends.log.reader.opening import read_manifest
from backends.members.adopting import FIRST_EPOCH
from backends.members.new_copy import copied_bytes, create_copy, publish_document
from backends.members.strangers import readable_by_others
from backends.members.urls import named, split_trailing
from backends.members.where import mount_point, same_place, share_a_fate
from backends.node.lockfile import DEFAULT_GRACE, MAX_GRACE, Settings
from backends.node.members_note import MembersNote
from backends.storage.unreachable import reaching
from backends.urls import names_a_mount
from backup_cli.console import progress, say, warn
from backup_cli.options import Making, removed_on_failure
from backup_cli.waiting import answered

need_option = click.option(
    "--need",
    type=click.IntRange(min=1),
    help="With several URLs: the node goes on while this many members are in sync.  [default: 1]",
)

grace_option = click.option(
    "--grace",
    type=click.FloatRange(min=0, max=MAX_GRACE, min_open=True),
    help="With several URLs: seconds that a commit waits for a slow member before it goes on without it.  "
    f"[default: {DEFAULT_GRACE:.0f}]",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The backup that is to be made: its members (at least one), with those that trail last, and how many it needs."""

    members: tuple[Member, ...]
    need: int
    grace: float

    @property
    def first(self) -> Member:
        """The member that is made first; the others are copied from it."""
        return self.members[0]

    @property
    def others(self) -> tuple[Member, ...]:
        """The members that are copied from the first. None for a backup with one destination, which has no members."""
        return self.members[1:]

    @property
    def urls(self) -> list[str]:
        """Where the members are to be."""
        return [member.url for member in self.members]


def planned(urls: Sequence[str], need: int | None, grace: float | None) -> Plan:
    """The backup that these URLs name. Raises UsageError or BadURL for what makes no sense."""
    if len(urls) == 1:
        if split_trailing(urls[0])[1]:
            raise click.UsageError(
                "a trailing member is never waited for, so it cannot be the only one; name another URL, which the node "
                "waits for, before it"
            )
        if need is not None or grace is not None:
            raise click.UsageError("--need and --grace are for a backup with several members: name several URLs")
        return Plan((Member("", urls[0]),), 1, DEFAULT_GRACE)
    members = sorted(named(urls), key=lambda member: member.trailing)
    waited_for = sum(not member.trailing for member in members)
    if not waited_for:
        raise click.UsageError(
            "every URL is marked ?trailing, so the node would wait for none of them; leave that out for at least one"
        )
    if need is not None and need > waited_for:
        raise click.UsageError(
            f"--need {need} can never be met: only {waited_for} of these members are waited for (those without "
            "?trailing)"
        )
    return Plan(tuple(members), need or 1, DEFAULT_GRACE if grace is None else grace)


def warn_of_strangers(urls: Iterable[str], remedy: str, *, encrypted: bool) -> None:
    """Warn if people other than the operator may read a backup at these URLs. `remedy` is as in readable_by_others."""
    told = None if encrypted else readable_by_others(urls, remedy)
    if told is not None:
        warn(told)


def _are_the_same(url: str) -> str:
    return "are the same directory" if names_a_mount(url) else "are the same place, or one of them is inside the other"


def refuse_same_places(members: Sequence[Member], new: Sequence[Member]) -> None:
    """Raise BackupError if one of `new`, which are among `members`, is the same place as another of `members`."""
    for one, other in combinations(members, 2):
        if (one in new or other in new) and same_place(one.url, other.url):
            raise BackupError(
                f"{one.url} and {other.url} {_are_the_same(one.url)}, so the second would be no second copy. Nothing "
                "was changed; choose a place on another disk or server"
            )


def warn_of_shared_fates(members: Sequence[Member], new: Sequence[Member]) -> None:
    """Warn of each of `new`, which are among `members`, that one failure would destroy together with an earlier one."""
    for number, member in enumerate(members):
        for other in members[:number] if member in new else ():
            shared = None
            with suppress(BackupError):  # nobody can tell
                shared = share_a_fate(other.url, member.url)
            if shared is not None:
                warn(
                    f"the members {other.name} and {member.name} are on the same {shared}: when it fails, both fail "
                    "together. A second copy protects from that only on another one"
                )
                break


def copy_to(source: Backup, backup: Backup, document: MembersDocument, what: str) -> None:
    """Make the new member at `backup`, a copy of `source`, with this document. Raises BackupError."""
    done, total = 0, max(copied_bytes(source.storage), 1)
    with progress(f"Copying the backup to {document.name}") as show:

        def copied(count: int) -> None:
            nonlocal done
            done += count
            show(min(done, total), total)

        create_copy(source, backup, document, copied, what)


class NewMembers:
    """The members of a new backup: made one after the other, and removed again unless all of it succeeds."""

    def __init__(self, plan: Plan, first: Backup, making: Making, stack: ExitStack) -> None:
        self._plan, self._first, self._making, self._stack = plan, first, making, stack
        self.backups = {member.name: backup_at(member.url) for member in plan.members}
        self.backups[plan.first.name] = first

    def copy(self, what: str) -> tuple[Settings, MembersNote]:
        """Copy the first member, which has just been made, to all others, and write each one's document.

        Returns what backup.lock and the node's note are to say. Raises BackupError.
        """
        members = tuple(
            replace(member, url=self.backups[member.name].place.durable_url(member.url))
            for member in self._plan.members
        )
        in_sync = tuple(member.name for member in members if not member.trailing)
        with reaching(self._first.storage):
            manifest = read_manifest(self._first.storage)
        backup_id = manifest.backup_id.hex()
        document = MembersDocument(
            backup_id,
            self._plan.first.name,
            FIRST_EPOCH,
            in_sync,
            members,
            self._plan.need,
            floor=FIRST_EPOCH.number,
            key=manifest.key,
        )
        for member in self._plan.others:
            backup = self.backups[member.name]
            self._stack.enter_context(removed_on_failure(backup, self._making))
            copy_to(self._first, backup, replace(document, name=member.name), what)
        publish_document(self._first, document)
        settings = Settings(members[0].url, backup_id, members, self._plan.need, self._plan.grace)
        note = MembersNote(backup_id, FIRST_EPOCH, in_sync, adopted=FIRST_EPOCH.number, mounts=mount_points(members))
        return settings, note


def mount_points(members: Sequence[Member]) -> dict[str, str]:
    """For each member in a local directory: where its filesystem is mounted now."""
    found: dict[str, str] = {}
    for member in members:
        with suppress(BackupError, OSError):  # nobody can tell
            point = mount_point(member.url)
            if point is not None:
                found[member.name] = point
    return found


def tell_members(members: Sequence[Member]) -> None:
    """Say how the members are called."""
    for member in members:
        say(f"Member {member.name}: {member.url}{' (trailing: never waited for)' if member.trailing else ''}")


def would_copy(plan: Plan) -> list[str]:
    """The steps that a dry run lists for the other members."""
    return [f"copy it to {member.url} (the member {member.name})" for member in plan.others]


def lock_names(plan: Plan) -> str:
    """What backup.lock would name, for a dry run. Raises BackupError."""
    return " and ".join(backup_at(member.url).place.durable_url(member.url) for member in plan.members)


def check_places(plan: Plan) -> None:
    """Raise BackupError unless a new member can be made at every place. Leaves nothing behind."""
    refuse_same_places(plan.members, plan.members)
    for member in plan.members:
        answered(member.url, backup_at(member.url).check_new)
    warn_of_shared_fates(plan.members, plan.members)
