"""Opening the current generation's files as they are at one moment, beside a writer that may switch it meanwhile."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from backends.errors import Damaged, NotABackup
from backends.log.absent import no_manifest
from backends.log.documents import KEPT, MANIFEST, SESSION, Kept, Manifest, Session
from backends.log.format import FILE_HEADER_SIZE, segment_index, segment_name, snapshot_name
from backends.log.generation import Generation
from backends.log.misnamed import misnamed
from backends.log.snapshot import SnapshotReader, open_parts
from backends.log.tail import first_nonzero
from backends.storage.base import ReadHandle, Storage

_ATTEMPTS = 20
_PAUSE = 0.02
"""Seconds between two of them."""


def open_generation(storage: Storage) -> Generation:
    """The current generation, as of now.

    Raises NotABackup, FromTheFuture or Damaged; OSError from the storage.
    """
    missed: tuple[Manifest, str] | None = None
    for _ in range(_ATTEMPTS):
        manifest, missing = read_manifest(storage), None
        with ExitStack() as files:
            generation = Generation(manifest, None, files)
            generation.beside = partial(_misnamed_if_known, storage)
            try:
                generation.session = read_session(storage)
            except Damaged as error:
                generation.session_damage = error  # the snapshot and the log may be good all the same
            try:
                if _open_files(storage, generation, files) and read_manifest(storage) == manifest:
                    generation.files = files.pop_all()
                    return generation
            except FileNotFoundError as error:
                missing = manifest, str(error.filename or error)
        if missing is not None and missing == missed:
            raise missing_file("current", missing[1], MANIFEST, storage)
        missed = missing
        time.sleep(_PAUSE)
    raise NotABackup(f"{storage.describe()} changes faster than it can be read; try again in a minute")


def _misnamed_if_known(storage: Storage) -> str:
    """What is missing is told all the same where the names cannot be listed any more."""
    try:
        return misnamed(storage)
    except OSError:
        return ""


def open_kept(storage: Storage, kept: Kept) -> Generation:
    """The generation that is kept beside the current one. Raises Damaged; OSError from the storage."""
    with ExitStack() as files:
        generation = Generation(kept.manifest, None, files, kept)
        try:
            own = range(kept.manifest.first_segment, kept.last_segment + 1)
            if not own or not _open_files(storage, generation, files, own):
                raise FileNotFoundError(segment_name(own.start + len(generation.segments)))
        except FileNotFoundError as error:
            raise missing_file("kept", str(error.filename or error), KEPT, storage) from None
        generation.files = files.pop_all()
        return generation


def missing_file(generation: str, path: str, named_by: str, storage: Storage) -> Damaged:
    """The error for a file that a generation needs; a file that may be it is pointed out."""
    name = path.rpartition("/")[2]
    return Damaged(
        f"a file of the {generation} generation is missing ({name})", named_by, 0, None, misnamed(storage, name)
    )


def _open_files(storage: Storage, generation: Generation, files: ExitStack, indexes: range | None = None) -> bool:
    """Whether they could be opened. FileNotFoundError for one that is not there, if the manifest is still the same."""
    manifest = generation.manifest
    names = storage.names()
    parts = open_parts(storage, snapshot_name(manifest.generation), files, names)
    generation.snapshot = SnapshotReader(parts, manifest.backup_id, manifest.generation, manifest.base.data_version)
    for index in indexes or segment_indexes(names, manifest):
        try:
            handle = storage.open(segment_name(index))
        except FileNotFoundError:
            return False  # it was there just now: a writer that stops removes the segment that it made ahead
        files.callback(handle.close)
        generation.segments.append((index, handle))
    generation.begun = len(generation.segments)
    while generation.begun > 1 and not _begun(generation.segments[generation.begun - 1][1]):
        generation.begun -= 1
    return True


def segment_indexes(names: Sequence[str], manifest: Manifest) -> range:
    """The segments of the current generation. FileNotFoundError when one in between is missing."""
    indexes = {index for name in names if (index := segment_index(name)) is not None}
    wanted = range(manifest.first_segment, max(manifest.first_segment, *indexes, 0) + 1)
    for index in wanted:
        if index not in indexes:
            raise FileNotFoundError(segment_name(index))
    return wanted


def read_manifest(storage: Storage) -> Manifest:
    """Raises NotABackup when there is none, FileNotFoundError when there is no directory, Damaged or FromTheFuture."""
    try:
        data = storage.read_small(MANIFEST)
    except FileNotFoundError:
        if not storage.exists():
            raise
        raise no_manifest(storage) from None
    return Manifest.decode(data)


def read_session(storage: Storage) -> Session | None:
    """None when no writer has opened this backup yet."""
    try:
        return Session.decode(storage.read_small(SESSION))
    except FileNotFoundError:
        return None


def _begun(segment: ReadHandle) -> bool:
    """Whether anything was written into a segment yet."""
    return first_nonzero(segment, FILE_HEADER_SIZE, segment.size()) is not None
