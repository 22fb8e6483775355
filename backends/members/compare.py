"""Comparing all members: which of their files are good, decided by checksums and chain, never by majority.

Members in one epoch share their files. A member of an earlier epoch, or one whose generation is an earlier one, is
simply behind, and is not compared. Of each file, the good copy is the one whose records match their checksums and
continue those of the file before; of two such, the longer one. Two members are enough: a copy in which a bit has
changed matches nothing.

Without the key of an encrypted backup, checksums, chains and ends are still compared, and so is the number of the
epoch, which everybody can read. But which members are in sync is not known then, nor whether two members of different
numbers share a history; and nothing can be repaired.

Nothing is written. A node may be writing meanwhile: an end that is shorter is no fault as long as it holds all that the
session marker knows to be acknowledged.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from backends import keyring
from backends.errors import Damaged, Unreachable
from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import MANIFEST, SESSION, Base, Kept, Manifest, Session
from backends.log.format.keys import KEYS
from backends.log.format.members import Epoch
from backends.log.format.records import is_part_of, part_name, segment_index, segment_name, snapshot_name
from backends.log.format.torn import End
from backends.log.reader.kept import read_held
from backends.log.reader.records import Chain
from backends.log.reader.snapshot import SnapshotReader
from backends.members.comparison import ComparedFile, Comparison, Copy, GenerationChanged, State
from backends.members.newest import SeenMember, newest_epoch
from backends.members.peers import Lost, Peer, documents_at, names_at
from backends.members.shared_files import DOCUMENTS, is_snapshot_part
from backends.members.validity import Fault, Records, records_in, whole_snapshot_part
from backends.storage.base import ReadHandle
from backends.text import printable


def compare_members(peers: Sequence[Peer], *, unpack: bool = True) -> Comparison:
    """Compare these members by reading every byte of their files.

    `unpack`: also unpack the snapshot and check the database in it against its digest; needless if the caller has
    rebuilt each member's database.
    Raises Diverged, GenerationChanged, FromTheFuture, or Unreachable if no member can be compared.
    """
    known = [peer for peer in peers if peer.document is not None]
    if any(peer.hidden for peer in peers) and not any(peer.document and peer.document.key for peer in peers):
        return _compared_without_key(peers)
    if not known:
        raise Unreachable("no member says in which epoch it is. Nothing was changed; connect another one")
    epoch = newest_epoch(SeenMember(peer.name, peer.document, None) for peer in known if peer.document is not None)
    current = [peer for peer in known if peer.document is not None and peer.document.epoch == epoch]
    behind = [peer.name for peer in known if peer not in current]
    unknown = tuple(peer.name for peer in peers if peer.document is None)
    document = current[0].document
    assert document is not None
    return _compared(current, _Known(epoch, document.backup_id, (*behind,), unknown), unpack)


def _compared_without_key(peers: Sequence[Peer]) -> Comparison:
    """Compare the members of the highest number. That they are the newest is not claimed of them: the others are
    unknown, not behind. One that everybody can read may be from before the backup was encrypted."""
    hidden = {peer.name: peer.hidden for peer in peers if peer.hidden is not None}
    newest = max(hidden.values(), key=lambda part: part.epoch)
    current = [peer for peer in peers if hidden.get(peer.name) == newest]
    unknown = tuple(peer.name for peer in peers if peer not in current)
    known = _Known(Epoch(newest.epoch, ""), newest.backup_id, (), unknown)
    return replace(_compared(current, known, unpack=False), without_key=True)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known before any file is read: as in `Comparison`."""

    epoch: Epoch
    backup_id: str
    behind: tuple[str, ...]
    unknown: tuple[str, ...]


def _compared(current: Sequence[Peer], known: _Known, unpack: bool) -> Comparison:
    unreachable: dict[str, str] = {}
    while current:
        try:
            run = _Run(current, unpack=unpack)
            files = run.files()
            run.check_unchanged()
        except Lost as lost:
            unreachable[lost.name] = lost.why
            current = [peer for peer in current if peer.name != lost.name]
            continue
        late = [peer.name for peer in current if peer not in run.peers]
        names = tuple(peer.name for peer in run.peers)
        behind = (*known.behind, *late)
        return Comparison(
            known.epoch, known.backup_id, run.manifest.generation, names, files, behind, known.unknown, unreachable
        )
    why = "; ".join(f"{name}: {text}" for name, text in unreachable.items())
    raise Unreachable(f"no member that holds the newest state can be read ({why}). Nothing was changed; connect one")


_Found = Records | Fault | None
"""What a member has under a name; None: nothing."""


class _Run:
    """One comparison of members of one epoch. Raises Lost when one of them cannot be read any more."""

    def __init__(self, current: Sequence[Peer], *, unpack: bool) -> None:
        self._unpacks = unpack
        documents = {peer.name: documents_at(peer) for peer in current}
        self._documents = documents
        manifests = {
            name: Manifest.decode(data)
            for name, found in documents.items()
            if isinstance(data := found.get(MANIFEST), bytes)
        }
        if not manifests:
            raise Damaged("no member has a manifest that can be read:", MANIFEST, 0)
        self.manifest = max(manifests.values(), key=lambda manifest: manifest.generation)
        # A manifest that cannot be read says nothing about the files: they are compared with the others' manifest.
        self.peers = [peer for peer in current if manifests.get(peer.name, self.manifest) == self.manifest]
        self._names = {peer.name: set(names_at(peer)) for peer in self.peers}
        self._in_sync = set(current[0].document.in_sync) if current[0].document is not None else set[str]()
        sessions = [
            Session.decode(data) for found in documents.values() if isinstance(data := found.get(SESSION), bytes)
        ]
        self._acknowledged = max((session.sequence for session in sessions), default=0)

    def check_unchanged(self) -> None:
        """Raise GenerationChanged if a new generation was published meanwhile: files were removed then."""
        for peer in self.peers:
            if self._documents[peer.name].get(MANIFEST) != documents_at(peer).get(MANIFEST):
                raise GenerationChanged("a new generation began while the members were compared; try again in a minute")

    def files(self) -> tuple[ComparedFile, ...]:
        """Every file of the current generation and of the kept one, and the documents."""
        files = [self._document(name) for name in DOCUMENTS if any(name in self._names[p.name] for p in self.peers)]
        old: dict[str, ComparedFile] = {}
        for kept in self._held():
            last = min(kept.last_segment, self.manifest.first_segment - 1)  # it may share that one with the current one
            indexes = range(kept.manifest.first_segment, last + 1)
            found = [*self._snapshot(kept.manifest), *self._segments(kept.manifest, indexes, open_end=False)]
            old |= {file.name: replace(file, kept=True) for file in found if file.name not in old}
        files += old.values()
        files += self._snapshot(self.manifest)
        last = max((segment_index(name) or 0 for names in self._names.values() for name in names), default=0)
        files += self._segments(self.manifest, range(self.manifest.first_segment, last + 1), open_end=True)
        return tuple(files)

    def _document(self, name: str) -> ComparedFile:
        copies = []
        for peer in self.peers:
            found = self._documents[peer.name].get(name)
            if isinstance(found, Fault):
                copies.append(Copy(peer.name, State.DAMAGED, found.what, found.offset))
            elif found is None and name in (MANIFEST, SESSION):
                copies.append(Copy(peer.name, State.MISSING, "it is missing"))
            elif found is None and name in (KEYS, *ATTACHMENTS):
                state = State.MISSING if peer.name in self._in_sync else State.BEHIND
                copies.append(Copy(peer.name, state, "it is missing"))
            else:
                copies.append(Copy(peer.name, State.GOOD))
        return ComparedFile(name, tuple(copies))

    def _held(self) -> list[Kept]:
        for peer in self.peers:
            with suppress(OSError):
                held = read_held(peer.storage, self.manifest)
                if held:
                    return held
        return []

    # Snapshots

    def _snapshot(self, manifest: Manifest) -> list[ComparedFile]:
        whole = snapshot_name(manifest.generation)
        listed = {name for names in self._names.values() for name in names if is_part_of(name, whole)}
        count = len([name for name in listed if is_snapshot_part(name)])
        files: list[ComparedFile] = []
        chosen: list[tuple[str, Peer]] = []
        follows: Chain | None = Chain(0, 0)
        for part in range(max(count, 1)):
            name = part_name(whole, part)
            found = self._read(name, manifest, None)
            good = _longest(
                (records for records in found.values() if isinstance(records, Records)), follows, whole_snapshot_part
            )
            copies = [self._copy_of_part(peer, found[peer.name], good) for peer in self.peers]
            files.append(ComparedFile(name, tuple(copies)))
            chosen += [(name, peer) for peer in self.peers if found[peer.name] == good][:1] if good else []
            follows = good.last if good is not None else None
            if good is not None and good.ends_snapshot:
                break
        if self._unpacks and len(chosen) == len(files) and _can_open(manifest):
            self._unpack(manifest, chosen, files)
        return files

    def _copy_of_part(self, peer: Peer, found: _Found, good: Records | None) -> Copy:
        if found is None:
            return Copy(peer.name, State.MISSING, "it is missing")
        if isinstance(found, Fault):
            return Copy(peer.name, State.DAMAGED, found.what, found.offset)
        if good is not None and found.digest == good.digest:
            return Copy(peer.name, State.GOOD)
        return Copy(
            peer.name, State.DAMAGED, "it is cut off, or its records belong to another snapshot", found.tail.offset
        )

    def _unpack(self, manifest: Manifest, chosen: Sequence[tuple[str, Peer]], files: list[ComparedFile]) -> None:
        """Check the database in the snapshot against its digest. If it does not match, no copy of that file is good."""
        with ExitStack() as opened:
            parts: list[tuple[str, ReadHandle]] = []
            for name, peer in chosen:
                try:
                    handle = peer.storage.open(name)
                except OSError as error:
                    raise Lost(peer.name, error) from error
                opened.callback(handle.close)
                parts.append((name, handle))
            try:
                base = manifest.base
                for _ in SnapshotReader(parts, manifest.snapshot_header(), base):
                    pass
            except OSError as error:
                raise Lost(chosen[0][1].name, error) from error
            except Damaged as error:
                for number, file in enumerate(files):
                    if file.name == error.file:
                        bad = Copy("", State.DAMAGED, error.what, error.offset)
                        copies = (Copy(each.member, bad.state, bad.what, bad.offset) for each in file.copies)
                        files[number] = ComparedFile(file.name, tuple(copies))

    # Segments

    def _segments(self, manifest: Manifest, indexes: Iterable[int], *, open_end: bool) -> list[ComparedFile]:
        table = {index: self._read(segment_name(index), manifest, manifest.base) for index in indexes}
        used = [index for index, found in table.items() if any(map(_is_used, found.values()))]
        if not used:
            used = list(table)[:1]  # an empty log: its first segment must be there
        ends = {peer.name: self._end_of(peer, table) if open_end else -1 for peer in self.peers}
        files: list[ComparedFile] = []
        follows: Chain | None = None
        for index in range(min(used), max(used) + 1) if used else ():
            found = table[index]

            def fits(records: Records, *, index: int = index) -> bool:
                torn = records.tail.end is not End.CLEAN and (index < max(used) or not open_end)
                return not torn and _continues_base(records, manifest.base)

            records = [each for each in found.values() if isinstance(each, Records)]
            good = _longest(records, follows, fits)
            copies = [self._copy_of_segment(peer, index, found, good, ends[peer.name]) for peer in self.peers]
            files.append(ComparedFile(segment_name(index), tuple(copies)))
            follows = good.last if good is not None else None
        return files

    def _end_of(self, peer: Peer, table: dict[int, dict[str, _Found]]) -> int:
        """The index of the segment in which this member's log ends, if that end is not missing anything; else one that
        no segment has."""
        for index in sorted(table, reverse=True):
            found = table[index][peer.name]
            if _is_used(found):
                whole = isinstance(found, Records) and found.last is not None
                whole = whole and found.last.sequence >= self._acknowledged  # type: ignore[union-attr]
                return index if whole or peer.name not in self._in_sync else -1
        return -1

    def _copy_of_segment(
        self, peer: Peer, index: int, table: dict[str, _Found], good: Records | None, end: int
    ) -> Copy:
        found = table[peer.name]
        trails = peer.name not in self._in_sync
        if found is None:
            ok = 0 <= end < index
            return Copy(peer.name, (State.BEHIND if trails else State.GOOD) if ok else State.MISSING, "it is missing")
        if isinstance(found, Fault):
            return Copy(peer.name, State.DAMAGED, found.what, found.offset)
        if good is not None and found.digest == good.digest and (index == end or found.tail.end is End.CLEAN):
            return Copy(peer.name, State.GOOD)
        if good is not None and 0 <= end <= index and self._begins(found, good, table, segment_name(index)):
            return Copy(peer.name, State.BEHIND if trails else State.GOOD)
        what = found.tail.why or "records are missing at its end, or belong to another history"
        return Copy(peer.name, State.DAMAGED, what, found.tail.offset)

    def _begins(self, found: Records, good: Records, table: dict[str, _Found], name: str) -> bool:
        """Whether these records are the first ones of the good file."""
        if found.last is None:
            return True
        holder = next(peer for peer in self.peers if table[peer.name] is good)
        until = Base(found.last.sequence, 0, 0, True)
        again = self._read_one(holder, name, until)
        return isinstance(again, Records) and again.base_checksum == found.last.checksum

    # Reading

    def _read(self, name: str, manifest: Manifest, base: Base | None) -> dict[str, _Found]:
        return {peer.name: self._read_one(peer, name, base) for peer in self.peers}

    def _read_one(self, peer: Peer, name: str, base: Base | None) -> _Found:
        if name not in self._names[peer.name]:
            return None
        try:
            return records_in(peer.storage, name, self.manifest.backup_id, base, self.manifest)
        except FileNotFoundError:
            return None
        except OSError as error:
            names_at(peer)  # raises Lost if it is not only this file
            return Fault(f"it cannot be read ({printable(error.strerror or str(error))})", 0)


def _longest(found: Iterable[Records], follows: Chain | None, fits: Callable[[Records], bool]) -> Records | None:
    """Of the records that fit and continue `follows` (None: whatever they continue), the longest; None if none do."""
    candidates = [
        records
        for records in found
        if fits(records) and (records.before is None or follows is None or records.before == follows)
    ]
    return max(candidates, key=lambda records: records.last.sequence if records.last else -1, default=None)


def _continues_base(records: Records, base: Base) -> bool:
    return records.base_checksum is None or records.base_checksum == base.checksum


def _can_open(manifest: Manifest) -> bool:
    """Whether the snapshot can be unpacked: without the key, only its stored records can be checked."""
    return manifest.key is None or keyring.find(manifest.key) is not None


def _is_used(found: _Found) -> bool:
    """Whether a segment holds a record, or something that was one."""
    if isinstance(found, Records):
        return found.last is not None or found.tail.end is not End.CLEAN
    return found is not None
