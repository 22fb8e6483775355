"""What must be right at a session's first call, before the backup is taken over. The checks change nothing in it."""

import secrets
from pathlib import Path

from backends.base import LastWriter, Report, SnapshotSource
from backends.change import ahead
from backends.errors import BackupError, NotABackup, Unreachable
from backends.keyring import init_command
from backends.log.backup import Backup
from backends.log.facts import Facts
from backends.node.copied import may_have_gone_its_own_way
from backends.node.directory import database_path
from backends.node.following import why_following
from backends.node.lockfile import LOCK_FILE, Settings
from backends.node.memory import Memory, remembered
from backends.node.memory_text import BOTH_OLDER, NOT_ITS_OWN, what_is_wrong
from backends.node.session import known_sessions, remember_sessions
from backends.node.sync_point import Fingerprint
from backends.node.wallet import put_it_here, wallet_elsewhere


def check_database_is_here(directory: Path) -> None:
    """Refuse a node whose database is not the file in its network directory: this plugin would not protect it.

    A file that is there anyway is another one, perhaps an old copy. When lightningd makes its first call, it has opened
    its database, or created it.
    """
    database = database_path(directory)
    wallet = wallet_elsewhere(directory)
    if wallet is not None:
        raise BackupError(
            f"lightningd keeps its database in {wallet.main} (wallet, {wallet.where}), but this plugin protects "
            f"{database}. Nothing was saved, nothing committed, and no file was changed. "
            f"{put_it_here(wallet, database)}"
        )
    if not database.exists():
        raise BackupError(
            f"lightningd has no database at {database}, the only one that this plugin protects: it is set to another "
            "one (wallet, in its config file or on its command line). Nothing was saved, nothing committed, and no "
            "file was changed. Stop lightningd, move its database there (with its -journal, if there is one), and "
            "remove the wallet setting"
        )
    following = why_following(database)
    if following is not None:
        raise BackupError(f"{following}. Nothing was saved, and nothing committed")


def identified(directory: Path, settings: Settings, backup: Backup) -> Facts:
    """What the backup says about itself. Raises BackupError, also when it is not this node's backup."""
    try:
        seen = backup.look()
    except (NotABackup, Unreachable) as error:
        if settings.backup_id is not None:
            raise
        raise BackupError(
            f"{directory / LOCK_FILE} was written by the older backup plugin, and what it names is not "
            f"a backup of this one: {error}. Nothing was changed; stop the node and run: backup-cli init URL, with a "
            "new URL"
        ) from error
    if settings.backup_id is not None and settings.backup_id != seen.backup_id:
        raise BackupError(
            f"backup.lock expects the backup {settings.backup_id}, but {settings.url} holds {seen.backup_id}: it "
            f"belongs to another node, or was created again. Nothing was changed; put the right one back; "
            f"{_if_lost(directory)}"
        )
    return seen


def _if_lost(directory: Path) -> str:
    """What to do if the backup is lost. On the worst day, a new backup of an empty database would be of no use."""
    try:
        lives = database_path(directory).stat().st_size > 0
    except OSError:
        lives = False
    if lives:
        return f"if it is lost for good, make a new one: {init_command()}, with a new URL"
    return (
        "there is no database here, so only that backup can bring the node back: look for it on every disk, and run: "
        "backup-cli restore --resume URL DEST"
    )


def check_last_writer(directory: Path, backup: Backup, seen: Facts) -> LastWriter | None:
    """The last writer, if there was one. BackupError when that was never this node."""
    last, ours = seen.last_writer, known_sessions(directory, seen.backup_id)
    if last is not None and ours is not None and last.session_id not in ours:
        raise BackupError(
            f"another node ({last.host}) has taken over the backup at {backup.describe()} since this one last "
            "wrote to it. If that one is in use, never start this one again: two nodes with the same keys lose "
            "money. Only if this database is surely the newest, run: backup-cli resync"
        )
    return last


def ask_memory(directory: Path, backup: Backup, seen: Facts, database: int, report: Report) -> None:
    """Compare the end of the backup with what this node remembers; `database` is the version of its database.

    What is not as the node left it is reported. BackupError when nothing here is as new as what the node had
    acknowledged, or when the backup is ahead of the database by changes that are not this node's.
    """
    position = seen.end
    memory = remembered(directory, seen.backup_id, position, seen.last_writer)
    if memory.verdict is Memory.AGREES:
        return
    wrong = what_is_wrong(memory, backup.describe(), position.data_version)
    here = f"the database is at version {database}"
    if memory.verdict is Memory.OLDER and ahead(memory.version, database) > 0:
        raise BackupError(f"{wrong}; and {here}. Nothing was changed. {BOTH_OLDER}")
    if memory.verdict is not Memory.OLDER and ahead(position.data_version, database) > 0:
        raise BackupError(
            f"{wrong}; {here}. Nothing was changed. {NOT_ITS_OWN}. Only if this database is surely the state that the "
            "node last ran from, make the backup hold it (what is there now is kept for a week): backup-cli resync "
            f"--discard-newer {position.data_version}"
        )
    report("broken", f"{wrong}. The database is not older than what the node remembers; a new snapshot of it is taken")


def check_beginning_anew(directory: Path, backup: Backup, seen: Facts, database: Fingerprint | None) -> None:
    """Refuse a new snapshot by a directory that did not write last, and that may be a copy.

    A copied directory whose database has diverged would replace what the other one has acknowledged, or will
    acknowledge. `database` is the database file before lightningd opened it.
    """
    last = seen.last_writer
    if last is not None and may_have_gone_its_own_way(directory, seen.backup_id, last, seen.end, database):
        went_on = "went on after this directory was copied" if last.closed else "has not ended its session"
        raise BackupError(
            f"the node that wrote last to the backup at {backup.describe()} ({last.host}, {last.process}) "
            f"{went_on}, and it did not work in {directory}, which looks like a copy; and this database is not "
            "the one that the backup ends with. Nothing was changed. If that node is in use, never start this one: two "
            "nodes with the same keys lose money. Only if it is off for good and this database is surely the newest, "
            "run: backup-cli resync"
        )


def remember_new_session(directory: Path, backup_id: str, last: LastWriter | None) -> str:
    """The id of the session about to begin: recorded here, durably, before the backup carries it."""
    new = secrets.token_hex(8)
    remember_sessions(directory, backup_id, [*([] if last is None else [last.session_id]), new])
    return new


def check_source(directory: Path, place: str, node_id: str | None, source: SnapshotSource, version: int) -> None:
    """Refuse a copy of the database that is not at the version that lightningd states, or is another node's.

    `node_id` is the node of the backup at `place`, if that is known.
    """
    if source.data_version != version:
        raise BackupError(
            f"lightningd says its database is at version {version}, but the file "
            f"{database_path(directory)} is at {source.data_version}: it is not the one that lightningd "
            "uses. Nothing was changed; is --wallet set to another file?"
        )
    if node_id is not None and source.node_id != node_id:
        raise BackupError(
            f"the database belongs to the node {source.node_id}, but the backup at {place} to "
            f"{node_id}. Nothing was changed; give this node a backup of its own: {init_command()}"
        )
