"""The two small files that a node needs beside its database: put back by `restore`, or told to be missing.

They are put back only where the database gets the name under which lightningd looks for it, and replace nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from backends.errors import BackupError, Damaged
from backends.log.attachments import read_attached
from backends.log.backup import Backup
from backends.log.format.attachments import AttachedFile, Attachment
from backends.node.attached import put_node_file
from backends.node.directory import DATABASE
from backends.storage.unreachable import reaching
from backends.text import printable
from backup_cli.console import moment, size, warn
from backup_cli.waiting import answered


class Outcome(Enum):
    """What became of a file. Programs identify it by the value, people read `words`."""

    RESTORED = "restored"
    WAS_THERE = "was_there"
    """A file of that name was there, and was left as it is."""
    MISSING = "missing"
    """It is not there, and the backup does not hold it."""
    NOT_RESTORED = "not_restored"
    """The backup holds it, and it could not be read there or written here."""

    @property
    def words(self) -> str:
        """The outcome in words, for brackets."""
        return _WORDS[self]


_WORDS = {
    Outcome.RESTORED: "restored",
    Outcome.WAS_THERE: "was there, and was left as it is",
    Outcome.MISSING: "MISSING",
    Outcome.NOT_RESTORED: "MISSING: it could not be restored",
}

WITHOUT_IT = {
    Attachment.SECRET: "without it the node cannot run at all, and nothing can be spent",
    Attachment.EMERGENCY: "without it only the last resort is missing, and lightningd writes a new one when it starts",
}
"""What it means that a file is missing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the backup holds of one file; `file` is None if nothing, or if it cannot be read (`why`: a clause)."""

    which: Attachment
    file: AttachedFile | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of one file."""

    which: Attachment
    outcome: Outcome


def stored_in(sources: Sequence[tuple[str, Backup]]) -> list[Stored]:
    """What the backup holds of each file. `sources` are its members with their URLs, the best one first: the first one
    that has a good copy counts. Raises nothing."""
    return [_stored(which, sources) for which in (Attachment.SECRET, Attachment.EMERGENCY)]


def _stored(which: Attachment, sources: Sequence[tuple[str, Backup]]) -> Stored:
    why = ""
    for url, backup in sources:
        try:
            file = answered(url, partial(_read, backup, which))
        except BackupError as error:
            why = why or (error.finding if isinstance(error, Damaged) else error.clause or str(error))
            continue
        if file is not None:
            return Stored(which, file)
    return Stored(which, None, why)


def _read(backup: Backup, which: Attachment) -> AttachedFile | None:
    with reaching(backup.storage):
        return read_attached(backup.storage, which)


def put_back(directory: Path, stored: Sequence[Stored]) -> list[PutBack]:
    """Put each file into the node's directory, durably, unless one of that name is there. Warns of what failed."""
    return [PutBack(each.which, _put_back(directory, each)) for each in stored]


def _put_back(directory: Path, stored: Stored) -> Outcome:
    path = directory / stored.which.value
    if _is_taken(path):
        return Outcome.WAS_THERE
    why = stored.why
    if stored.file is not None and stored.file.content is not None:
        try:
            put_node_file(directory, stored.which, stored.file.content)
            return Outcome.RESTORED
        except FileExistsError:
            return Outcome.WAS_THERE
        except OSError as error:
            why = printable(error.strerror or str(error))
    if not why:
        return Outcome.MISSING
    warn(
        f"{stored.which.value} is in the backup, and could not be restored: {why}. The database is not affected; keep "
        "the backup as it is"
    )
    return Outcome.NOT_RESTORED


def would_put_back(directory: Path, stored: Sequence[Stored]) -> list[str]:
    """The steps that a dry run lists for these files."""
    return [_would_put_back(directory, each) for each in stored]


def _would_put_back(directory: Path, stored: Stored) -> str:
    name, path = stored.which.value, directory / stored.which.value
    if _is_taken(path):
        return f"leave {path} as it is"
    if stored.file is not None:
        return f"write {name} ({size(stored.file.size)}, copied {moment(stored.file.time)}) to {path}"
    lacks = f"it cannot be read from the backup: {stored.why}" if stored.why else "neither the backup nor DEST has it"
    return f"restore no {name} ({lacks}); {WITHOUT_IT[stored.which]}"


def _is_taken(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def files_line(directory: Path, files: Sequence[PutBack]) -> str:
    """Which of the files that a node needs are in its directory now."""
    each = [f"{DATABASE} (restored)", *(f"{file.which.value} ({file.outcome.words})" for file in files)]
    return f"In {directory}: {', '.join(each)}."


def about_emergency(directory: Path, files: Sequence[PutBack]) -> list[str]:
    """What to know about `emergency.recover`, as a line of its own; nothing if the directory is not a node's."""
    name = Attachment.EMERGENCY.value
    for file in files:
        if file.which is Attachment.EMERGENCY:
            if file.outcome in (Outcome.RESTORED, Outcome.WAS_THERE):
                return [
                    f"{directory / name} is for the last resort only: with this database, never run lightning-cli "
                    "emergencyrecover, which closes every channel."
                ]
            lacks = "this backup lacks it" if file.outcome is Outcome.MISSING else "it could not be restored"
            return [f"{name} is not there: {lacks}; {WITHOUT_IT[file.which]}."]
    return []


def secret_is_stored(url: str, backup: Backup) -> bool:
    """Whether the backup holds `hsm_secret`, be it readable or not."""
    return bool(_is_stored(Attachment.SECRET, url, backup))


def about_emergency_elsewhere(url: str, backup: Backup) -> str:
    """What became of `emergency.recover` where the database is not put into a node's directory, as a line."""
    stored = _is_stored(Attachment.EMERGENCY, url, backup)
    name = Attachment.EMERGENCY.value
    if stored is None:
        return f"{name} was not restored here; nobody can tell now whether this backup holds it."
    if not stored:
        return f"{name} is not in this backup; {WITHOUT_IT[Attachment.EMERGENCY]}."
    return (
        f"{name} is in this backup, but was not restored here: it is put only beside a database that is restored as "
        f"{DATABASE}, with the node's network directory as DEST."
    )


def _is_stored(which: Attachment, url: str, backup: Backup) -> bool | None:
    """Whether the backup holds the file, be it readable or not; None if that cannot be told."""
    with suppress(BackupError, OSError):  # the backup has just gone
        return which.value in answered(url, backup.storage.names)
    return None


def files_document(files: Sequence[PutBack]) -> dict[str, str | None]:
    """The same for programs: the value of each file's outcome, None if the file's directory is not a node's."""
    outcomes = {file.which: file.outcome.value for file in files}
    return {
        "database": Outcome.RESTORED.value,
        "hsm_secret": outcomes.get(Attachment.SECRET),
        "emergency_recover": outcomes.get(Attachment.EMERGENCY),
    }
