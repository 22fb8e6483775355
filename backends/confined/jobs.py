"""The jobs that the child can do. Each takes and returns what JSON can hold; `work` has the parent's side of each."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends import backup_at
from backends.compaction.compact import compact_log
from backends.confined.messages import MAX_TOLD, Overtaken
from backends.errors import BackupError
from backends.following.follower import News, Order, follow
from backends.legacy import LegacyBackup, rebuild_legacy
from backends.log.backup import Backup
from backends.log.reader.generation import Reader
from backends.sqlite.compare import compare
from backends.sqlite.following import mark_copy, release_copy
from backends.sqlite.foreign_keys import ForeignKeys, foreign_key_violations
from backends.sqlite.limits import scale
from backends.sqlite.rebuild import Rebuilt, rebuild
from backends.system.pulse import pulse

_MAX_SENTENCE = 500


def rebuild_backup(
    url: str,
    target: str,
    *,
    generation: int | None,
    kept: int | None,
    to_version: int | None,
    durable: bool,
    violations: bool,
    following: str | None,
    check_all: bool,
) -> dict[str, Any]:
    """See `work.rebuild_backup`."""
    backup = backup_at(url)
    with backup.read() if kept is None else _read_held(backup, kept) as reader:
        if generation not in (None, reader.manifest.generation):
            raise Overtaken("the node has just begun a new generation; nothing was changed. Try again")
        if following not in (None, reader.manifest.backup_id.hex()):
            raise Overtaken("another backup has just been put in the place of this one; nothing was changed")
        proven = not check_all and (reader.manifest.key is not None or backup.place.only_this_machine_writes())
        keys = ForeignKeys() if violations else None
        stored, oldest, place = reader.stored_bytes(), reader.manifest.base.data_version, Path(target)
        if to_version is None:
            rebuilt = rebuild(reader, place, pulse.read, durable=durable, proven=proven, keys=keys)
        elif to_version < oldest:
            raise BackupError(f"the backup goes back to version {oldest}, not to {to_version}; nothing was restored")
        else:
            rebuilt = rebuild(
                reader,
                place,
                pulse.read,
                take=lambda change: change.data_version <= to_version,
                enough=to_version,
                durable=durable,
                proven=proven,
                keys=keys,
            )
    if following is not None:
        assert rebuilt.end is not None
        mark_copy(place, rebuilt.end.checksum)
    return {
        **_rebuilt(rebuilt, place),
        "generation": reader.manifest.generation,
        "stored": stored,
        "sequence": None if rebuilt.end is None else rebuilt.end.sequence,
        "checksum": None if rebuilt.end is None else rebuilt.end.checksum,
        "violations": _told(foreign_key_violations(place, keys), "more") if violations else [],
    }


def _read_held(backup: Backup, number: int) -> Reader:
    for kept in backup.held():
        if kept.manifest.generation == number:
            return backup.read_held(kept)
    raise BackupError(f"generation {number} is not kept any more; nothing was restored. See: backup-cli versions")


def follow_backup(url: str, path: str, **order: Any) -> dict[str, Any]:
    """See `work.follow_backup`."""

    def tell(news: News) -> None:
        pulse.news = asdict(news)

    stretch = follow(backup_at(url), Path(path), Order(**order), tell)
    return {
        "ended": stretch.ended.value,
        "news": None if stretch.news is None else asdict(stretch.news),
        "copy_version": stretch.copy_version,
        "backup_version": stretch.backup_version,
    }


def release_followed(path: str) -> dict[str, Any]:
    """See `work.release_followed`."""
    scale(Path(path).stat().st_size)
    state = release_copy(Path(path))
    return {"state_version": state.data_version, "node_id": state.node_id, "bytes": Path(path).stat().st_size}


def mark_followed(path: str, checksum: int) -> dict[str, Any]:
    """See `work.mark_followed`."""
    scale(Path(path).stat().st_size)
    state = mark_copy(Path(path), checksum)
    return {"state_version": state.data_version, "bytes": Path(path).stat().st_size}


def rebuild_legacy_file(file: str, target: str, *, to_version: int | None) -> dict[str, Any]:
    """See `work.rebuild_legacy_file`."""
    with LegacyBackup(Path(file)) as legacy:
        scale(legacy.stored_bytes())
        made = rebuild_legacy(legacy, Path(target), pulse.read, to_version=to_version)
        return {**_rebuilt(made.rebuilt, Path(target)), "remarks": _told(made.remarks, "more remarks")}


def compact_backup(url: str, scratch: str) -> dict[str, Any]:
    """See `work.compact_backup`."""
    backup = backup_at(url)
    compacted = compact_log(backup.storage, Path(scratch), pulse.read)
    return {"folded": None if compacted is None else compacted.encode()}


def compare_databases(a: str, b: str, a_name: str, b_name: str) -> dict[str, Any]:
    """See `work.compare_databases`."""
    scale(sum(Path(database).stat().st_size for database in (a, b)))
    found = compare(Path(a), Path(b), a_name, b_name)
    differences = _told(found.differences, "more differences")
    return {"tables": found.tables, "rows": found.rows, "differences": differences}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    job.__name__: job
    for job in (
        rebuild_backup,
        rebuild_legacy_file,
        compact_backup,
        compare_databases,
        follow_backup,
        release_followed,
        mark_followed,
    )
}


def _rebuilt(rebuilt: Rebuilt, target: Path) -> dict[str, Any]:
    state = rebuilt.state
    return {
        "state_version": state.data_version,
        "node_id": state.node_id,
        "is_lightningd": state.is_lightningd,
        "empty": state.empty,
        "data_version": rebuilt.data_version,
        "changes": rebuilt.changes,
        "last_time": rebuilt.last_time,
        "foreign_keys": rebuilt.foreign_keys,
        "torn": rebuilt.torn,
        "end_unverified": rebuilt.end_unverified,
        "all_checked": rebuilt.all_checked,
        "unknown": {
            "objects": list(state.unknown_objects.objects),
            "count": state.unknown_objects.count,
        },
        "bytes": target.stat().st_size,
    }


def _told(sentences: list[str], more: str) -> list[str]:
    told = [sentence[:_MAX_SENTENCE] for sentence in sentences[:MAX_TOLD]]
    return told if len(sentences) <= MAX_TOLD else [*told, f"and {len(sentences) - MAX_TOLD} {more}"]
