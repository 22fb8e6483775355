"""`backup-cli compact`: compacts a backup now, with the node stopped."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import click

from backends.compaction.compact import segments_freed
from backends.confined.work import compact_backup
from backends.errors import BackupError, NoSpace, Unrestorable
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS
from backends.log.format.records import is_part_of, segment_index
from backends.log.status import Status
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.writer import Writer
from backends.node.lockfile import read_settings
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.system.interrupts import deferred, ignored
from backends.system.scratch import scratch_directory, scratch_place
from backends.text import counted
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.console import Progress, progress, say, size, warn
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.noting import damage_noted
from backup_cli.options import existing_backup_as_owner, lightning_dir, no_limits, show_statements
from backup_cli.ownership import alone, take_over
from plugin.destination import Destination, destination_of
from plugin.start import remember_new_session


@click.command(short_help="Compact the backup now, with the node stopped.")
@click.argument("url", metavar="[URL]", required=False, shell_complete=offered_urls)
@lightning_dir
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False, readable=False),
    help="Where to keep the whole database temporarily.  [default: TMPDIR, or /var/tmp]",
)
@key_options
@take_over
@dry_run_option
@json_option
@show_statements
@no_limits
def compact(
    url: str | None,
    lightning_dir: Path,
    scratch: Path | None,
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Replace the backup's history by a new snapshot. Stop the node first; a running one compacts by itself.

    Without a URL, it is the node's own backup, with all its members if it has several. An encrypted one needs its key.
    """
    with _opened(url, lightning_dir, key, dry_run) as (url, backup, opener):
        as_owner.refuse_anothers(scratch)
        _compact_it(url, backup, opener, scratch, take_over, dry_run, as_json)


def _compact_it(
    url: str, backup: Backup, opener: "_Opener", scratch: Path | None, take_over: bool, dry_run: bool, as_json: bool
) -> None:
    with alone(url, backup, "compact", take_over, dry_run):
        _refuse_if_damaged(backup)
        freed, before = segments_freed(backup.storage), backup.status(url)
        if not freed:
            _tell_needless(url, _NOTHING_YET if freed is None else _LAST_SEGMENT, dry_run, as_json)
            return
        if dry_run:
            what = f"compact {counted(freed, 'segment')} of {url} into a new snapshot"
            tell_steps([f"{what}, unless that would gain nothing"], as_json)
            return
        # Before taking the backup over, which writes its fence: if the compaction gains nothing, no byte is changed.
        with closing(_Room(backup, opener)) as room:
            with damage_noted(backup, "compaction", before.generation), progress("Compacting") as show:
                compacted = room.made_for(lambda: _compact(url, backup, scratch or scratch_place(), show))
            with _discarded_on_failure(backup):
                if compacted is None or not _gains(backup, compacted, before):
                    backup.discard_compaction()
                    _tell_needless(url, _NO_GAIN, dry_run, as_json)
                    return
                writer, publish = room.open(compacted)
            # From here on, only the writer writes: it touches nothing once another writer has taken over.
            with _discarded_on_failure(writer), ignored():
                publish(compacted)
            after = writer.sizes()
    old, new = before.snapshot_bytes + before.segment_bytes, after.snapshot + after.segments
    if as_json:
        hand_out_result({"url": url, "compacted": True, "bytes_before": old, "bytes_after": new})
    say(f"{url}: {size(old)} before, {size(new)} after")


_Opened = tuple[Writer, Callable[[CompactedSnapshot], None]]
"""The writer, and what publishes a compaction."""

_Opener = Callable[[CompactedSnapshot | None], _Opened]
"""Opens the backup for writing. The compaction that waits to be published is not removed as a leftover."""


class _Room:
    """The writer, opened as late as possible: on a full destination before the compaction, as only a writer may give
    up what is kept for its history."""

    def __init__(self, backup: Backup, opener: _Opener) -> None:
        self._backup, self._opener = backup, opener
        self._opened: _Opened | None = None

    def open(self, compacted: CompactedSnapshot | None) -> _Opened:
        """Become the writer, unless this is it already."""
        if self._opened is None:
            self._opened = self._opener(compacted)
        return self._opened

    def made_for(self, compact: Callable[[], CompactedSnapshot | None]) -> CompactedSnapshot | None:
        """The result of `compact`, which is repeated each time that a generation was given up for want of space."""
        while True:
            try:
                return compact()
            except NoSpace:
                if not self._backup.history().generations or not self.open(None)[0].give_up_oldest():
                    raise

    def close(self) -> None:
        """Close the writer, if it was opened."""
        if self._opened is not None:
            self._opened[0].close()


@contextmanager
def _opened(
    url: str | None, lightning_dir: Path, key: KeyOptions, dry_run: bool
) -> Iterator[tuple[str, Backup, _Opener]]:
    """The backup to compact, its URL, and how it is opened for writing. Of several members, the newest is compacted."""
    if url is not None:
        named, backup = existing_backup_as_owner(url)
        _refuse_one_member(named, backup)
        find_key(backup, key)
        yield named, backup, lambda compacted: _open_one(backup, compacted)
        return
    directory = as_owner.node_directory(lightning_dir)
    refuse_if_running(directory)
    settings = read_settings(directory)
    find_key(settings.urls, key, [directory])
    with held(WriterLock(directory, f"{COMMAND} compact"), dry_run):
        destination = destination_of(directory, settings)
        yield destination.url, destination.backup, lambda compacted: _open_all(directory, destination, compacted)


def _open_one(backup: Backup, compacted: CompactedSnapshot | None) -> _Opened:
    writer = backup.open(lambda level, line: warn(line), compacted=compacted)
    return writer, writer.publish_compaction


def _open_all(directory: Path, destination: Destination, compacted: CompactedSnapshot | None) -> _Opened:
    """Open the node's own backup, at all members. The session is one of the node's, which its next start knows."""
    seen = destination.backup.look()
    destination.check_start(proven=False, changed_ago=None)
    session = remember_new_session(directory, seen.backup_id, seen.last_writer)
    writer = destination.open(lambda level, line: warn(line), session, seen, compacted=compacted, catch_up=False)
    members = destination.members
    return writer, writer.publish_compaction if members is None else partial(members.publish_compaction, writer)


def _refuse_one_member(url: str, backup: Backup) -> None:
    """Refuse to write to one member of a backup that has several: it would differ from the others."""
    if MEMBERS not in backup.storage.names():
        return
    raise BackupError(
        f"{url} is one member of a backup that has several, which all hold the same. Nothing was changed; to compact "
        "all of them, stop the node and run: backup-cli compact (with --lightning-dir DIR, if it is not the default)"
    )


@contextmanager
def _discarded_on_failure(holder: Backup | Writer) -> Iterator[None]:
    """On a failure, remove the new snapshot that was not published: it is as large as the database."""
    try:
        yield
    except BaseException:
        with deferred(), suppress(BackupError, OSError):
            holder.discard_compaction()
        raise


def _tell_needless(url: str, why: str, dry_run: bool, as_json: bool) -> None:
    if as_json and dry_run:
        tell_steps([], as_json)
    elif as_json:
        hand_out_result({"url": url, "compacted": False, "reason": why})
    say(f"{url}: {why}")


def _compact(url: str, backup: Backup, scratch: Path, show: Progress) -> CompactedSnapshot | None:
    """The new snapshot, ready to be published; on a failure nothing of it is left, here or at the destination."""
    with scratch_directory(scratch) as place, _discarded_on_failure(backup):
        return compact_backup(url, place, show)


_NOTHING_YET = "there is nothing to compact yet"

_LAST_SEGMENT = "a compaction would gain nothing now (the segment with the last changes is always kept as it is)"

_NO_GAIN = "a compaction would gain nothing now (the new snapshot would be larger than what it replaces)"


def _gains(backup: Backup, compacted: CompactedSnapshot, before: Status) -> bool:
    """Whether the backup becomes smaller: the new snapshot replaces the old one and whole segments."""
    snapshot = sum(_size(backup, name) for name in backup.storage.names() if is_part_of(name, compacted.written))
    segments = sum(
        _size(backup, name)
        for name in backup.storage.names()
        if (index := segment_index(name)) is not None and index < compacted.first_segment
    )
    return snapshot < before.snapshot_bytes + segments


def _size(backup: Backup, name: str) -> int:
    with closing(backup.storage.open(name)) as handle:
        return handle.size()


def _refuse_if_damaged(backup: Backup) -> None:
    """Raise Unrestorable if the backup has known damage: it may be in the last records, which a compaction keeps."""
    known = backup.damage.read()
    if known is not None:
        raise Unrestorable(
            f"{known.sentence()}. Nothing was changed; a compaction does not repair that, but a new snapshot of the "
            "node's database does. The node's next start takes one by itself",
            known.what,
        )
