"""A backup's status: the same from the running plugin and from `backup-cli status`."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from backends import keyring
from backends.base import Position, Sizes
from backends.errors import BackupError, Damaged
from backends.log.format.documents import Manifest, Session
from backends.log.known_damage import KnownDamage
from backends.log.member_status import MemberStatus
from backends.log.reader.generation import Reader
from backends.log.reader.passes import EndOfLog
from backends.storage.base import Space

HIDDEN = "encrypted"
"""What is shown instead of something that is encrypted, if the key is not here."""

SPACE_WANTED = 256 << 20
"""The minimum of free bytes: a compaction needs space for another snapshot while the log keeps growing."""


class TroubleKind(Enum):
    """What a trouble is about. Programs identify it by the value, which stays the same however its sentence changes."""

    KNOWN_DAMAGE = "known_damage"
    """Found earlier by a compaction or `verify`, and noted in the backup."""
    DAMAGE = "damage"
    """Found just now, in the files."""
    TORN_END = "torn_end"
    END_UNVERIFIED = "end_unverified"
    WRITE_FAILED = "write_failed"
    """The running writer has given up."""
    COMPACTION_FAILED = "compaction_failed"
    SPACE_LOW = "space_low"
    LAST_RUN_FAILED = "last_run_failed"
    NOT_WRITABLE = "not_writable"
    MEMBER_OUT_OF_SYNC = "member_out_of_sync"
    """One of several destinations does not hold every acknowledged change."""
    MEMBER_UNREACHABLE = "member_unreachable"
    """One of several destinations cannot be read now, so nobody can tell what it holds."""
    NEED_NOT_MET_SOON = "need_not_met_soon"
    """No more members are in sync than the node needs, so the next failure stops it; or there are already fewer."""
    NO_KEY_SLOT = "no_key_slot"
    """Nothing but `backup.key` opens this encrypted backup."""
    KEY_SLOT_DAMAGED = "key_slot_damaged"
    """A key slot opens the backup no more; others do."""
    KEY_SLOTS_CHANGED = "key_slots_changed"
    """Somebody without the key has written the file with the key slots, so they may open nothing."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, as a fact for programs and a sentence for people."""

    kind: TroubleKind
    sentence: str
    finding: str = ""
    """For DAMAGE: one clause that says what was found, without advice."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is known about a backup. Sizes are in bytes, times in seconds since 1970."""

    url: str
    backup_id: str
    node_id: str | None
    data_version: int
    last_change: int
    records: int  # since the snapshot
    generation: int
    generation_begun: int
    generation_reason: str
    last_compaction: int | None
    snapshot_bytes: int
    segment_bytes: int
    free_bytes: int | None
    """None if the destination cannot tell, as a bucket cannot."""
    total_bytes: int | None
    damaged: bool
    troubles: tuple[Trouble, ...]
    """Empty when all is well."""
    known_damage: KnownDamage | None = None
    """Damage that an earlier reader proved; with it the backup is damaged, whatever its checksums say."""
    members: tuple[MemberStatus, ...] = ()
    """For a backup with several destinations, each of them; otherwise empty."""
    need: int = 1
    """How many members must be in sync for the node to go on."""
    epoch: int | None = None
    """The number of the newest epoch; None for a backup with one destination."""
    encrypted: bool = False
    key_id: str | None = None
    """The public name of the key that it is encrypted with; None if it is not encrypted."""
    key_slots: int | None = None
    """How many key slots can be used; None if the backup is not encrypted, or if nobody has read them."""
    key_slots_damaged: int | None = None
    """How many cannot be used any more; None as above."""
    history_generations: int = 0
    """How many generations are kept for their history."""
    history_bytes: int = 0
    """What they take. They are given up before the node runs out of space."""
    history_oldest: int | None = None
    """When the oldest of them was begun; None if none is kept, or if that is unknown."""

    @property
    def hidden(self) -> bool:
        """Whether what the backup says of the node (its id, a trouble) is encrypted, and the key is not here."""
        return self.key_id is not None and keyring.find(self.key_id) is None

    @property
    def health(self) -> str:
        """One word for a monitor."""
        return "damaged" if self.damaged else "degraded" if self.troubles else "ok"

    def as_json(self) -> dict[str, Any]:
        """For programs. `troubles` are sentences for people; `trouble_kinds` says what each of them is about.

        With one destination there is nothing about members.
        """
        document = {"health": self.health, **asdict(self)}
        if self.hidden:
            document["node_id"] = HIDDEN
        if self.members:
            document["members"] = [member.as_json() for member in self.members]
        else:
            for name in ("members", "need", "epoch"):
                del document[name]
        document["troubles"] = [trouble.sentence for trouble in self.troubles]
        document["trouble_kinds"] = [trouble.kind.value for trouble in self.troubles]
        return document


def low_space(space: Space, stored: int) -> str | None:
    """A sentence if space at the destination is low, well before it is full; otherwise None.

    `stored` is the bytes of the backup there.
    """
    if not is_space_low(space.free, stored):
        return None
    return f"{space_in_words(space.free, stored, 'the destination')}: when it is full, the node stops. Make room soon"


def is_space_low(free: int, stored: int) -> bool:
    """Whether a destination with this many free bytes, and this many bytes of the backup, will be full soon."""
    return free < _space_wanted(stored)


def space_in_words(free: int, stored: int, where: str) -> str:
    """How much space there is, and how much there should be: the beginning of a sentence."""
    return f"only {free >> 20} MiB are free at {where}, and {_space_wanted(stored) >> 20} MiB should be"


def _space_wanted(stored: int) -> int:
    return max(SPACE_WANTED, 2 * stored)


def status_of_files(
    url: str, reader: Reader, space: Space, known: KnownDamage | None, history: tuple[int, int, int] = (0, 0, 0)
) -> Status:
    """The status found out by reading all records, without unpacking them. Damage in them becomes a trouble.

    Only the beginning and the end of the snapshot are checked: the rest is for `verify`. `history` are how many
    generations are kept for it, their bytes, and when the oldest was begun.
    """
    troubles: list[Trouble] = []
    records, scan = 0, reader.scan()
    end: EndOfLog | None = None
    damaged = False
    try:
        for _ in scan:
            records += 1
        end = scan.end()
        reader.snapshot.check_ends()
    except Damaged as error:
        damaged = True
        troubles.append(Trouble(TroubleKind.DAMAGE, str(error), error.finding))
    snapshot, segments = reader.snapshot.size(), reader.log.stored_bytes()
    manifest, session, reached = reader.manifest, reader.session, scan.position
    if end is not None:
        if end.torn is not None and not damaged:  # with damage, what was lost at the end may have been acknowledged
            sentence = f"the end of the log is torn; the next start of the node repairs it: {end.torn}"
            troubles.append(Trouble(TroubleKind.TORN_END, sentence))
        if end.end_unverified is not None:
            troubles.append(Trouble(TroubleKind.END_UNVERIFIED, end.end_unverified))
        if not damaged:
            segments = end.log_bytes
    sizes = Sizes(snapshot, segments, records, *history)
    return _status(url, manifest, session, reached, sizes, space, troubles, damaged, known)


def status_of_writer(
    url: str,
    manifest: Manifest,
    session: Session,
    end: Position,
    sizes: Sizes,
    space: Space,
    known: KnownDamage | None,
    failure: BackupError | None,
) -> Status:
    """The status from what the running writer knows; reads nothing."""
    troubles = [] if failure is None else [Trouble(TroubleKind.WRITE_FAILED, str(failure))]
    return _status(url, manifest, session, end, sizes, space, troubles, False, known)


def _status(
    url: str,
    manifest: Manifest,
    session: Session | None,
    end: Position,
    sizes: Sizes,
    space: Space,
    troubles: list[Trouble],
    damaged: bool,
    known: KnownDamage | None,
) -> Status:
    low = low_space(space, sizes.snapshot + sizes.segments)
    earlier = [] if known is None else [Trouble(TroubleKind.KNOWN_DAMAGE, known.sentence())]
    if session is not None and session.trouble:
        troubles = [*troubles, Trouble(TroubleKind.COMPACTION_FAILED, session.trouble)]
    if low is not None:
        troubles = [*troubles, Trouble(TroubleKind.SPACE_LOW, low)]
    return Status(
        url=url,
        backup_id=manifest.backup_id.hex(),
        node_id=manifest.node_of(session),
        data_version=end.data_version,
        last_change=end.time,
        records=sizes.records,
        generation=manifest.generation,
        generation_begun=manifest.created,
        generation_reason=manifest.reason,
        last_compaction=manifest.created if manifest.made_by_compaction else None,
        snapshot_bytes=sizes.snapshot,
        segment_bytes=sizes.segments,
        free_bytes=space.free if space.is_known else None,
        total_bytes=space.total if space.is_known else None,
        damaged=damaged or known is not None,
        troubles=(*earlier, *troubles),
        known_damage=known,
        encrypted=manifest.key is not None,
        key_id=manifest.key,
        history_generations=sizes.kept,
        history_bytes=sizes.kept_bytes,
        history_oldest=sizes.kept_oldest or None,
    )
