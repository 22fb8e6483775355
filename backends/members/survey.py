"""What the members of a backup say now: all are asked at once, and one that hangs is not waited for.

A call into a share or stick that hangs cannot be interrupted. So each member is asked by a thread of its own, a daemon,
which is abandoned when the time is over. Nothing is written to any member, and no lock is taken.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from backends import backup_at, keyring
from backends.errors import BackupError, Damaged, FromTheFuture, KeyNeeded, NotABackup, NotEncrypted
from backends.log.backup import Backup
from backends.log.facts import Facts
from backends.log.format.members import MEMBERS, Member
from backends.log.reader.authentic import check_segment
from backends.log.reader.opening import read_manifest, read_members
from backends.members.missing import Left, left_at
from backends.members.newest import SeenMember
from backends.storage.base import Storage
from backends.storage.deadline import carried
from backends.storage.unreachable import is_silence, reaching
from backends.text import unexpected

WITHIN = 20.0
"""Seconds that a command or a start gives the members to answer. A disk that has to spin up takes ten."""

Answer = TypeVar("Answer")


class Absence(Enum):
    """Why a member does not count as seen."""

    NO_ANSWER = auto()
    """It has not answered in time: its server or disk hangs."""
    UNREACHABLE = auto()
    """It cannot be read now: not mounted, not plugged in, closed to this user, or nothing is there."""
    NOT_A_BACKUP = auto()
    """Something is there, but no whole backup: it was wiped, or it is being copied."""
    OTHER_BACKUP = auto()
    """Another backup is there, or the copy of another member of this one."""
    NO_DOCUMENT = auto()
    """This backup is there, without the document that says in which epoch it is."""
    DAMAGED = auto()
    """The document or the manifest cannot be read any more."""
    LATER_RELEASE = auto()
    """A later release wrote it in a format that this one does not know."""
    KEY_NEEDED = auto()
    """Its document is encrypted with a key that this process does not know."""


class NotSeen(BackupError):
    """A member that was reached says nothing that counts; `absence` says why, and the message is a clause.

    `left` is what it holds if only its document is lost.
    """

    def __init__(self, why: str, absence: Absence, left: Left | None = None) -> None:
        super().__init__(why)
        self.absence, self.left = absence, left


class DamagedDocument(Damaged):
    """A member's document is damaged. `left` is what the member still holds."""

    def __init__(self, error: Damaged, left: Left | None) -> None:
        super().__init__(error.what, error.file, error.offset, error.last_good, error.hint)
        self.left = left


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found out about the members that were asked."""

    seen: tuple[SeenMember, ...]
    """The members that hold the wanted backup, in the order in which they were asked about."""
    missing: Mapping[str, str]
    """For each other member, by its name: a clause that says why it was not seen."""
    absences: Mapping[str, Absence]
    """For each of these, the same as a fact."""
    key_needed: KeyNeeded | None = None
    """Set if nobody can tell which member is the newest, because that is encrypted and the key is not known: raise it
    instead of choosing one."""
    left: Mapping[str, Left] = field(default_factory=dict)
    """What those of the missing members hold of which only the document is lost."""


def survey(members: Sequence[Member], backup_id: str | None, within: float = WITHIN) -> Survey:
    """Ask every member for its document and for the end of its log. Takes at most `within` seconds. Raises nothing.

    `backup_id` is the wanted backup's id; with None, each member may hold any.
    """
    answers, failures = ask_all({member.name: _question(member, backup_id) for member in members}, within)
    missing = {name: why_not_seen(error, within) for name, error in failures.items()}
    return Survey(
        tuple(answers[member.name] for member in members if member.name in answers),
        missing,
        {name: absence_of(error) for name, error in failures.items()},
        key_needed_for(answers.values(), failures),
        left_by(failures),
    )


def _question(member: Member, backup_id: str | None) -> Callable[[], SeenMember]:
    return lambda: look_at(backup_at(member.url), backup_id, member.name)


def look_at(backup: Backup, backup_id: str | None = None, name: str | None = None) -> SeenMember:
    """What this member says. `backup_id` is the id of the backup that it should hold, `name` is the name that it should
    have; with None, any will do.

    Raises NotSeen, or another BackupError if it cannot be read at all.
    """
    backup.place.check_present()
    with reaching(backup.storage):
        try:
            document = read_members(backup.storage)
        except Damaged as error:
            raise DamagedDocument(error, left_at(backup, backup_id)) from error
        # Without the document, the manifest is asked, which says more if no backup is there.
        found = document.backup_id if document is not None else read_manifest(backup.storage).backup_id.hex()
    if backup_id not in (None, found):
        raise NotSeen("another backup is there", Absence.OTHER_BACKUP)
    if document is None:
        raise NotSeen(
            f"this backup is there, but its document `{MEMBERS}` is missing, so nobody can tell how old it is",
            Absence.NO_DOCUMENT,
            left_at(backup, backup_id),
        )
    if name not in (None, document.name):
        raise NotSeen(f"a copy of the member {document.name} is there", Absence.OTHER_BACKUP)
    try:
        facts = backup.look()
        if facts.backup_id != document.backup_id:
            raise NotSeen(f"its document `{MEMBERS}` is another backup's", Absence.OTHER_BACKUP)
        end = facts.end
        with reaching(backup.storage):
            _check_end_is_authentic(backup.storage, facts)
        return SeenMember(document.name, document, end)
    except Damaged as error:
        return SeenMember(document.name, document, None, f"it is damaged: {error.finding}")
    except NotEncrypted:
        # Like damage: its document, which is sealed, shows that it has not gone on without the others.
        why = "what is there is not encrypted, although this backup is: somebody else has put it there, or it is old"
        return SeenMember(document.name, document, None, why)


def _check_end_is_authentic(storage: Storage, facts: Facts) -> None:
    """Raise Damaged if the log of an encrypted backup ends with records that the holder of the key has not written."""
    key = facts.manifest.key
    if key is not None and keyring.find(key) is not None:
        check_segment(storage, facts.manifest.segment_header(facts.last[0].index))


# Asking everybody at once


def ask_all(
    questions: Mapping[str, Callable[[], Answer]], within: float
) -> tuple[dict[str, Answer], dict[str, BaseException | None]]:
    """Ask all questions at once, each in a thread of its own. Takes at most `within` seconds. Raises nothing.

    Returns the answers, and for each other question what it raised, None if there was no answer in time.
    """
    until = time.monotonic() + within
    asked = {name: _Asked(question) for name, question in questions.items()}
    answers: dict[str, Answer] = {}
    failures: dict[str, BaseException | None] = {}
    for name, each in asked.items():
        each.finished.wait(max(until - time.monotonic(), 0.0))
        if each.finished.is_set() and each.error is None:
            answers[name] = each.answer()
        else:
            failures[name] = each.error
    return answers, failures


def left_by(failures: Mapping[str, BaseException | None]) -> dict[str, Left]:
    """What those members hold of which only the document is lost. `failures` is what `ask_all` has returned."""
    lost = {name: error for name, error in failures.items() if isinstance(error, NotSeen | DamagedDocument)}
    return {name: error.left for name, error in lost.items() if error.left is not None}


def key_needed_for(seen: Iterable[SeenMember], failures: Mapping[str, BaseException | None]) -> KeyNeeded | None:
    """The error if a member says something that only the key's holder can read, and the key is not known; else None.

    Without the key nobody can tell which member is the newest: one that everybody can read may be from before the
    backup was encrypted. If another member could be read with its key, a text under an unknown one is only damage.
    """
    needed = [error for error in failures.values() if isinstance(error, KeyNeeded)]
    return needed[0] if needed and all(member.document.key is None for member in seen) else None


class _Asked(Generic[Answer]):
    """A question to a member, asked by a daemon thread, which cannot keep the process from ending."""

    def __init__(self, question: Callable[[], Answer]) -> None:
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self._question, self._answers = carried(question), list[Answer]()
        try:
            threading.Thread(target=self._ask, name="asking a member", daemon=True).start()
        except RuntimeError as error:  # no thread can be started
            self.error = error
            self.finished.set()

    def answer(self) -> Answer:
        return self._answers[0]

    def _ask(self) -> None:
        try:
            self._answers.append(self._question())
        except BaseException as error:
            self.error = error
        self.finished.set()


def why_not_seen(error: BaseException | None, within: float) -> str:
    """A clause that says why a member was not seen. `error` is what `ask_all` has for it."""
    if error is None:
        return f"it has not answered for {within:.0f} seconds"
    if isinstance(error, Damaged):
        return f"it is damaged: {error.finding}"
    if isinstance(error, BackupError):
        return error.clause or str(error)
    if isinstance(error, OSError):
        return f"it cannot be read: {error.strerror or error}"
    return unexpected(error)


def absence_of(error: BaseException | None) -> Absence:
    """Why a member was not seen, as a fact. `error` is what `ask_all` has for it."""
    if error is None or is_silence(error):
        return Absence.NO_ANSWER
    if isinstance(error, NotSeen):
        return error.absence
    for kind, absence in _ABSENCES:
        if isinstance(error, kind):
            return absence
    return Absence.UNREACHABLE


_ABSENCES: tuple[tuple[type[BackupError], Absence], ...] = (
    (Damaged, Absence.DAMAGED),
    (NotABackup, Absence.NOT_A_BACKUP),
    (FromTheFuture, Absence.LATER_RELEASE),
    (KeyNeeded, Absence.KEY_NEEDED),
)
