"""A backup with several destinations as a command sees it: all of them are read at once, and nothing is changed.

A member that hangs is given up after a while. The status is that of the log in a member that holds all of it, with a
line for each member.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError, Damaged, Unreachable
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Member, MembersDocument
from backends.log.status import Status
from backends.log.status_of_members import listed, with_members
from backends.members.member_statuses import Found, ReadAlone, member_statuses
from backends.members.newest import SeenMember, newest, newest_epoch
from backends.members.survey import WITHIN, Survey, absence_of, ask_all, look_at, survey, why_not_seen
from backends.members.urls import named, new_name
from backends.node.lockfile import Settings
from backends.node.members_note import read_members_note
from backends.storage.unreachable import reaching
from backends.text import counted
from backup_cli import as_owner

READ_WITHIN = 120.0
"""Seconds in which the logs of all members must be read. Each has answered a moment before."""


@dataclass(frozen=True, slots=True)
class SeenBackup:
    """What was found out about a backup with several members."""

    backup: Backup
    """The backup in a member that holds the newest state; in one that is whole, if any is."""
    status: Status
    """Of the whole backup: the log, and each member that was asked."""
    found: Found
    not_asked: tuple[str, ...] = ()
    """Members that are configured, but whose URLs were not given."""

    def doubt(self) -> str | None:
        """Why the newest state may be elsewhere, as a sentence; None if every member was asked."""
        if not self.not_asked:
            return None
        others = f"the {counted(len(self.not_asked), 'other member')} of this backup"
        return f"{others} ({listed(self.not_asked)}) may hold newer changes: name every member's URL to see all of them"


def has_members(backup: Backup) -> bool:
    """Whether this is one member of a backup that has several. Raises Unreachable."""
    with reaching(backup.storage), suppress(FileNotFoundError):
        backup.storage.read_small(MEMBERS)
        return True
    return False


def own_members(directory: Path, settings: Settings) -> SeenBackup:
    """The backup of the node in this network directory. Raises Diverged, Unreachable or Damaged."""
    note = read_members_note(directory)
    seen = survey(settings.members, settings.backup_id)
    found = Found(settings.members, seen, note, _read_all(seen, settings.members))
    return _whole(found, settings.url, settings.need)


def given_members(urls: Sequence[str]) -> SeenBackup:
    """The backup whose members are at these URLs; others that it has are not asked. Run by root, this goes on as the
    owner of one of them.

    Raises Diverged, Unreachable, Damaged, or BackupError if these are not members of one backup.
    """
    given = named(urls)
    for member in given:
        with suppress(Unreachable):
            if as_owner.backup(member.url):
                break
    members, seen, document = _survey_given(given)
    found = Found(members, seen, None, _read_all(seen, members))
    asked = {member.name for member in members}
    not_asked = tuple(member.name for member in document.members if member.name not in asked)
    return replace(_whole(found, given[0].url, document.need), not_asked=not_asked)


def _survey_given(given: Sequence[Member]) -> tuple[tuple[Member, ...], Survey, MembersDocument]:
    """What the places at the given URLs say, by the name that each member has in the backup; and the newest document.

    `given` has names that were made up from the URLs.
    """
    answers, failures = ask_all({member.name: _question(member.url) for member in given}, WITHIN)
    reasons = {name: why_not_seen(error, WITHIN) for name, error in failures.items()}
    if not answers:
        raise _nothing_read({member.url: reasons[member.name] for member in given})
    _refuse_strangers(given, answers)
    epoch = newest_epoch(answers.values())
    document = next(seen.document for seen in answers.values() if seen.document.epoch == epoch)
    trailing = {member.name for member in document.members if member.trailing}
    names = {name: seen.name for name, seen in answers.items()}
    for member in given:
        if member.name not in names:
            names[member.name] = _name_of(member, document, list(names.values()))
    members = tuple(
        Member(names[each.name], each.url, each.trailing or names[each.name] in trailing) for each in given
    )
    return (
        members,
        Survey(
            tuple(answers[each.name] for each in given if each.name in answers),
            {names[name]: why for name, why in reasons.items()},
            {names[name]: absence_of(error) for name, error in failures.items()},
        ),
        document,
    )


def _question(url: str):  # type: ignore[no-untyped-def]
    return lambda: look_at(backup_at(url))
