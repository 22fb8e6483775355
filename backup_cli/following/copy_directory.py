"""The directory that `backup-cli follow` keeps a copy in: the copy, a lock, and a note for people and for the next run.

The note says whose copy it is. Where exactly the copy stands is in the copy itself, so the note may be older.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.errors import BackupError, InUse
from backends.holder import COMMAND
from backends.node.directory import DATABASE
from backends.node.files import read_small_file, replace_file, sync_directory
from backends.node.following import COPY, NOTE, why_following, why_unfinished
from backends.sqlite.rollback_journal import has_hot_journal
from backends.system.locks import FileLock, Locked, NoLocks
from backends.text import shell_line

LOCK = "following.lock"


@dataclass(frozen=True, slots=True)
class Released:
    """A copy that has become an ordinary database, and is about to get lightningd's name for it: what the node's side
    must be told, and how the file looked."""

    sequence: int
    checksum: int
    data_version: int
    inode: int
    size: int
    mtime_ns: int

    def is_file(self, path: Path) -> bool:
        """Whether this is that file, and nobody has written to it since."""
        with suppress(FileNotFoundError):
            there = path.stat()
            return (there.st_ino, there.st_size, there.st_mtime_ns) == (self.inode, self.size, self.mtime_ns)
        return False


@dataclass(frozen=True, slots=True)
class Note:
    """Which backup the copy follows, and how far it was some time ago. Times are seconds since 1970, 0 if never."""

    backup_id: str
    url: str
    generation: int = 0
    data_version: int = 0
    sequence: int = 0
    last_change: int = 0
    rebuilt: int = 0
    """When the copy was last built from a snapshot; all of it was checked then."""
    in_step: int = 0
    """When it last held all that the backup did."""
    checked: int = 0
    """When all tables were last checked."""
    lineage: int = 0
    """That of the generation that the copy was built from (`Manifest.lineage`)."""
    released: Released | None = None


class CopyDirectory:
    """The directory `path`, which exists."""

    def __init__(self, path: Path) -> None:
        self.path, self.copy, self.database = path, path / COPY, path / DATABASE
        self._note, self._lock = path / NOTE, path / LOCK

    def read(self) -> Note | None:
        """The note; None if there is none that can be read."""
        try:
            fields = json.loads(read_small_file(self._note))
            released = fields.pop("released", None)
            note = Note(**fields, released=None if released is None else Released(**released))
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None
        return note if _has_right_types(note) else None

    def write(self, note: Note) -> None:
        """Replace the note, durably: otherwise a power cut can leave an empty file (on XFS and btrfs it did), and
        nothing shows any more which backup the copy is of. Raises OSError."""
        text = json.dumps(asdict(note), indent=1) + "\n"
        replace_file(self._note, text.encode(), durably=True)

    def remove_note(self) -> None:
        """The copy is no copy any more."""
        self._note.unlink(missing_ok=True)
        sync_directory(self.path)

    def replace_copy(self, new: Path) -> None:
        """Put a new copy in the place of the old one, durably. No journal of the old one may be left: SQLite would roll
        it back into the new one."""
        journal = self.copy.with_name(f"{COPY}-journal")
        if journal.exists():
            if has_hot_journal(self.copy):  # the old copy is damaged: SQLite has not even rolled its journal back
                self.copy.unlink(missing_ok=True)
            journal.unlink()
            sync_directory(self.path)
        new.replace(self.copy)
        sync_directory(self.path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one who works with this copy. Raises InUse, which names the other one."""
        lock = FileLock(self._lock, f"{COMMAND} follow")
        try:
            with suppress(NoLocks):
                lock.acquire()
        except Locked as error:
            raise InUse(
                f"another process ({error.holder}) follows the backup with the copy in {self.path}; nothing was "
                "changed. Stop that one first (systemctl stop, or Ctrl-C), then repeat this"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def put_back(self, released: Released) -> None:
        """Give the database that a promotion, which was cut off, has renamed the name of the copy again, durably.

        Raises BackupError if it is not what that promotion has left.
        """
        self.check_left(released)
        self.database.rename(self.copy)
        sync_directory(self.path)

    def check_left(self, released: Released) -> None:
        """Raise BackupError if the database is not what a promotion that was cut off has left."""
        if self.journals() or not released.is_file(self.database):
            raise BackupError(
                f"{self.database} is not the file that an earlier promotion, which was cut off, has left: somebody "
                "has replaced it, or a node has written to it. Nothing was changed; to see how it compares with the "
                f"backup, run: {shell_line('backup-cli', 'check-config', '--lightning-dir', self.path)}"
            )

    def journals(self) -> list[Path]:
        """The journals that lie where lightningd's database is to be. SQLite would take them for those of the copy."""
        beside = [self.database.with_name(f"{DATABASE}{suffix}") for suffix in ("-journal", "-wal", "-shm")]
        return [path for path in beside if os.path.lexists(path)]

    def refuse_database(self) -> None:
        """Raise BackupError if the directory has a node's own database already: it is no place for a copy."""
        why = why_following(self.database) or why_unfinished(self.path)
        if why is not None:
            raise BackupError(f"{why}. Nothing was changed")
        if os.path.lexists(self.database):
            raise BackupError(
                f"{self.database} exists: this is a node's own directory, so no copy is kept there, and nothing was "
                "changed. If a copy was promoted here, that is done, and this is its database: start lightningd; "
                f"{shell_line('backup-cli', 'check-config', '--lightning-dir', self.path)} says whether all is in "
                "place. Otherwise name another directory for the copy"
            )
        journals = self.journals()
        if journals:
            raise BackupError(
                f"{' and '.join(map(str, journals))} exists: it belongs to another database, the one that was called "
                f"{DATABASE} here, and SQLite would write what it holds into the copy once that has this name. Nothing "
                "was changed. Move it away, to where that database is now: without it, that database may be damaged"
            )


def _has_right_types(note: Note) -> bool:
    fields: dict[str, Any] = asdict(note)
    released = fields.pop("released") or {}
    texts = [fields.pop("backup_id"), fields.pop("url")]
    return all(isinstance(each, str) for each in texts) and all(
        type(each) is int for each in (*fields.values(), *released.values())
    )
