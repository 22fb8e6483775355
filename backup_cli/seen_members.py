"""A backup with several destinations as a command sees it: all of them are read at once, and nothing is changed.

A member that hangs is given up after a while. The status is that of the log in a member that holds all of it, with a
line for each member.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError, Damaged, Unreachable
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Member, MembersDocument
from backends.log.status import Status
from backends.log.status_of_members import listed, with_members
from backends.members.member_statuses import Belief, Found, ReadAlone, member_statuses
from backends.members.newest import SeenMember, newest, newest_epoch
from backends.members.survey import (
    WITHIN,
    Absence,
    Survey,
    absence_of,
    ask_all,
    key_needed_for,
    look_at,
    survey,
    why_not_seen,
)
from backends.members.urls import named, new_name
from backends.node.lockfile import Settings
from backends.node.members_note import read_members_note
from backends.storage.unreachable import reaching
from backends.text import counted
from backup_cli import as_owner
from backup_cli.waiting import no_answer, note_silence, silence_of

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

    def closed(self) -> list[str]:
        """For each member that was read and cannot be written to, a sentence that says why."""
        return [
            f"nothing more can be saved in {name}, and the node goes on without it, or stops: {read.closed}"
            for name, read in self.found.alone.items()
            if read.closed is not None
        ]


def has_members(backup: Backup) -> bool:
    """Whether this is one member of a backup that has several. Raises Unreachable."""
    with reaching(backup.storage), suppress(FileNotFoundError):
        backup.storage.read_small(MEMBERS)
        return True
    return False


def newest_url(settings: Settings) -> str:
    """The URL of the backup; of several members, that of the one that holds the newest state.

    Raises KeyNeeded, or another BackupError if none of them can be read, or if two nodes have written to different
    ones.
    """
    if not settings.members:
        return settings.url
    found = _surveyed(settings)
    if found.key_needed is not None:
        raise found.key_needed
    if not found.seen:
        raise Unreachable("; ".join(f"{name}: {why}" for name, why in found.missing.items()))
    best = newest(found.seen).name
    return settings.member(best).url


def own_members(directory: Path, settings: Settings) -> SeenBackup:
    """The backup of the node in this network directory. Raises Diverged, Unreachable, Damaged or KeyNeeded."""
    note = read_members_note(directory)
    seen = _surveyed(settings)
    if seen.key_needed is not None:
        raise seen.key_needed
    found = Found(settings.members, seen, note, _read_all(seen, settings.members))
    return _whole(found, settings.url, settings.need)


def _surveyed(settings: Settings) -> Survey:
    """What the members of this node's backup say. In a command that asks once, those that were silent are left out."""
    silent = {member: error for member in settings.members if (error := silence_of(member.url)) is not None}
    found = survey([member for member in settings.members if member not in silent], settings.backup_id, WITHIN)
    for name, absence in found.absences.items():
        if absence is Absence.NO_ANSWER:
            url = settings.member(name).url
            note_silence(url, Unreachable(f"{url}: {found.missing[name]}", clause=found.missing[name]))
    return replace(
        found,
        missing={**found.missing, **{member.name: why_not_seen(error, WITHIN) for member, error in silent.items()}},
        absences={**found.absences, **{member.name: Absence.NO_ANSWER for member in silent}},
    )


def names_at(urls: Sequence[str]) -> dict[str, list[str]]:
    """The names of the files of each of these members, by URL; those that cannot be read in time are left out."""
    asked = [url for url in urls if silence_of(url) is None]
    answers, failures = ask_all({url: partial(_names, url) for url in asked}, WITHIN)
    for url, error in failures.items():
        if absence_of(error) is Absence.NO_ANSWER:
            note_silence(url, error if isinstance(error, BackupError) else no_answer(url, WITHIN))
    return answers


def _names(url: str) -> list[str]:
    backup = backup_at(url)
    with reaching(backup.storage):
        return backup.storage.names()


def given_members(urls: Sequence[str]) -> SeenBackup:
    """The backup whose members are at these URLs; others that it has are not asked. Run by root, this goes on as the
    owner of one of them.

    Raises Diverged, Unreachable, Damaged, KeyNeeded, or BackupError if these are not members of one backup.
    """
    given = named(urls)
    as_owner.backups(member.url for member in given)
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
    needed = key_needed_for(answers.values(), failures)
    if needed is not None:
        raise needed
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
    members = tuple(Member(names[each.name], each.url, each.trailing or names[each.name] in trailing) for each in given)
    return (
        members,
        Survey(
            tuple(answers[each.name] for each in given if each.name in answers),
            {names[name]: why for name, why in reasons.items()},
            {names[name]: absence_of(error) for name, error in failures.items()},
        ),
        document,
    )


def _question(url: str) -> Callable[[], SeenMember]:
    return lambda: look_at(backup_at(url))


def _name_of(given: Member, document: MembersDocument, taken: Sequence[str]) -> str:
    """The name of a member that was not seen: the one that the others know it by, if its URL is as in backup.lock."""
    for member in document.members:
        if member.url == given.url and member.name not in taken:
            return member.name
    return given.name if given.name not in taken else new_name(given.url, taken)


def _refuse_strangers(given: Sequence[Member], answers: Mapping[str, SeenMember]) -> None:
    """Refuse places that are not members of one backup, or of which one is a copy of another."""
    urls = {member.name: member.url for member in given}
    first: dict[str, str] = {}
    ids: dict[str, str] = {}
    for name, seen in answers.items():
        ids.setdefault(seen.document.backup_id, urls[name])
        if seen.name in first:
            raise BackupError(
                f"{first[seen.name]} and {urls[name]} both hold the member {seen.name}: one of them is a copy of the "
                "other. Nothing was changed; name only the one that backup.lock names"
            )
        first[seen.name] = urls[name]
    if len(ids) > 1:
        one, other, *_ = ids.items()
        raise BackupError(
            f"{one[1]} and {other[1]} hold two different backups ({one[0]} and {other[0]}), not two members of one. "
            "Nothing was changed; name the members of one backup only"
        )


# Reading the logs


def _read_all(found: Survey, members: Sequence[Member]) -> dict[str, ReadAlone]:
    urls = {member.name: member.url for member in members}
    answers, _ = ask_all({seen.name: _reading(urls[seen.name]) for seen in found.seen}, READ_WITHIN)
    return answers


def _reading(url: str) -> Callable[[], ReadAlone]:
    return lambda: _read(backup_at(url), url)


def _read(backup: Backup, url: str) -> ReadAlone:
    closed = backup.place.why_unwritable()
    try:
        return ReadAlone(backup.status(url), None, closed)
    except Damaged as error:
        return ReadAlone(None, error, closed)


def _whole(found: Found, url: str, need: int) -> SeenBackup:
    """The status of the backup: `url` is what it is called by, the first URL."""
    belief = found.belief
    if not found.survey.seen or belief is None:
        raise _nothing_read({f"{each.name} ({each.url})": found.survey.missing[each.name] for each in found.members})
    best = _best(found, belief)
    source = next(member for member in found.members if member.name == best.name)
    read = found.alone.get(best.name)
    if read is not None and read.damage is not None:
        raise read.damage
    if read is None or read.status is None:
        raise Unreachable(
            f"the log in {source.name} ({source.url}) could not be read within {READ_WITHIN:.0f} seconds. Nothing was "
            "changed; check whether that disk or server is well, then try again"
        )
    log = replace(read.status, url=url)
    return SeenBackup(
        backup_at(source.url), with_members(log, member_statuses(found), need, belief.epoch.number), found
    )


def _best(found: Found, belief: Belief) -> SeenMember:
    """The member whose log to show: it holds all of it, and is whole if any is."""
    in_sync = [
        member
        for member in found.survey.seen
        if member.document.epoch == belief.epoch and member.name in belief.in_sync and member.name in found.alone
    ]
    whole = [member for member in in_sync if found.whole(member) and found.alone[member.name].status is not None]
    if not whole and not in_sync:
        return newest(found.survey.seen)
    return max(whole or in_sync, key=lambda member: 0 if member.end is None else member.end.sequence)


def _nothing_read(reasons: Mapping[str, str]) -> Unreachable:
    error = Unreachable(
        "no member of this backup can be read. Nothing was changed, and what was saved there is as it was; connect one "
        "of them, then try again:"
    )
    error.listed = tuple(f"{member}: {why}" for member, why in reasons.items())
    return error
