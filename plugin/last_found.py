"""When the database was last written, as long as nothing but this plugin has committed anything to it since.

The first process that opens the database after a crash rolls a hot journal back, and so writes to the file without
committing. That process is lightningd, even if this plugin then refuses its first call because the destination is
unreachable. The next start must not mistake that for a change by something else. So each start records what it found,
and which changes it is about to replay.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.change import VERSIONS, database_fingerprint
from backends.node.directory import database_path
from backends.node.files import read_small_file, replace_file
from backends.sqlite.as_found import AsFound, Unclear

FOUND_FILE = "backup.found"

BROKEN_OFF_WITHIN = 120.0
"""Seconds after the note within which a roll-forward has ended, finished or not: lightningd does not wait longer.
Something else made any later write, and it may be another change with the same number."""


@dataclass(frozen=True, slots=True)
class LastFound:
    """The database as a start found it."""

    version: int
    database: int
    """The fingerprint of the database's header, which changes with each commit."""
    written: float
    """When the file had last been written, in seconds since 1970."""
    leads_to: tuple[int, ...] = ()
    """The versions to which the database was about to be brought forward, in that order."""


def last_found(directory: Path, found: AsFound | Unclear, *, note: bool = True) -> LastFound | None:
    """The database as it is now, with the earlier `written` if only this plugin has committed to it since.

    None when there is no database, or nothing can be said about it. With `note`, the result is recorded for the next
    start.
    """
    try:
        written = database_path(directory).stat().st_mtime
    except OSError:
        return None
    if isinstance(found, Unclear):
        return None
    now = LastFound(found.state.data_version or 0, database_fingerprint(found.header), written)
    before = _read(directory)
    if before is not None:
        as_before = (now.version, now.database) == (before.version, before.database)
        if as_before or (now.version in before.leads_to and written <= _noted_at(directory) + BROKEN_OFF_WITHIN):
            now = LastFound(now.version, now.database, min(written, before.written))
    if note:
        with suppress(OSError):
            _write(directory, now, durably=before is not None and bool(before.leads_to))
    return now


def _noted_at(directory: Path) -> float:
    """When the note was written, in seconds since 1970."""
    try:
        return (directory / FOUND_FILE).stat().st_mtime
    except OSError:
        return 0.0


def leads_to(directory: Path, found: LastFound, versions: Iterable[int]) -> None:
    """Record durably that the database, found as `found`, will be brought forward to `versions`. Raises OSError."""
    _write(directory, LastFound(found.version, found.database, found.written, tuple(versions)), durably=True)


def forget_found(directory: Path) -> None:
    """Remove the note: the database holds everything that its backup holds. Raises OSError."""
    (directory / FOUND_FILE).unlink(missing_ok=True)


def _write(directory: Path, found: LastFound, *, durably: bool) -> None:
    replace_file(directory / FOUND_FILE, json.dumps(asdict(found)).encode() + b"\n", durably=durably)


def _read(directory: Path) -> LastFound | None:
    """The last start's note; None for anything but what `_write` writes."""
    try:
        document = json.loads(read_small_file(directory / FOUND_FILE))
        found = LastFound(**{**document, "leads_to": tuple(document["leads_to"])})
        numbers = (found.version, found.database, *found.leads_to)
        believable = all(type(number) is int and 0 <= number < VERSIONS for number in numbers)
        return found if believable and 0 <= found.written <= float("inf") else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
