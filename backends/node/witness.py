"""The witness: a note on the node's side that the database file was at a known point of the backup.

At a clean moment the plugin notes which change was the last one and how the database file looked. A later
start that finds the file looking the same knows that nobody has written to it since. The note only ever
proves something *for* the backup: when it is missing, unreadable or does not fit, the plugin takes a new snapshot.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.node.directory import database_path
from backends.node.files import read_small_file, replace_file

WITNESS_FILE = "backup.witness"

_HEADER = 100
"""Bytes of a SQLite file's header; its bytes 24 to 28 count the transactions that changed the file."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How a database file looks from outside: any committed transaction changes it.

    `size` in bytes, `mtime_ns` in nanoseconds since 1970, `change_counter` as in the SQLite header (0 when
    the file is too short to have one).
    """

    inode: int
    size: int
    mtime_ns: int
    change_counter: int


@dataclass(frozen=True, slots=True)
class Witness:
    """The last change of a backup, and the database file as it then was (None: there was none).

    `sequence` and `checksum` are the last record's in the backup. `failure` says what went wrong when the plugin
    stopped because a change could not be saved, and is None after a stop without trouble.

    `ended` tells how it is known that nothing came after that change: it is the id of the session that had ended in
    order then; empty when this directory was set up or restored just then, and None while a session went on.
    """

    backup_id: str
    sequence: int
    data_version: int
    checksum: int
    fingerprint: Fingerprint | None
    failure: str | None
    ended: str | None = None


def fingerprint(path: Path) -> Fingerprint | None:
    """The file's fingerprint now, None when there is no file. OSError when it cannot be read.

    Never through SQLite, and never while this process holds the database open through SQLite: closing any
    descriptor of a file gives up every POSIX lock that the process has on it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        status, header = os.fstat(descriptor), os.pread(descriptor, _HEADER, 0)
    finally:
        os.close(descriptor)
    counter = int.from_bytes(header[24:28], "big") if len(header) == _HEADER else 0
    size, changed = status.st_size, status.st_mtime_ns
    with suppress(FileNotFoundError):  # in WAL mode a commit leaves the database file itself as it was
        wal = path.with_name(path.name + "-wal").stat()
        size, changed = size + wal.st_size, max(changed, wal.st_mtime_ns)
    return Fingerprint(status.st_ino, size, changed, counter)


def look(directory: Path) -> Fingerprint | None:
    """The database file of this network directory as it is now; None when there is none yet, or an empty one."""
    with suppress(OSError):
        seen = fingerprint(database_path(directory))
        return seen if seen is not None and seen.size > 0 else None
    return None


def read_witness(directory: Path) -> Witness | None:
    """The witness in this network directory; None for anything that is not a whole and well-formed one."""
    try:
        return _witness(json.loads(read_small_file(directory / WITNESS_FILE)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_witness(directory: Path, witness: Witness) -> None:
    """Put the witness (mode 0600) in place of the one before. OSError when that fails; the old one is then still there.

    Nothing is synced: a power cut may leave the old note, an empty one or none, and then it does not fit the
    database file, the plugin takes a new snapshot, and that is all.
    """
    replace_file(directory / WITNESS_FILE, json.dumps(asdict(witness)).encode() + b"\n", durably=False)


def remove_witness(directory: Path) -> None:
    """From now on there is none. OSError when the file is there and cannot be removed."""
    with suppress(FileNotFoundError):
        (directory / WITNESS_FILE).unlink()


_KINDS: dict[str, tuple[type, ...]] = {
    "backup_id": (str,),
    "sequence": (int,),
    "data_version": (int,),
    "checksum": (int,),
    "fingerprint": (dict, type(None)),
    "failure": (str, type(None)),
    "ended": (str, type(None)),
}
_FINGERPRINT_KINDS: dict[str, tuple[type, ...]] = dict.fromkeys(("inode", "size", "mtime_ns", "change_counter"), (int,))


def _witness(document: Any) -> Witness:
    """TypeError for anything but exactly what `write_witness` writes."""
    fields = _checked(document, _KINDS)
    if fields["fingerprint"] is not None:
        fields["fingerprint"] = Fingerprint(**_checked(fields["fingerprint"], _FINGERPRINT_KINDS))
    return Witness(**fields)


def _checked(document: Any, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise TypeError("not the fields of a witness")
    # isinstance would take True for a number.
    if any(type(document[name]) not in allowed for name, allowed in kinds.items()):
        raise TypeError("a field of another type")
    return document
