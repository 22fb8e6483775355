"""What `backup-cli restore` says: the plan beforehand, the summary and the rules afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends import backup_at
from backends.errors import BackupError
from backends.keyring import init_command
from backends.log.backup import Backup
from backends.log.format.documents import Kept
from backends.log.status import Status
from backends.node.directory import DATABASE
from backends.node.lockfile import LOCK_FILE, read_settings
from backends.node.pairing import BackupEnd
from backends.node.present import end_of_backup, inspect_node, pair_at
from backends.sqlite.rebuild import Rebuilt
from backends.text import counted
from backup_cli.console import moment, moment_ago, say, say_row, size, warn
from backup_cli.findings import Finding, Level
from backup_cli.pairing_text import finding
from backup_cli.restore_attached import PutBack, about_emergency, about_emergency_elsewhere, files_document, files_line
from backup_cli.secret_text import about_secret, warn_of_secret
from backup_cli.seen_members import newest_url
from backup_cli.waiting import answered
from plugin.foresight import brings_forward

IF_THE_NODE_LIVES = (
    "If the node's own disk is alive, do not start a node from this: start that one, which completes the backup. If it "
    "is lost, this is the newest state that there is"
)
"""What a restore from a backup that is known to be damaged, or in doubt, must tell."""

WHY_OLD_IS_DEADLY = (
    "A node that runs from it shows its peers channel states that have been revoked since; a peer may then take "
    "everything in the channel, and the protocol lets it"
)


def tell_plan(seen: Status, target: Path, to_version: int | None) -> None:
    """Say what will be restored: which backup and version, how old, how large, and to where."""
    origin = f"{seen.url} (generation {seen.generation}, {size(seen.snapshot_bytes + seen.segment_bytes)})"
    tell_plan_of(origin, seen.data_version, "saved", seen.last_change, target, to_version)


def tell_plan_of_kept(url: str, kept: Kept, target: Path, to_version: int | None) -> None:
    """Say what will be restored from the kept generation, which a newer one has replaced."""
    origin = f"{url} (generation {kept.manifest.generation}, which was replaced and is kept)"
    tell_plan_of(origin, kept.data_version, "replaced", kept.since, target, to_version)


def tell_plan_of(origin: str, holds: int, since: str, when: float, target: Path, to_version: int | None) -> None:
    """Say what will be restored from `origin`, which holds versions up to `holds`. `since` says what happened at `when`
    (seconds since 1970), such as "saved"."""
    say_row("from", origin, 9)
    if to_version is None:
        say_row("version", f"{holds}, {since} {moment_ago(when)}", 9)
    else:
        say_row("version", f"{to_version}, of {holds} that it holds", 9)
    say_row("to", str(target), 9)


def tell_summary(target: Path, rebuilt: Rebuilt, aside: list[Path], older: bool) -> None:
    """Say what was restored, and what to know about it. The caller then prints the path to stdout.

    `older`: it was restored from a file of the older plugin.
    """
    if rebuilt.torn is not None:
        warn(f"the end of the backup was torn: {rebuilt.torn}")
    if rebuilt.end_unverified is not None:
        warn(rebuilt.end_unverified)
    for path in aside:
        say(f"The old file is kept as {path}")
    last = "from a file last written" if older else "last changed"  # the older plugin's records carry no time
    checked = "integrity checked" if rebuilt.all_checked else _PROVEN
    say(
        f"Restored version {rebuilt.data_version}, {last} {moment(rebuilt.last_time)}, "
        f"{counted(rebuilt.changes, 'change')} replayed, {size(target.stat().st_size)}, {checked}:"
    )


_PROVEN = "integrity checked when its snapshot was made, and now what changed since (all of it: --check)"


def restored_document(
    url: str, target: Path, rebuilt: Rebuilt, aside: list[Path], files: Sequence[PutBack], *, resume: bool, old: bool
) -> dict[str, Any]:
    """The result for programs; fields have the same names as in `status --json`."""
    return {
        "path": str(target),
        "restored": True,
        "url": url,
        "node_id": rebuilt.state.node_id,
        "data_version": rebuilt.data_version,
        "last_change": rebuilt.last_time,
        "changes": rebuilt.changes,
        "database_bytes": target.stat().st_size,
        "all_checked": rebuilt.all_checked,
        "torn": rebuilt.torn,
        "end_unverified": rebuilt.end_unverified,
        "aside": [str(path) for path in aside],
        "resumed": resume,
        "for_a_node": not old,
        "files": files_document(files),
    }


def tell_rules(
    url: str,
    target: Path,
    node_id: str | None,
    files: Sequence[PutBack],
    resume: bool,
    older: bool,
    *,
    secret_is_stored: bool,
    restored: Backup | None = None,
) -> None:
    """Say what must be done or known before lightningd is started. `node_id` is the restored node's; `files` is what
    became of the files beside the database, empty if that is not in a node's directory. Then `restored`, the backup at
    `url`, is asked what it holds of them."""
    emergency = about_emergency(target.parent, files)
    if restored is not None and not files:
        emergency = [about_emergency_elsewhere(url, restored)]
    secret = warn_of_secret(target.parent, node_id, "the restored database")
    if files:
        say(files_line(target.parent, files))
    say(
        "",
        "Before you start lightningd:",
        f"  - {about_secret(target.parent, secret, secret_is_stored)}",
        *(f"  - {line}" for line in emergency),
        "  - The old node must never run again: two nodes with the same keys lose money. Unplug its disk; keep it.",
        "  - Never start from an older copy than this one: a peer may punish it and take everything.",
    )
    if target.name != DATABASE:
        say(
            f"  - lightningd does not see this file: it only looks for {DATABASE} in its network directory. Move it "
            "there, or restore again with that directory as DEST."
        )
    if resume:
        say(f"  - backup.lock is written: with the important-plugin line in place the node goes on with {url}.")
    elif target.name == DATABASE and (target.parent / LOCK_FILE).exists():
        say(f"  - {_lock_before(url, target.parent)}")
    elif older:
        say(f"  - The restored node has no backup yet: run `{init_command()}` with a new URL.")
    else:
        say(
            f"  - The restored node has no backup yet: run `{init_command()}` with a new URL, or restore with --resume."
        )


def _lock_before(url: str, directory: Path) -> str:
    """Whether the restored node can go on with the backup that an already existing backup.lock names."""
    try:
        settings = read_settings(directory)
    except BackupError as error:
        return f"backup.lock was there before, and the node does not start with it: {error}"
    same = any(named.partition("?")[0] == url.partition("?")[0] for named in settings.urls)
    which = "" if same else f" and names another backup than this: {' and '.join(settings.urls)}"
    try:
        found = as_check_config_says(directory)
    except (BackupError, OSError) as error:
        return (
            f"backup.lock was there before, and is kept{which}. Nobody can tell now whether the node can go on with "
            f"the backup that it names ({error}): before the first start, run: backup-cli check-config"
        )
    if found.level is Level.PROBLEM:
        return (
            f"backup.lock was there before, and is kept{which}. THE NODE DOES NOT START WITH IT: {found.text}. For the "
            "node to go on with the backup that this was restored from, restore with --resume."
        )
    told = "the node goes on with the backup that it names." if not which else f"with that one: {found.text}."
    return f"backup.lock was there before, and is kept{which}; {told}"


def as_check_config_says(directory: Path) -> Finding:
    """The finding that check-config makes about the database and the backup that backup.lock names.

    Raises BackupError or OSError when the two cannot be compared.
    """
    settings = read_settings(directory)
    if settings.backup_id is None:
        raise BackupError("backup.lock is the older plugin's")
    url = newest_url(settings)
    backup = backup_at(url)
    database, found = inspect_node(directory), answered(url, backup.id)
    end = BackupEnd(found, None, 0, False, False, 0, None)
    if found == settings.backup_id:
        end = end_of_backup(backup, url)
    pairing = pair_at(directory, settings, end, database)
    return finding(pairing, url, directory, lambda: brings_forward(directory, backup))
