"""Copying and comparing the files of a backup between two members.

Members share files byte for byte. There is one exception: after a crash, a segment that was still open may have been
preallocated further in one member than in another. Such a file differs, and is copied like any other.

What a power cut leaves
-----------------------
`make_equal` brings the target from one state of the backup to another. Where the new files continue those that the
target has, each file is copied and durable under its name before the next one: at every moment the target is a whole
backup, at the old state, the new one, or one in between. New snapshots and segments come first, then the manifest; old
files are removed last.

Where they do not continue them (the target missed a compaction, or holds records that were abandoned), often no order
of renames keeps the old generation whole. Then every file is copied under a temporary name first. Only after that the
target's manifest is removed, the files get their names, and the new manifest is published: a few renames and syncs. A
power cut between them leaves a directory without a manifest, which no reader takes for a backup. Two histories are
never mixed in a way that could be read.

The key slots come before anything that is encrypted. Where the source is encrypted and the target is not yet, the
second way is taken, and what else is readable there (torn ends that were put aside) is gone before the manifest has
its name.
"""

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from backends.errors import BackupError, Damaged
from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import KEPT, MANIFEST, SESSION, Manifest
from backends.log.format.history import HISTORY
from backends.log.format.keys import KEYS
from backends.log.format.members import MEMBERS
from backends.log.format.records import (
    is_part_of,
    segment_index,
    segment_name,
    snapshot_generation,
    snapshot_name,
)
from backends.log.format.text_files import decode_document
from backends.log.format.torn import first_nonzero
from backends.log.known_damage import DAMAGE
from backends.log.writer.pace import Pace
from backends.log.writer.paced import PacedFile
from backends.log.writer.recovery import TORN, torn_earlier
from backends.members.key_copies import read_keys_file, replaces
from backends.members.validity import document_in, fault_in, read_document
from backends.members.wholeness import Replacing, indexes, is_unused
from backends.storage.base import TEMPORARY, ReadHandle, Storage

Pause = Callable[[int], None]
"""Called with the bytes that were just copied; it may sleep. Called with 0 just before files get their names: that is
the last moment for a writer that was replaced to stop. It stops the copying by raising."""

STORED = (KEYS, *ATTACHMENTS)
"""The documents that are not about the log. A member may hold the only good copy of one, so they are never removed."""

DOCUMENTS = (KEYS, KEPT, HISTORY, DAMAGE, *ATTACHMENTS, MANIFEST, SESSION)
"""The small text files that members share."""

SYNC_EVERY = 4 << 20
"""Bytes of a copy between two syncs: a commit to the same disk waits for all that is not synced yet."""

_BY = "-copy"
"""Part of the temporary name of a copy."""

_OURS = (*DOCUMENTS, segment_name(0).rstrip("0"), snapshot_name(0).rstrip("0"))
_BLOCK = 1 << 18
_TAIL = 1 << 16
_ATTEMPTS = 5


def _go_on(_: int) -> None:
    """The Pause of a caller that has none."""


def holds_data(name: str) -> bool:
    """Whether this is the name of a segment, or of a finished snapshot or a part of one; not that of a document."""
    return segment_index(name) is not None or is_snapshot_part(name)


def is_snapshot_part(name: str) -> bool:
    """Whether this is the name of a finished snapshot or of a part of one."""
    if snapshot_generation(name) is None:
        return False
    _, dot, part = name.partition(".")
    return not dot or (part.isascii() and part.isdigit() and not part.startswith("0"))


def shared_names(names: Iterable[str]) -> list[str]:
    """Those of these names that belong to files which all members share, sorted.

    They are the snapshots, the segments, and the documents `manifest`, `session`, `kept`, `history`, `damage`, `keys`
    and those that hold files of the node. A member's own are `members`, `lock`, torn ends that were put aside, and
    everything unfinished.
    """
    return sorted(name for name in names if name in DOCUMENTS or holds_data(name))


@dataclass(frozen=True, slots=True)
class Differences:
    """What must be done to a member so that it has the same shared files as another."""

    copy: tuple[str, ...]
    """The files that are missing, or that differ; sorted."""
    remove: tuple[str, ...]
    """The files that the other member does not have; sorted. Those in STORED are not among them."""


def differences(source: Storage, target: Storage, *, deep: bool) -> Differences:
    """How the shared files of `target` differ from those of `source`.

    Compares the content of documents, and of all other files the size and the end, which shows other records but no bit
    rot; with `deep`, every byte. A file of the target that cannot be read differs. Raises OSError if the source cannot
    be read, or the target's names cannot.
    """
    return _compared(source, shared_names(source.names()), target, deep)


def _compared(source: Storage, names: Sequence[str], target: Storage, deep: bool) -> Differences:
    theirs = set(shared_names(target.names()))
    copy = tuple(name for name in names if name not in theirs or differs(source, target, name, deep=deep))
    return Differences(copy, tuple(sorted(theirs.difference(names, STORED))))


def differs(source: Storage, target: Storage, name: str, *, deep: bool) -> bool:
    """Whether this file of `target` differs from that of `source`, as in `differences`."""
    if name == KEYS:
        return replaces(read_keys_file(source) or b"", read_keys_file(target))
    if name in DOCUMENTS:
        return read_document(source, name) != _read_if_possible(target, name)
    with closing(source.open(name)) as original:
        size = original.size()
        try:
            copy = target.open(name)
        except OSError:
            return True
        with closing(copy):
            if _size_if_known(copy) != size:
                return True
            return first_difference(original, copy, 0 if deep else _end(original, size), size) is not None


def _end(original: ReadHandle, size: int) -> int:
    """From where on two files of equal size must be compared so that one with other records is noticed.

    The last record carries a checksum of all before it, so the last bytes are enough, but not where they are zeros:
    an open segment has the same size, however many records are in it.
    """
    start = max(0, size - _TAIL)
    return start if first_nonzero(original, start, size) is not None else 0


def first_difference(original: ReadHandle, copy: ReadHandle, start: int, size: int) -> int | None:
    """The offset of the first byte from `start` up to `size` in which two open files differ; None if there is none.

    From where `copy` cannot be read, it differs. Raises OSError if `original` cannot be read.
    """
    for offset in range(start, size, _BLOCK):
        block = original.read(offset, min(_BLOCK, size - offset))
        try:
            other = copy.read(offset, len(block))
        except OSError:
            return offset
        if block != other:
            same = min(len(block), len(other))
            return offset + next((at for at in range(same) if block[at] != other[at]), same)
    return None


def copy_file(source: Storage, target: Storage, name: str, pause: Pause = _go_on, pace: Pace | None = None) -> None:
    """Copy a file under a temporary name, durably, and rename it; durable under its name after `sync_names`.

    With `pace`, the copy yields to the commits that are made at the target meanwhile.
    After a failure the temporary file is removed, and the target's own file is as it was. Raises OSError.
    """
    temporary = _copy_aside(source, target, name, pause, pace)
    try:
        pause(0)
        target.rename(temporary, name)
    except BaseException:
        _remove_if_possible(target, [temporary])
        raise


def make_equal(
    source: Storage, target: Storage, *, deep: bool, pause: Pause = _go_on, keep: Collection[str] = ()
) -> int:
    """Give `target` the shared files that `source` has, and remove its others and what is unfinished there.

    Files in `keep` are left alone, neither copied nor removed. Among them must be the temporary snapshot of a
    compaction that is still to be published, and the segments that are open. Returns the bytes that were copied. `deep`
    is that of `differences`. Raises Damaged, and changes nothing, if a file that would replace one of the target has
    changed bytes: the target's may be the good one. Raises OSError, and BackupError if the source's manifest cannot be
    used: then the target is somewhere on its way (see above), with no temporary file left.

    A writer may go on at the source meanwhile: what is copied is the state of a moment. If a file vanishes there,
    because a new generation was published, FileNotFoundError is raised: call this again.
    """
    _remove_unfinished(target, keep)
    moment = _moment_of(source).without(keep)
    found = _compared(source, moment.names, target, deep)
    _check_before_replacing(source, target, found, moment.manifest.backup_id)
    copying = _Copying(source, target, moment, pause, [name for name in found.remove if name not in keep])
    try:
        copying.run(sorted(filter(holds_data, found.copy), key=_order))
    except BaseException:
        _remove_if_possible(target, [*copying.unfinished, *map(target.temporary, DOCUMENTS)])
        raise
    return copying.copied


def _check_before_replacing(source: Storage, target: Storage, found: Differences, backup_id: bytes) -> None:
    """Raise Damaged if a file of the source has changed bytes, and the target has one of that name.

    Bit rot would otherwise pass for the newer content, and replace the last good copy.
    """
    for name in sorted(set(target.names()).intersection(name for name in found.copy if holds_data(name))):
        refuse_rotten(source, name, backup_id)


def refuse_rotten(source: Storage, name: str, backup_id: bytes) -> None:
    """Raise Damaged if bytes of this file of the source have changed."""
    fault = fault_in(source, name, backup_id)
    if fault is not None:
        raise Damaged(f"{fault.what} (at {source.describe()})", name, fault.offset)


def copy_backup(source: Storage, target: Storage, pause: Pause = _go_on) -> None:
    """Copy the shared files into a directory that does not exist yet. The manifest comes last.

    Raises FileExistsError, another OSError, or BackupError if the source's manifest cannot be used. After a failure the
    directory is removed again.
    """
    moment = _moment_of(source)
    target.make()
    try:
        _Copying(source, target, moment, pause).run(sorted(filter(holds_data, moment.names), key=_order))
    except BaseException:
        with suppress(OSError):
            target.unmake()
        raise


def remove_readable(storage: Storage, manifest: Manifest) -> None:
    """If the backup is encrypted, remove what may be left from before that and belongs to this member alone: torn ends
    of earlier generations, and what its document was being written to. Raises OSError."""
    if manifest.key is None:
        return
    left = [name for name in storage.names() if torn_earlier(name, manifest) or _is_unfinished_document(name)]
    for name in left:
        with suppress(FileNotFoundError):
            storage.remove(name)
    if left:
        storage.sync_names()


def _remove_unfinished(target: Storage, keep: Collection[str]) -> None:
    """Remove what copies and writers that died left behind, except `keep` and, if it is a snapshot, its parts."""
    for name in target.names():
        if name.endswith(TEMPORARY) and name.startswith(_OURS) and not any(is_part_of(name, each) for each in keep):
            target.remove(name)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a member held at one moment: its documents, and the names of the shared files that they speak of."""

    documents: Mapping[str, bytes]
    names: Sequence[str]
    manifest: Manifest

    def without(self, left_alone: Collection[str]) -> "_Moment":
        """The same, but for these files."""
        documents = {name: data for name, data in self.documents.items() if name not in left_alone}
        return replace(self, documents=documents, names=[name for name in self.names if name not in left_alone])


def _moment_of(source: Storage) -> _Moment:
    """Raises OSError, and BackupError if the manifest is missing or damaged: then nothing may be copied from here."""
    for _ in range(_ATTEMPTS):
        documents = {name: data for name in DOCUMENTS if (data := _document_to_copy(source, name)) is not None}
        names = [name for name in shared_names(source.names()) if name not in STORED or name in documents]
        # Files are removed after a new manifest, so under the same manifest all that it needs was listed.
        if MANIFEST not in documents:
            raise FileNotFoundError(errno.ENOENT, "there is no manifest", MANIFEST)
        if source.read_small(MANIFEST) == documents[MANIFEST]:
            return _Moment(documents, names, Manifest.decode(documents[MANIFEST]))
    raise OSError(errno.EAGAIN, f"{source.describe()} is changing faster than it can be copied")


@dataclass(slots=True)
class _Copying:
    """One run of `make_equal`, from `source` as it was at `moment`."""

    source: Storage
    target: Storage
    moment: _Moment
    pause: Pause
    gone: list[str] = field(default_factory=list)
    """The target's files to remove."""
    unfinished: list[str] = field(default_factory=list)
    """Temporary files at the target."""
    copied: int = 0

    def run(self, data: Sequence[str]) -> None:
        """Copy the snapshots and segments `data`, which are in order, then the documents; remove what is to go."""
        old = _manifest_if_good(self.target)
        if old is not None and old.backup_id != self.moment.manifest.backup_id:
            raise BackupError(
                f"{self.target.describe()} holds another backup than {self.source.describe()}. Nothing was changed "
                "there: name another directory for this member"
            )
        self._publish(KEYS)
        if old is None or self._keeps_whole(data, old):
            for name in data:
                self._copy_durably(name)
            self._publish(KEPT, HISTORY, DAMAGE, *ATTACHMENTS)
            self.pause(0)
            self._remove_readable(old)
            if old is None:
                self._remove(self._misleading())
                self._publish(SESSION, MANIFEST)  # a backup without a session marker counts as one that lost it
            else:
                self._publish(MANIFEST, SESSION)  # a manifest older than the marker counts as an old copy of itself
        else:
            self._copy_then_rename(data, old)
        self._remove(self.gone)

    def _keeps_whole(self, data: Sequence[str], old: Manifest) -> bool:
        """Whether the target's generation, that of the manifest `old`, can be read after each file that is copied."""
        new = self.moment.manifest
        # A compaction's log continues the one before; a new snapshot's does not. Further back, nobody knows.
        goes_on = new.made_by_compaction and new.generation == old.generation + 1 and new.key == old.key
        if new != old and not goes_on:
            return False
        if any(not is_unused(self.target, name) for name in self._misleading()):
            return False
        ours, theirs = indexes(self.moment.names), indexes(self.target.names())
        return Replacing(self.source, self.target, new.backup_id, indexes(data), ours, theirs).keeps_log_whole()

    def _misleading(self) -> list[str]:
        """The files to remove that would seem to belong to the new generation, last ones first."""
        last = max(indexes(self.moment.names), default=0)
        snapshot = snapshot_name(self.moment.manifest.generation)
        return [name for name in reversed(self.gone) if is_part_of(name, snapshot) or (segment_index(name) or 0) > last]

    def _copy_durably(self, name: str) -> None:
        copy_file(self.source, self.target, name, self._count)
        self.target.sync_names()

    def _remove_readable(self, old: Manifest | None) -> None:
        """If the source is encrypted, remove what a member has for itself and everybody can read, but for its document:
        torn ends, and what a document was being written to. `old` is the target's manifest."""
        new = self.moment.manifest
        was_plain = old is None or old.key != new.key
        if new.key is not None:
            names = self.target.names()
            own = [name for name in names if was_plain and (name.startswith(TORN) or _is_unfinished_document(name))]
            self._remove([*own, *(name for name in names if name not in own and torn_earlier(name, new))])

    def _copy_then_rename(self, data: Sequence[str], old: Manifest) -> None:
        """Copy all, the documents too, before the first name changes: then even a full disk stops nothing halfway."""
        staged = []
        for name in data:
            staged.append((_copy_aside(self.source, self.target, name, self._count), name))
            self.unfinished.append(staged[-1][0])
        self._publish(KEPT, HISTORY, DAMAGE, *ATTACHMENTS)
        for name in (SESSION, MANIFEST):
            if name in self.moment.documents:
                staged.append((self._stage(name), name))
        self.pause(0)
        self.target.remove(MANIFEST)
        self.target.sync_names()
        self._remove_readable(old)
        self._remove(self._misleading())
        for temporary, name in staged:
            if name == MANIFEST:
                self.target.sync_names()
            self.target.rename(temporary, name)
        self.target.sync_names()

    def _stage(self, name: str) -> str:
        """Write a document durably under a temporary name, which is returned."""
        temporary, data = self.target.temporary(name), self.moment.documents[name]
        with closing(self.target.create(temporary)) as handle:
            handle.write(0, data)
            handle.sync()
        self.copied += len(data)
        return temporary

    def _count(self, copied: int) -> None:
        self.copied += copied
        self.pause(copied)

    def _publish(self, *names: str) -> None:
        """Give the target these documents, if the source has them and the target does not."""
        for name in names:
            data = self.moment.documents.get(name)
            there = _read_if_possible(self.target, name)
            if data is not None and (replaces(data, there) if name == KEYS else data != there):
                self.target.publish(name, data)
                self.copied += len(data)

    def _remove(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            with suppress(FileNotFoundError):
                self.target.remove(name)
        if names:
            self.target.sync_names()
        self.gone = [name for name in self.gone if name not in names]


def _copy_aside(source: Storage, target: Storage, name: str, pause: Pause, pace: Pace | None = None) -> str:
    """Copy a file durably under a temporary name, which is returned. Raises OSError; then nothing is left of it."""
    temporary = target.temporary(f"{name}{_BY}")
    try:
        with closing(source.open(name)) as original, closing(target.create(temporary)) as copy:
            paced = PacedFile(copy, SYNC_EVERY, pace, syncs_cost=target.costly)
            for block in original.blocks(0, original.size()):
                paced.write(block)
                pause(len(block))
            paced.sync()
    except BaseException:
        _remove_if_possible(target, [temporary])
        raise
    return temporary


def _remove_if_possible(target: Storage, names: Iterable[str]) -> None:
    for name in names:
        with suppress(OSError):
            target.remove(name)


def _order(name: str) -> tuple[bool, int, int]:
    """Sorts snapshots before segments, and each kind by number."""
    index = segment_index(name)
    if index is not None:
        return True, index, 0
    return False, snapshot_generation(name) or 0, int(name.partition(".")[2] or 0)


def _is_unfinished_document(name: str) -> bool:
    return name.startswith(f"{MEMBERS}-") and name.endswith(TEMPORARY)


def _manifest_if_good(target: Storage) -> Manifest | None:
    """The target's manifest; None if it has none, or a damaged one: then there is nothing to keep whole.

    One from before the backup was encrypted is good, too.
    """
    data = _read_if_possible(target, MANIFEST)
    try:
        return None if data is None else Manifest.from_fields(decode_document(MANIFEST, data))
    except BackupError:
        return None


def _document_to_copy(source: Storage, name: str) -> bytes | None:
    """The bytes of a document that the target is to get; None if there is none.

    A damaged copy of one of the node's files replaces nothing and stops nothing: the running node stores it again.
    Damaged key slots are better than none.
    """
    if name == KEYS:
        return read_keys_file(source)
    try:
        if name not in ATTACHMENTS:
            return source.read_small(name)
        found = document_in(source, name)
        return found if isinstance(found, bytes) else None
    except FileNotFoundError:
        return None
    except (OSError, BackupError):
        if name not in ATTACHMENTS:
            raise
        return None


def _read_if_possible(target: Storage, name: str) -> bytes | None:
    try:
        return read_document(target, name)
    except OSError:
        return None


def _size_if_known(handle: ReadHandle) -> int | None:
    try:
        return handle.size()
    except OSError:
        return None
