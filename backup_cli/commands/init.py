"""`backup-cli init`: creates a backup for a node: empty before its first start, else a snapshot of its database."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from backends import backup_at
from backends.base import Position, SnapshotSource
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.log.format.members import Member
from backends.members.strangers import ENCRYPT_AT_ONCE, encrypt_later
from backends.node.directory import (
    DEFAULT_DIRECTORY,
    NETWORKS,
    database_path,
    looks_like_a_nodes,
)
from backends.node.hand_over import hand_over
from backends.node.lockfile import Settings
from backends.node.pairing import Found, NodeDatabase
from backends.node.present import inspect_database
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.sqlite.copy import nothing, watched
from backends.sqlite.source import DatabaseState, inspect
from backends.system.interrupts import ignored
from backup_cli import as_owner
from backup_cli.attaching import attach_emergency, would_attach
from backup_cli.consent.newest import demand_newest, discard_newer
from backup_cli.consent.schema import tell_unknown_schema
from backup_cli.console import progress, say, show_whole, size, warn
from backup_cli.copying import snapshot_source
from backup_cli.drill.report import CALLS_PER_PAYMENT
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.encrypting import Encrypt, encrypt_option, new_slots, with_secret_option, would_open
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.new_key import PLAIN, NewKey, check_new_ciphertext, key_handed_over
from backup_cli.new_members import (
    NewMembers,
    Plan,
    check_places,
    grace_option,
    lock_names,
    need_option,
    planned,
    tell_members,
    warn_of_strangers,
    would_copy,
)
from backup_cli.node_environment import destination_warnings
from backup_cli.options import (
    copy_place,
    lightning_dir,
    lock_steps,
    removed_on_failure,
    set_old_lock_aside,
    urls_argument,
)
from backup_cli.pairing_text import in_words
from backup_cli.paths import plugin_path
from backup_cli.replica import refuse_other_database
from backup_cli.secret_text import warn_of_secret


@click.command(short_help="Create a backup of this node.")
@lightning_dir
@urls_argument
@need_option
@grace_option
@encrypt_option
@with_secret_option
@copy_place
@discard_newer
@dry_run_option
@json_option
def init(
    lightning_dir: Path,
    urls: tuple[str, ...],
    need: int | None,
    grace: float | None,
    encrypt: Encrypt | None,
    scratch: Path | None,
    consent: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create a backup at URL, e.g. file:///mnt/backup/lightning.bkp, with a snapshot of an existing database.

    With several URLs, each gets a whole copy, and the node goes on when one of them fails. One that ends in ?trailing
    is never waited for.

    With --encrypt, whoever holds the destination learns sizes and times, and nothing else.

    Stop lightningd first. Afterwards put the important-plugin line that this prints into lightningd's config. Refused
    if the backup that the node has used until now holds a newer state than its database.
    """
    plan = planned(urls, need, grace)
    directory = _directory(lightning_dir)
    as_owner.refuse_anothers(scratch)
    refuse_if_running(directory)
    with held(WriterLock(directory, f"{COMMAND} init"), dry_run):
        refuse_other_database(directory, database_path(directory))
        check_places(plan)
        database = database_path(directory)
        there = inspect_database(database)
        if there.found not in (Found.CORRUPT, Found.UNREADABLE):  # `_state` refuses these below
            demand_newest(directory, there, in_words(there, database), consent)
        if dry_run:
            warn_of_strangers(plan.urls, ENCRYPT_AT_ONCE, encrypted=encrypt is not None)
            steps = [_would_make(directory, plan.first.url), *_would_encrypt(directory, encrypt, there)]
            steps += [*would_attach(directory), *would_copy(plan), *lock_steps(directory, lock_names(plan))]
            tell_steps(steps, as_json)
            return
        key = None if encrypt is None else NewKey(new_slots(directory, encrypt, there.node_id, may_wait=True))
        made = _make(directory, plan, scratch or directory, key)
    if made.old_lock is not None:
        say(
            f"This node's earlier backup.lock is kept as {made.old_lock.name}; the backup that it names is no longer "
            "used."
        )
    _tell_result(directory, plan, made, as_json)


@dataclass(frozen=True, slots=True)
class _Made:
    """The backup that was made, and what it begins with."""

    settings: Settings
    position: Position
    node_id: str | None
    empty: bool
    """It holds no database yet."""
    latencies: Mapping[str, float]
    """Seconds that a commit takes at each member, by its name."""
    old_lock: Path | None
    """Where the node's earlier backup.lock is kept."""
    key: NewKey | None
    """The key that it is encrypted with."""


def _make(directory: Path, plan: Plan, scratch: Path, key: NewKey | None) -> _Made:
    """Make the backup at every place, and write backup.key and backup.lock last. After a failure, nothing is left."""
    backup = backup_at(plan.first.url)
    with ExitStack() as stack:
        making = stack.enter_context(removed_on_failure(backup))
        with _database(directory, scratch) as source:
            position = backup.create(source, None if key is None else key.stored_in(backup.storage))
        if key is not None:
            key.slots.attach_secret(backup.storage)
        attach_emergency(directory, backup.storage)
        members = NewMembers(plan, backup, making, stack)
        several = members.copy(f"{COMMAND} init") if plan.others else None
        check_new_ciphertext(members.backups.values(), key)
        latencies = {each.name: _tell_place(directory, each, members.backups[each.name]) for each in plan.members}
        backup_id, lasting = backup.id(), backup.place.durable_url(plan.first.url)
        with ignored():
            old = set_old_lock_aside(directory)
            with key_handed_over(directory, backup_id, key):
                hand_over(directory, lasting, backup_id, position, several)
                making.keep()
    settings = Settings(lasting, backup_id) if several is None else several[0]
    return _Made(settings, position, source.node_id, not source.pieces, latencies, old, key)


def _tell_result(directory: Path, plan: Plan, made: _Made, as_json: bool) -> None:
    holds = "no database yet" if made.empty else f"the database at version {made.position.data_version}"
    where = f"The backup with {len(plan.members)} members" if plan.others else f"The backup at {plan.first.url}"
    say(f"{where} is ready and holds {holds}.")
    tell_members(made.settings.members)
    warn_of_secret(directory, made.node_id, "the database")
    warn_of_strangers(plan.urls, encrypt_later(directory), encrypted=made.key is not None)
    if made.key is not None:
        made.key.tell(directory)
    if as_json:
        hand_out_result(_document(directory, made))
        return
    say("Now add this line to lightningd's config file, then start the node:", "")
    show_whole(f"important-plugin={plugin_path()}")


def _document(directory: Path, made: _Made) -> dict[str, Any]:
    """The result for programs. `commit_seconds` is how long a commit takes at the slowest member that is waited for."""
    settings = made.settings
    trailing = {member.name for member in settings.members if member.trailing}
    document: dict[str, Any] = {
        "url": settings.url,
        "backup_id": settings.backup_id,
        "node_id": made.node_id,
        "data_version": made.position.data_version,
        "lightning_dir": str(directory),
        "earlier_lock": None if made.old_lock is None else str(made.old_lock),
        "commit_seconds": max(seconds for name, seconds in made.latencies.items() if name not in trailing),
        "important_plugin": plugin_path(),
        **(PLAIN if made.key is None else made.key.as_json()),
    }
    if settings.members:
        document["members"] = [
            {**asdict(member), "commit_seconds": made.latencies[member.name]} for member in settings.members
        ]
    return document


def _directory(given: Path) -> Path:
    """The node's network directory. Only a directory named with --lightning-dir may be new, and have any name."""
    directory = as_owner.node_directory(given, new=given != DEFAULT_DIRECTORY)
    if not looks_like_a_nodes(directory):
        warn(
            f"nothing in {directory} shows that it is a node's. It is taken for the directory where lightningd will "
            f"work and keep its database; if that is to be {directory / NETWORKS[0]}, create that directory, and run "
            "this again with it and another URL"
        )
    return directory


SLOW_COMMIT = 0.020
"""Commit latency in seconds above which `init` says what it means for payments."""


def _tell_place(directory: Path, member: Member, backup: Backup) -> float:
    """Say what the destination is, and how long a commit takes there. Returns the latter in seconds."""
    for line in destination_warnings(member.url, backup.place, directory):
        warn(line)
    at = f" at {member.name}" if member.name else ""
    for line in backup.place.about():
        say(f"Found{at}: {line}")
    latency = backup.commit_latency()
    say(f"A commit takes {latency * 1000:.1f} ms{at or ' there'}.")
    if latency > SLOW_COMMIT and not member.trailing:
        warn(
            f"a payment makes about {CALLS_PER_PAYMENT:.0f} commits, so it waits about "
            f"{latency * CALLS_PER_PAYMENT:.1f} s for {f'the member {member.name}' if at else 'this destination'}. A "
            "faster one would be better; to measure more, run: backup-cli drill URL"
        )
    return latency


def _would_encrypt(directory: Path, encrypt: Encrypt | None, there: NodeDatabase) -> list[str]:
    return [] if encrypt is None else would_open(directory, encrypt, there.node_id, may_wait=True)


def _would_make(directory: Path, url: str) -> str:
    path = database_path(directory)
    state = _state(directory, writable=False)
    if state is None:
        return f"create an empty backup at {url}"
    holds = f"version {state.data_version or 0}, {size(path.stat().st_size)}"
    return f"create a backup at {url}, with a snapshot of {path} ({holds})"


@contextmanager
def _database(directory: Path, scratch: Path) -> Iterator[SnapshotSource]:
    """What the new backup begins with: the node's database, or nothing."""
    if _state(directory, writable=True) is None:
        yield nothing()
        return
    path = database_path(directory)
    with (
        snapshot_source(path, scratch) as source,
        progress(f"Writing the snapshot of version {source.data_version}") as show,
    ):
        yield watched(source, show)


def _state(directory: Path, *, writable: bool) -> DatabaseState | None:
    """The state of the node's database; None when there is none yet. Raises BackupError if it is not lightningd's."""
    path = database_path(directory)
    if path.is_symlink() and not path.exists():
        raise BackupError(
            f"{path} is a link to {path.readlink()}, and nothing is there: is the disk that holds the database "
            "mounted? Nothing was created; mount it, then try again"
        )
    if not path.exists() or path.stat().st_size == 0:
        say(f"There is no database in {directory} yet: the backup begins empty, with the node's first start.")
        if (directory / "hsm_secret").exists():
            warn(
                "hsm_secret is there, so this node may have run before. If a backup of it exists, do not start it "
                "empty, or it loses its channels: bring its database back first, with backup-cli restore"
            )
        return None
    state = inspect(path, writable=writable)
    if not state.is_lightningd:
        raise BackupError(
            f"{path} is not a lightningd database (its tables are missing). Nothing was created; check --lightning-dir"
        )
    tell_unknown_schema(state.unknown_objects)
    return state
