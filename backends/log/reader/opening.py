"""Opening a generation's files as they are at one moment, while a writer may begin another generation."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from backends import keyring
from backends.errors import Damaged, NotABackup
from backends.log.format.documents import KEPT, MANIFEST, SESSION, Kept, Manifest, Session
from backends.log.format.members import MEMBERS, MembersDocument
from backends.log.format.records import segment_index, segment_name, snapshot_name
from backends.log.format.torn import has_records
from backends.log.reader.absent import no_manifest
from backends.log.reader.generation import Reader
from backends.log.reader.misnamed import misnamed
from backends.log.reader.passes import Changes, Log
from backends.log.reader.snapshot import SnapshotReader, open_parts
from backends.storage.base import ReadHandle, Storage

_ATTEMPTS = 20
_PAUSE = 0.02
"""Seconds between two attempts."""


def open_generation(storage: Storage) -> Reader:
    """Open the current generation as it is now.

    Raises NotABackup, FromTheFuture or Damaged; OSError from the storage.
    """
    missed: tuple[Manifest, str] | None = None
    for _ in range(_ATTEMPTS):
        manifest, missing = read_manifest(storage), None
        session, session_damage = _session_or_damage(storage, manifest)
        with ExitStack() as files:
            try:
                names = storage.names()
                snapshot = _open_snapshot(storage, manifest, files, names)
                log = _open_growing_log(storage, manifest, files, names)
                if log is not None and read_manifest(storage) == manifest:
                    neighbours = partial(_misnamed_if_known, storage)
                    return Reader(log, snapshot, files.pop_all(), session, session_damage, misnamed=neighbours)
            except FileNotFoundError as error:
                missing = manifest, str(error.filename or error)
        if missing is not None and missing == missed:
            raise missing_file("current", missing[1], MANIFEST, storage)
        missed = missing
        time.sleep(_PAUSE)
    raise NotABackup(f"{storage.describe()} is changing faster than it can be read; try again in a minute")


def _session_or_damage(storage: Storage, manifest: Manifest) -> tuple[Session | None, Damaged | None]:
    """The session marker, or why it cannot be read: the snapshot and the log may still be good without it."""
    try:
        return read_session_of(manifest, storage), None
    except Damaged as error:
        return None, error


def _misnamed_if_known(storage: Storage) -> str:
    """What `misnamed` says, or "" if the names cannot be listed: the missing file must still be reported."""
    try:
        return misnamed(storage)
    except OSError:
        return ""


def open_kept(storage: Storage, kept: Kept) -> Reader:
    """Open the generation that is kept in addition to the current one. Raises Damaged; OSError from the storage."""
    with ExitStack() as files:
        own = range(kept.manifest.first_segment, kept.last_segment + 1)
        try:
            if not own:
                raise FileNotFoundError(segment_name(own.start))
            snapshot = _open_snapshot(storage, kept.manifest, files, storage.names())
            log = replace(_open_log(storage, kept.manifest, own, files), until=kept.last_sequence)
        except FileNotFoundError as error:
            raise missing_file("kept", str(error.filename or error), KEPT, storage) from None
        return Reader(log, snapshot, files.pop_all(), kept=kept)


def missing_file(generation: str, path: str, named_by: str, storage: Storage) -> Damaged:
    """The error for a missing file that a generation needs; it mentions files that may be the missing one."""
    name = path.rpartition("/")[2]
    return Damaged(
        f"a file of the {generation} generation is missing ({name})", named_by, 0, None, misnamed(storage, name)
    )


def check_log(storage: Storage, manifest: Manifest) -> None:
    """Read all records of the log that belongs to this manifest, whose snapshot may not exist yet.

    Raises NotABackup, FromTheFuture or Damaged; OSError from the storage.
    """
    for _ in range(_ATTEMPTS):
        with ExitStack() as files:
            try:
                log = _open_growing_log(storage, manifest, files, storage.names())
            except FileNotFoundError as error:
                raise missing_file("current", str(error.filename or error), MANIFEST, storage) from None
            if log is not None:
                for _change in Changes(log, lambda end: None):
                    pass
                return
    raise NotABackup(f"{storage.describe()} is changing faster than it can be read; try again in a minute")


def _open_snapshot(storage: Storage, manifest: Manifest, files: ExitStack, names: list[str]) -> SnapshotReader:
    """The generation's snapshot, to be closed with `files`. Raises FileNotFoundError if it is missing."""
    parts = open_parts(storage, snapshot_name(manifest.generation), files, names)
    return SnapshotReader(parts, manifest.snapshot_header(), manifest.base)


def _open_growing_log(storage: Storage, manifest: Manifest, files: ExitStack, names: list[str]) -> Log | None:
    """The current generation's log, to be closed with `files`; None if a segment that was just listed is gone.

    That is no damage: a writer that stops removes the unused segment that it made ahead. Raises FileNotFoundError if a
    segment between others is missing.
    """
    indexes = segment_indexes(names, manifest)
    try:
        return _open_log(storage, manifest, indexes, files)
    except FileNotFoundError:
        return None


def _open_log(storage: Storage, manifest: Manifest, indexes: range, files: ExitStack) -> Log:
    """The segments with these indexes, to be closed with `files`. Raises FileNotFoundError if one is missing."""
    segments: list[tuple[int, ReadHandle]] = []
    for index in indexes:
        handle = storage.open(segment_name(index))
        files.callback(handle.close)
        segments.append((index, handle))
    begun = len(segments)
    while begun > 1 and not has_records(segments[begun - 1][1]):
        begun -= 1
    return Log(manifest, segments, begun)


def segment_indexes(names: Sequence[str], manifest: Manifest) -> range:
    """The indexes of the current generation's segments. Raises FileNotFoundError if one of them is missing."""
    indexes = {index for name in names if (index := segment_index(name)) is not None}
    wanted = range(manifest.first_segment, max(manifest.first_segment, *indexes, 0) + 1)
    for index in wanted:
        if index not in indexes:
            raise FileNotFoundError(segment_name(index))
    return wanted


def read_manifest(storage: Storage) -> Manifest:
    """The manifest. Raises NotABackup if there is none, FileNotFoundError if there is no directory, Damaged or
    FromTheFuture; OSError from the storage."""
    try:
        data = storage.read_small(MANIFEST)
    except FileNotFoundError:
        if not storage.exists():
            raise
        raise no_manifest(storage) from None
    return Manifest.decode(data)


def read_session(storage: Storage) -> Session | None:
    """The session marker; None if there is none. Raises Damaged, NotABackup, FromTheFuture or OSError."""
    try:
        return Session.decode(storage.read_small(SESSION))
    except FileNotFoundError:
        return None


def read_session_of(manifest: Manifest, storage: Storage) -> Session | None:
    """As `read_session`, for the backup with this manifest.

    Also raises Damaged if the backup is encrypted and nothing proves that the marker was written by the key's holder:
    a marker that anybody can write could say that a log without its end is whole. While a backup gets another key, the
    marker has it before the manifest.
    """
    session = read_session(storage)
    if session is None or manifest.key in (None, session.key):
        return session
    if session.key is None:
        raise Damaged("the text is not encrypted, and the manifest says that the backup is,", SESSION, 0)
    key = keyring.find(session.key)
    if keyring.find(manifest.key) is None or (key is not None and key.backup_id == manifest.backup_id):
        return session
    raise Damaged("the text is encrypted with another key than the manifest names,", SESSION, 0)


def read_members(storage: Storage) -> MembersDocument | None:
    """What a member says about all members; None if there is no such document, as in a backup with one destination.

    Raises Damaged, NotABackup, FromTheFuture or OSError.
    """
    try:
        return MembersDocument.decode(storage.read_small(MEMBERS))
    except FileNotFoundError:
        return None
