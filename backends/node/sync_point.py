"""The sync point: a note on the node's side that the database file was at a known point of the backup.

When the database is known to hold the backup's last change, the plugin records which change that was and how the
database file looked (in `backup.witness`). A later start that finds the file looking the same knows that nobody has
written to it since. The sync point only ever proves something *for* the backup: when it is missing, unreadable or does
not match, the plugin takes a new snapshot.

The file is one line of JSON and one line with the CRC-32 of the first in hexadecimal, padded with blanks to SIZE. While
the node runs it is written in place, many times a second on a busy node: one `pwrite` within a page of the page cache,
which a kill cannot split, and no rename or sync that would wear out a memory card. A power cut may leave any mixture of
old and new bytes; the checksum reveals that.
"""

import errno
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from backends.change import DATABASE_HEADER, change_counter, database_fingerprint
from backends.node.directory import database_path
from backends.node.files import read_small_file, replace_file
from backends.sqlite.rollback_journal import has_hot_journal

SYNC_POINT_FILE = "backup.witness"

SIZE = 4096
"""Bytes of the file: one page of the page cache."""

_MAX_FAILURE = 4000
"""Characters of a failure that are kept: few enough that the file can be read again, whatever they are."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How a database file looks from outside: any committed transaction changes it.

    `size` in bytes, `mtime_ns` in nanoseconds since 1970, `change_counter` as in the SQLite header (0 when the file is
    too short to have one). `header` is the fingerprint of the first bytes, as in the backup's records.
    """

    inode: int
    size: int
    mtime_ns: int
    change_counter: int
    header: int


@dataclass(frozen=True, slots=True)
class SavedEnd:
    """The last change that a session saved, whether or not lightningd has committed it."""

    session: str
    sequence: int
    data_version: int
    checksum: int


@dataclass(frozen=True, slots=True)
class SyncPoint:
    """The last change of a backup, and how the database file looked then (None: there was none).

    `sequence` and `checksum` are those of the last record in the backup. `failure` says what went wrong when the plugin
    stopped because a change could not be saved, and is None after a stop without trouble.

    `ended` tells how it is known that nothing came after that change: it is the id of the session that had ended
    cleanly; empty when this directory had just been set up or restored; None while a session was running.

    `written` is where the log ended when a session was over whose last change nobody had seen committed.

    `begins` is where a new generation begins that was about to be published, and may have been.
    """

    backup_id: str
    sequence: int
    data_version: int
    checksum: int
    fingerprint: Fingerprint | None
    failure: str | None
    ended: str | None = None
    written: SavedEnd | None = None
    begins: SavedEnd | None = None


def fingerprint(path: Path) -> Fingerprint | None:
    """The file's fingerprint now, None when there is no file. OSError when it cannot be read.

    It does not use SQLite. Never call it while this process holds the database open through SQLite: closing any
    descriptor of a file releases every POSIX lock that the process has on it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        return fingerprint_of(descriptor, Path(os.path.realpath(path)))
    finally:
        os.close(descriptor)


def fingerprint_of(descriptor: int, path: Path) -> Fingerprint:
    """The fingerprint of an open database file; `path` is where it really is, without symbolic links. OSError.

    The files beside it that belong to its content count, too: in WAL mode a commit leaves the database file as it was,
    and the next process that opens the database writes the content of a hot journal back.
    """
    status, header = os.fstat(descriptor), os.pread(descriptor, DATABASE_HEADER, 0)
    size, changed = status.st_size, status.st_mtime_ns
    with suppress(FileNotFoundError):
        wal = path.with_name(path.name + "-wal").stat()
        size, changed = size + wal.st_size, max(changed, wal.st_mtime_ns)
    if has_hot_journal(path):
        with suppress(FileNotFoundError):
            journal = path.with_name(path.name + "-journal").stat()
            size, changed = size + journal.st_size, max(changed, journal.st_mtime_ns)
    return Fingerprint(status.st_ino, size, changed, change_counter(header), database_fingerprint(header))


def look(directory: Path) -> Fingerprint | None:
    """The fingerprint of this network directory's database file now; None when it is missing, empty or unreadable."""
    with suppress(OSError):
        seen = fingerprint(database_path(directory))
        return seen if seen is not None and seen.size > 0 else None
    return None


def read_sync_point(directory: Path) -> SyncPoint | None:
    """The sync point in this network directory; None for anything that is not whole and well-formed."""
    try:
        line, checksum, rest = read_small_file(directory / SYNC_POINT_FILE).split(b"\n", 2)
        if checksum != b"%08x" % crc32(line) or rest.strip(b" "):
            return None
        return _sync_point(json.loads(line))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_sync_point(directory: Path, sync_point: SyncPoint) -> None:
    """Write the sync point (mode 0600), durably. OSError when that fails.

    Then the old one is still there or, if only the last sync failed, the new one.

    A power cut right after `restore` must not leave a node whose database nothing vouches for, and what the last run
    could not save must not be forgotten.
    """
    replace_file(directory / SYNC_POINT_FILE, encode(sync_point), durably=True)


class OpenSyncPoint:
    """The file of the sync point, held open to be written often.

    If the file is replaced meanwhile (by `write_sync_point`, to record something more serious), the new file stays as
    it is: later writes go into the old file, which no longer has a name.
    """

    def __init__(self, directory: Path) -> None:
        """OSError when the file cannot be opened or created."""
        try:
            self._descriptor = _opened(directory / SYNC_POINT_FILE)
        except OSError:  # another user's, a link, a FIFO, a hard link: nothing in it counts
            remove_sync_point(directory)
            self._descriptor = _opened(directory / SYNC_POINT_FILE)
        if os.fstat(self._descriptor).st_size > SIZE:
            os.ftruncate(self._descriptor, SIZE)

    def write(self, sync_point: SyncPoint) -> None:
        """Overwrite the sync point with one system call; it is not synced. OSError."""
        os.pwrite(self._descriptor, encode(sync_point), 0)

    def sync(self) -> None:
        """Make what was written survive a power cut. OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; nothing may be written any more."""
        os.close(self._descriptor)


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EMLINK, "it is a second name of another file, or not a file", str(path))


def encode(sync_point: SyncPoint) -> bytes:
    """The bytes of the file for this sync point."""
    fields = asdict(sync_point)
    for name in _ADDED:
        if fields[name] is None:
            del fields[name]  # earlier releases do not know the field
    if sync_point.failure is not None:
        fields["failure"] = sync_point.failure[:_MAX_FAILURE]
    line = json.dumps(fields).encode()
    return (line + b"\n%08x\n" % crc32(line)).ljust(SIZE)


def remove_sync_point(directory: Path) -> None:
    """Remove the sync point, if there is one. OSError when it cannot be removed."""
    with suppress(FileNotFoundError):
        (directory / SYNC_POINT_FILE).unlink()


_KINDS: dict[str, tuple[type, ...]] = {
    "backup_id": (str,),
    "sequence": (int,),
    "data_version": (int,),
    "checksum": (int,),
    "fingerprint": (dict, type(None)),
    "failure": (str, type(None)),
    "ended": (str, type(None)),
    "written": (dict, type(None)),
    "begins": (dict, type(None)),
}
_ADDED = ("written", "begins")
"""Fields that the first release did not have."""

_LOG_END_KINDS: dict[str, tuple[type, ...]] = {
    "session": (str,), "sequence": (int,), "data_version": (int,), "checksum": (int,),
}  # fmt: skip
_FINGERPRINT_KINDS: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("inode", "size", "mtime_ns", "change_counter", "header"), (int,)
)


def _sync_point(document: Any) -> SyncPoint:
    """The sync point in a JSON document. TypeError for anything but exactly what `encode` writes."""
    if isinstance(document, dict):
        document = {**dict.fromkeys(_ADDED), **document}
    fields = _checked(document, _KINDS)
    if fields["fingerprint"] is not None:
        fields["fingerprint"] = Fingerprint(**_checked(fields["fingerprint"], _FINGERPRINT_KINDS))
    for name in _ADDED:
        if fields[name] is not None:
            fields[name] = SavedEnd(**_checked(fields[name], _LOG_END_KINDS))
    return SyncPoint(**fields)


def _checked(document: Any, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise TypeError("not the fields of a sync point")
    # isinstance would take True for a number.
    if any(type(document[name]) not in allowed for name, allowed in kinds.items()):
        raise TypeError("a field of the wrong type")
    if any(type(value) is int and not 0 <= value < _MAX_NUMBER for value in document.values()):
        raise TypeError("a number out of range")
    return document


_MAX_NUMBER = 1 << 64
