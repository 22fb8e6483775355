"""`follow --promote`: the copy becomes the database of a node, which goes on with this backup.

The backup's writer is fenced first. So whatever any node was told is saved is in the log from then on, and nothing can
be added to it: the copy gets the rest, and holds all of it. What follows is as in `restore --resume`, except that a
rename takes the place of the rebuilding.

A promotion that was killed is repeated, from its beginning: the backup may have got more changes since. For that, the
note says, from before the copy loses the mark of a copy, which change it holds, and the copy gets its name and its mark
again.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from backends.base import Position
from backends.confined.work import mark_followed, rebuild_backup, release_followed
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.keyring import DataKey
from backends.log.backup import Backup
from backends.node.directory import looks_like_a_nodes
from backends.node.files import sync_directory
from backends.node.following import is_copy
from backends.node.key_file import KEY_FILE, write_key
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.system.interrupts import ignored
from backends.system.scratch import scratch_directory, scratch_place
from backends.text import counted
from backup_cli.console import moment, say, size, warn
from backup_cli.finding_keys import find_key
from backup_cli.following.building import NEVER
from backup_cli.following.copy_directory import CopyDirectory, Note, Released
from backup_cli.following.keeper import Keeper, Wishes
from backup_cli.following.sources import Followed
from backup_cli.nothing_yet import demand_database
from backup_cli.options import set_old_lock_aside
from backup_cli.ownership import Taking, look, refuse_living_writer
from backup_cli.restore_attached import PutBack, put_back, stored_in, would_put_back
from backup_cli.restore_members import ReadMembers, Source, source_at
from backup_cli.restore_text import IF_THE_NODE_LIVES

PROMOTION = Taking(
    "follow",
    "Nothing was promoted: the promoted node would run alongside that one, and {two_nodes}. Stop that one for good "
    "first (lightning-cli stop on its machine, or switch the machine off), then repeat this. The copy is whole, and "
    "until then it goes on following with: backup-cli follow",
    "the promoted node",
    needs_lock=True,
)


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion has done."""

    url: str
    backup: Backup
    members: ReadMembers | None
    note: Note
    position: Position
    node_id: str | None
    files: list[PutBack]
    changes: int
    """Changes that were still missing in the copy."""


def promote(
    directory: CopyDirectory,
    wishes: Wishes,
    without: Sequence[str],
    take_over: bool,
) -> Promotion:
    """Make the copy the database of the node in its directory. Raises BackupError; then the copy is still a copy."""
    refuse_if_running(directory.path)
    with WriterLock(directory.path, f"{COMMAND} follow"), ExitStack() as held:
        key = find_key(wishes.urls, wishes.key, [directory.path])
        source = source_at(wishes.urls, without, True)
        note = directory.read()
        before = look(source.backup)
        held.callback(source.backup.let_go)
        _warn_of_damage(source)
        refuse_living_writer(source.url, source.backup, before, take_over, PROMOTION)
        if note is not None and note.released is not None and not is_copy(directory.copy):
            _undo(directory, note, note.released)  # the last promotion was killed
        directory.refuse_database()
        if not directory.copy.exists():
            _demand_database(source)  # before a copy is made for nothing
        keeper = _caught_up(directory, wishes, source)  # while the node may still run, so that the rest is short
        _demand_database(source)  # only now: a copy that is ahead of a backup that was set back is another matter
        refuse_living_writer(  # it has had time to write
            source.url, source.backup, before, take_over, replace(PROMOTION, warned=True)
        )
        try:
            position, source = _fenced(source)
            rest = _caught_up(directory, wishes, source)
            note = _reached(rest, position)
            refuse_if_running(directory.path)
            directory.refuse_database()
            return _finish(directory, source, note, key, keeper.changes + rest.changes, position)
        except (BackupError, OSError):
            warn(
                "the backup may have been taken over already: then the node that wrote to it does not start any more. "
                "Repeat this promotion. Only if that node is to go on after all, run on its machine, which says what "
                "else it needs: backup-cli resync"
            )
            raise


def _warn_of_damage(source: Source) -> None:
    """Say what is noted against the backup, as a restore does."""
    known = source.backup.damage.read()
    if known is not None:
        warn(f"{known.sentence()}. {IF_THE_NODE_LIVES}")


def _demand_database(source: Source) -> None:
    """Raise NothingYet if the backup holds no database, as a restore does. Its version tells that apart at no cost
    nearly always."""
    if source.backup.end().data_version:
        return
    with scratch_directory(scratch_place()) as scratch:
        outcome = rebuild_backup(source.url, scratch / "tried.sqlite3", durable=False)
    demand_database(outcome.rebuilt.state, "Nothing was promoted; a copy goes on following with: backup-cli follow")


def _undo(directory: CopyDirectory, note: Note, released: Released) -> None:
    """Make what a killed promotion has left a copy again. Raises BackupError if somebody else has changed it since."""
    if not directory.copy.exists():
        directory.put_back(released)
    version = mark_followed(directory.copy, released.checksum)
    if (version or 0) != released.data_version:
        raise BackupError(
            f"{directory.copy} is at version {version}, and an earlier promotion, which was cut off, has left version "
            f"{released.data_version} there: somebody has replaced it. It was not promoted; move it away"
        )
    directory.write(replace(note, released=None))


def _reached(rest: Keeper, position: Position) -> Note:
    """What is known of the copy. Raises BackupError unless it ends with the very change that the backup ends with."""
    reached, note = rest.news, rest.note
    if reached is None or note is None or (reached.sequence, reached.checksum) != _place(position):
        raise BackupError(
            f"the copy is at version {0 if reached is None else reached.data_version}, and the backup ends at "
            f"version {position.data_version}: another process has just written to it. Nothing was promoted; stop "
            "that one for good, then repeat this"
        )
    return note


def _caught_up(directory: CopyDirectory, wishes: Wishes, source: Source) -> Keeper:
    """Bring the copy to the end of the log in `source`."""
    # Checks of all tables are for the time before: they take as long as a restore.
    wishes = replace(wishes, once=True, quiet=True, check_every=NEVER)
    keeper = Keeper(directory, wishes, Followed(source.url, source.backup))
    keeper.keep()
    return keeper


def _place(position: Position) -> tuple[int, int]:
    return position.sequence, position.checksum


def _fenced(source: Source) -> tuple[Position, Source]:
    """Fence every writer of the backup, in each member that counts: from now on nobody else adds anything that he
    acknowledges. Returns where the log ends, and the member where that is.

    The session is one that no node knows as its own. Otherwise a service manager would start the node that was stopped
    by this again, and it would go on with the backup.
    """
    best: tuple[Position, Source] | None = None
    session = secrets.token_hex(8)
    for url, backup in source.places():
        with closing(backup.open(lambda level, line: warn(line), session)) as writer:
            if best is None or writer.position.sequence > best[0].sequence:
                best = writer.position, Source(url, backup, source.members)
    assert best is not None
    return best


def _finish(
    directory: CopyDirectory,
    source: Source,
    note: Note,
    key: DataKey | None,
    changes: int,
    position: Position,
) -> Promotion:
    """The last steps. `position` is where copy and backup end."""
    stored = stored_in(source.places())
    with ignored():
        note = replace(note, released=_released(directory.copy, position))
        directory.write(note)  # before the copy loses what says where it is
        node_id = release_followed(directory.copy).node_id
        directory.copy.chmod(0o600)
        note = replace(note, released=_released(directory.copy, position))
        directory.write(note)
        files = put_back(directory.path, stored)
        if key is not None:
            write_key(directory.path, key)
        directory.copy.rename(directory.database)
        sync_directory(directory.path)
        set_old_lock_aside(directory.path)
        source.hand_over(directory.path, position)
        directory.remove_note()
    return Promotion(
        source.url, source.backup, source.members, note, position, node_id or _node_id(source), files, changes
    )


def _released(path: Path, position: Position) -> Released:
    status = path.stat()
    return Released(
        position.sequence, position.checksum, position.data_version, status.st_ino, status.st_size, status.st_mtime_ns
    )


def _node_id(source: Source) -> str | None:
    try:
        return source.backup.node_id()
    except BackupError:
        return None


def would_promote(directory: CopyDirectory, wishes: Wishes, without: Sequence[str], take_over: bool) -> list[str]:
    """The steps that a promotion would take, for a dry run."""
    refuse_if_running(directory.path)
    WriterLock(directory.path, f"{COMMAND} follow").look()
    key = find_key(wishes.urls, wishes.key, [directory.path])
    source = source_at(wishes.urls, without, True)
    before = look(source.backup)
    _warn_of_damage(source)
    refuse_living_writer(source.url, source.backup, before, take_over, PROMOTION, dry_run=True)
    note = directory.read()
    again = []
    if note is not None and note.released is not None and not is_copy(directory.copy):
        if not directory.copy.exists():
            directory.check_left(note.released)
        again = [f"begin anew with the promotion of version {note.released.data_version}, which was cut off"]
    else:
        directory.refuse_database()
    behind = (
        ""
        if note is None or before.end is None
        else (f" (at version {note.data_version} when it was last noted; the backup is at {before.end.data_version})")
    )
    if not directory.copy.exists() or note is None or not note.data_version:
        _demand_database(source)
    places = source.places()
    return [
        *again,
        f"take the backup over at {' and '.join(url for url, _ in places)}: a node that still writes to it stops at "
        "its next change",
        f"bring the copy {directory.copy} to the end of the backup{behind}",
        *would_put_back(directory.path, stored_in(places)),
        *([] if key is None else [f"write {directory.path / KEY_FILE}, with the key of the backup (mode 0400)"]),
        f"rename {directory.copy.name} to {directory.database.name}",
        *source.lock_steps(directory.path),
    ]


def tell_promoted(directory: CopyDirectory, done: Promotion) -> None:
    """Say what was done, for people."""
    note = done.note
    if not looks_like_a_nodes(directory.path):
        warn(f"nothing in {directory.path} shows that it is a node's: lightningd must work in exactly this directory")
    checked = max(note.checked, note.rebuilt)
    say(
        f"Promoted version {done.position.data_version}, last changed {moment(note.last_change)}: "
        f"{counted(done.changes, 'change')} replayed now, {size(directory.database.stat().st_size)}, every table "
        f"checked {moment(checked)}:"
    )
