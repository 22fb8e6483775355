"""A backup's status: for a reader out of its files, for the writer out of what it knows."""

from backends.base import Sizes, Standing
from backends.errors import BackupError, Damaged
from backends.log.documents import Manifest, Session
from backends.log.generation import Reader
from backends.log.known_damage import KnownDamage
from backends.log.passes import EndOfLog
from backends.status import Status, Trouble, TroubleKind, low_space
from backends.storage.base import Space


def status_of_files(url: str, reader: Reader, space: Space, known: KnownDamage | None) -> Status:
    """Reads the records (not what is packed in them) to the log's end. Damage in them becomes a trouble.

    Of the snapshot it looks at the ends only: the rest is for `verify`.
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
        troubles.append(Trouble(TroubleKind.DAMAGE, str(error)))
    snapshot, segments = reader.snapshot.size(), reader.log.stored_bytes()
    manifest, session, reached = reader.manifest, reader.session, scan.position
    if end is not None:
        if end.torn is not None and not damaged:  # what was lost there may have been acknowledged
            told = f"the end of the log is torn; the next start of the node repairs it: {end.torn}"
            troubles.append(Trouble(TroubleKind.TORN_END, told))
        if end.end_unverified is not None:
            troubles.append(Trouble(TroubleKind.END_UNVERIFIED, end.end_unverified))
        if not damaged:
            segments = end.log_bytes
    return _status(url, manifest, session, reached, records, snapshot, segments, space, troubles, damaged, known)


def status_of_writer(
    url: str,
    manifest: Manifest,
    session: Session,
    end: Standing,
    sizes: Sizes,
    space: Space,
    known: KnownDamage | None,
    failure: BackupError | None,
) -> Status:
    """What the writer knows; reads nothing."""
    troubles = [] if failure is None else [Trouble(TroubleKind.WRITE_FAILED, str(failure))]
    return _status(
        url, manifest, session, end, sizes.records, sizes.snapshot, sizes.segments, space, troubles, False, known
    )


def _status(
    url: str,
    manifest: Manifest,
    session: Session | None,
    end: Standing,
    records: int,
    snapshot: int,
    segments: int,
    space: Space,
    troubles: list[Trouble],
    damaged: bool,
    known: KnownDamage | None,
) -> Status:
    low = low_space(space, snapshot + segments)
    earlier = [] if known is None else [Trouble(TroubleKind.KNOWN_DAMAGE, known.sentence())]
    if session is not None and session.trouble:
        troubles = [*troubles, Trouble(TroubleKind.COMPACTION_FAILED, session.trouble)]
    if low is not None:
        troubles = [*troubles, Trouble(TroubleKind.SPACE_LOW, low)]
    return Status(
        url=url,
        backup_id=manifest.backup_id.hex(),
        node_id=manifest.node_id or (session.node_id if session else None),
        data_version=end.data_version,
        last_change=end.time,
        records=records,
        generation=manifest.generation,
        generation_begun=manifest.created,
        generation_reason=manifest.reason,
        last_compaction=manifest.created if manifest.made_by_compaction else None,
        snapshot_bytes=snapshot,
        segment_bytes=segments,
        free_bytes=space.free,
        total_bytes=space.total,
        damaged=damaged or known is not None,
        troubles=(*earlier, *troubles),
        known_damage=known,
    )
