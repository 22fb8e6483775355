"""Reading the members of a backup from some of their URLs: the others that they name are looked for, too.

Nothing is written to any of them. One that hangs is given up after a while.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backends import backup_at
from backends.errors import BackupError, Damaged, Unreachable
from backends.log.format.members import Member
from backends.members.newest import SeenMember
from backends.members.survey import WITHIN, Absence, absence_of, ask_all, key_needed_for, look_at, survey, why_not_seen
from backends.members.where import same_place
from backends.text import counted
from backends.urls import parse_url
from backup_cli.console import say
from backup_cli.options import find_backup


@dataclass(frozen=True, slots=True)
class Read:
    """The members of one backup, each by its name."""

    seen: dict[str, SeenMember]
    urls: dict[str, str]
    """For each member that was read: where."""
    missing: dict[str, str]
    """For each other one that is configured: a clause that says why it was not read."""


def read_members(urls: Sequence[str]) -> Read:
    """The members at these URLs, and the others that they name and that can be reached.

    Raises BackupError if none was read, or if a URL is no member of the same backup.
    """
    answers, failures = ask_all({url: _question(url) for url in urls}, WITHIN)
    _refuse_unusable(answers, failures)
    needed = key_needed_for((seen for _, seen in answers.values()), failures)
    if needed is not None:
        raise needed
    found = Read({}, {}, {})
    for where, seen in answers.values():
        _add(found, seen, where)
    backup_id = next(iter(found.seen.values())).document.backup_id
    asked = {_key(url) for url in (*urls, *found.urls.values())}
    while True:
        others = [each for each in _configured(found) if _key(each.url) not in asked]
        if not others:
            break
        names = ", ".join(f"{each.name} ({each.url})" for each in others)
        say(f"Reading the other members of this backup, for at most {WITHIN:.0f} seconds: {names}")
        for seen, where in _asked(others, backup_id, found):
            _add(found, seen, where)
        asked |= {_key(each.url) for each in others}
    _match(found, {url: why_not_seen(error, WITHIN) for url, error in failures.items()})
    _refuse_removed(found, [where for where, _ in answers.values()])
    return found


def _asked(others: Sequence[Member], backup_id: str, found: Read) -> list[tuple[SeenMember, str]]:
    """Ask these members; the names of those that do not answer are noted as missing."""
    surveyed = survey(others, backup_id, WITHIN)
    if surveyed.key_needed is not None and all(seen.document.key is None for seen in found.seen.values()):
        raise surveyed.key_needed
    found.missing.update({name: why for name, why in surveyed.missing.items() if name not in found.seen})
    urls = {member.name: member.url for member in others}
    return [(seen, urls[seen.name]) for seen in surveyed.seen]


def _question(url: str) -> Callable[[], tuple[str, SeenMember]]:
    def ask() -> tuple[str, SeenMember]:
        try:
            where, backup = find_backup(url)
        except Damaged:  # its document may still say which others there are
            where, backup = url, backup_at(url)
        return where, look_at(backup)

    return ask


def _configured(found: Read) -> list[Member]:
    """All members that a document of the highest epoch lists; there may be two, written by two nodes."""
    top = max(seen.document.epoch.number for seen in found.seen.values())
    documents = [seen.document for seen in found.seen.values() if seen.document.epoch.number == top]
    return list(dict.fromkeys(member for document in documents for member in document.members))


def _key(url: str) -> tuple[str, str, str]:
    """What tells two places apart without asking either of them."""
    place = parse_url(url)
    return place.scheme, place.host.lower(), str(place.path)


def _add(found: Read, seen: SeenMember, url: str) -> None:
    before = found.seen.get(seen.name)
    if before is None:
        found.seen[seen.name], found.urls[seen.name] = seen, url
        found.missing.pop(seen.name, None)
        return
    if (before.document, before.end) == (seen.document, seen.end) or same_place(url, found.urls[seen.name]):
        return  # the same directory by another URL, or a copy that is just as good
    raise BackupError(
        f"{found.urls[seen.name]} and {url} both hold the member {seen.name}, in different states: one of them is an "
        "older copy of the other. Nothing was restored; find out which of the two disks the node has used, take the "
        "other one away, then repeat this"
    )


# What does not belong


def _refuse_unusable(
    answers: Mapping[str, tuple[str, SeenMember]], failures: Mapping[str, BaseException | None]
) -> None:
    """Refuse if no member was read, or if what was read does not belong together."""
    if not answers:
        _refuse_all(failures)
    for url, error in failures.items():
        if absence_of(error) in (Absence.NO_DOCUMENT, Absence.OTHER_BACKUP):
            raise _stranger(url, why_not_seen(error, WITHIN))
    ids: dict[str, str] = {}
    for url, (_, seen) in answers.items():
        ids.setdefault(seen.document.backup_id, url)
    if len(ids) > 1:
        one, other, *_ = ids.items()
        raise BackupError(
            f"{one[1]} and {other[1]} hold two different backups ({one[0]} and {other[0]}), not two members of one. "
            "Nothing was restored; name the members of one backup only"
        )


def _refuse_all(failures: Mapping[str, BaseException | None]) -> None:
    """Raise the error of the only URL, or one that lists all of them."""
    error = next(iter(failures.values()))
    if len(failures) == 1 and isinstance(error, BackupError | OSError):
        raise error
    refusal = Unreachable(
        "no member of this backup could be read. Nothing was restored, and what was saved there is as it was; connect "
        "one of them, then try again:"
    )
    refusal.listed = tuple(f"{url}: {why_not_seen(error, WITHIN)}" for url, error in failures.items())
    raise refusal


def _stranger(url: str, why: str) -> BackupError:
    return BackupError(
        f"{url} is no member of this backup: {why}. Nothing was restored; leave it out, or restore from it alone if it "
        "is the one that you mean"
    )


def _match(found: Read, unread: Mapping[str, str]) -> None:
    """Find out which member each URL names that was given and could not be read; refuse one that names none."""
    configured = {_key(member.url): member.name for member in _configured(found)}
    for url, why in unread.items():
        name = configured.get(_key(url))
        if name is None:
            known = ", ".join(f"{member.name} ({member.url})" for member in _configured(found))
            raise BackupError(
                f"{url} could not be read ({why}), and no member of this backup has that URL; they are: {known}. "
                "Nothing was restored; correct that URL, or leave it out"
            )
        if name not in found.seen:
            found.missing[name] = why


def _refuse_removed(found: Read, given: Sequence[str]) -> None:
    """Refuse a URL whose member has been removed from the backup since."""
    names = [member.name for member in _configured(found)]
    for name, url in list(found.urls.items()):
        if name in names:
            continue
        if url in given:
            raise _stranger(url, f"the member {name} was removed from it; it has {counted(len(names), 'member')} now")
        del found.seen[name], found.urls[name]  # it was only configured in an earlier epoch
