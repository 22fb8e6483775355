"""Making the files of one member equal to those of another.

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

from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

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
from backends.log.known_damage import DAMAGE
from backends.log.writer.recovery import TORN, torn_earlier
from backends.members.copy_file import Pause, copy_aside, copy_file, go_on, remove_if_possible
from backends.members.differences import Differences, compared, read_if_possible
from backends.members.key_copies import replaces
from backends.members.moment import Moment, moment_of
from backends.members.shared_files import DOCUMENTS, holds_data
from backends.members.validity import fault_in
from backends.members.wholeness import Replacing, indexes, is_unused
from backends.storage.base import TEMPORARY, Storage

_OURS = (*DOCUMENTS, segment_name(0).rstrip("0"), snapshot_name(0).rstrip("0"))


def make_equal(
    source: Storage, target: Storage, *, deep: bool, pause: Pause = go_on, keep: Collection[str] = ()
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
    moment = moment_of(source).without(keep)
    found = compared(source, moment.names, target, deep)
    _check_before_replacing(source, target, found, moment.manifest.backup_id)
    copying = _Copying(source, target, moment, pause, [name for name in found.remove if name not in keep])
    try:
        copying.run(sorted(filter(holds_data, found.copy), key=_order))
    except BaseException:
        remove_if_possible(target, [*copying.unfinished, *map(target.temporary, DOCUMENTS)])
        raise
    return copying.copied


def _check_before_replacing(source: Storage, target: Storage, found: Differences, backup_id: bytes) -> None:
    """Raise Damaged if a file of the source has changed bytes, and the target has one of that name.

    Bit rot would otherwise pass for the newer content, and replace the last good copy.
    """
    for name in sorted(set(target.names()).intersection(name for name in found.copy if holds_data(name))):
        refuse_rotten(source, name, backup_id)


def refuse_rotten(source: Storage, name: str, backup_id: bytes) -> None:
    """Raise Damaged if bytes of this file of the source have changed. It may be written to meanwhile, so that it is
    read twice before that is believed."""
    fault = fault_in(source, name, backup_id)
    if fault is not None and (fault := fault_in(source, name, backup_id)) is not None:
        raise Damaged(f"{fault.what} (at {source.describe()})", name, fault.offset)


def copy_backup(source: Storage, target: Storage, pause: Pause = go_on) -> None:
    """Copy the shared files into a directory that does not exist yet. The manifest comes last.

    Raises FileExistsError, another OSError, or BackupError if the source's manifest cannot be used. After a failure the
    directory is removed again.
    """
    moment = moment_of(source)
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


@dataclass(slots=True)
class _Copying:
    """One run of `make_equal`, from `source` as it was at `moment`."""

    source: Storage
    target: Storage
    moment: Moment
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
            staged.append((copy_aside(self.source, self.target, name, self._count), name))
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
            there = read_if_possible(self.target, name)
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
    data = read_if_possible(target, MANIFEST)
    try:
        return None if data is None else Manifest.from_fields(decode_document(MANIFEST, data))
    except BackupError:
        return None
