"""`backup-cli verify`: proves that a backup can be restored, and can compare it with the stopped node's database."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from backends.confined.work import Outcome, compare_databases
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.ciphertext import check_ciphertext
from backends.node.directory import DEFAULT_DIRECTORY, database_path
from backends.node.key_file import KEY_FILE
from backends.node.lockfile import read_settings
from backends.node.memory import Memory
from backends.node.pairing import Identity, Pairing, Relation
from backends.node.present import end_of_backup, inspect_node, pair_at
from backends.node.running import refuse_if_running
from backends.sqlite.compare import Comparison
from backends.system.scratch import scratch_directory, scratch_place
from backends.text import counted, shell_line
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.consent.schema import accept_schema, demand_known_schema
from backup_cli.console import show_line
from backup_cli.dry_run import dry_run_option
from backup_cli.finding_keys import find_key
from backup_cli.findings import Finding, problem
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.options import (
    A_PATH,
    existing_backup,
    existing_backup_as_owner,
    no_limits,
    show_statements,
)
from backup_cli.ownership import take_over
from backup_cli.pairing_text import finding, remembered_otherwise
from backup_cli.seen_encryption import look_for_encryption
from backup_cli.verify_members import Wishes, verify_members
from backup_cli.verify_slots import warn_of_slots
from backup_cli.verify_stored import PROVED, verify_stored
from backup_cli.verifying import Accept, rebuild, tell_whole, warn_of_attachments, warn_of_earlier, warn_of_kept
from plugin.foresight import brings_forward


@click.command(short_help="Prove that a backup can be restored.")
@click.argument("urls", metavar="[URL]...", nargs=-1, shell_complete=offered_urls)
@click.option(
    "--lightning-dir",
    type=A_PATH,
    help="Also compare with the database of this node, table by table; lightningd must be stopped. Without a URL: "
    "whose backup to verify.  [default then: ~/.lightning]",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False, readable=False),
    help="Where to keep the restored database temporarily.  [default: TMPDIR, or /var/tmp]",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Mend what is damaged in one member of a backup with several from a good one; the node must be stopped.",
)
@key_options
@take_over
@dry_run_option
@accept_schema
@json_option
@show_statements
@no_limits
def verify(
    urls: tuple[str, ...],
    lightning_dir: Path | None,
    scratch: Path | None,
    repair: bool,
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    accepted: bool,
    as_json: bool,
) -> None:
    """Prove that the backup at URL can be restored: every byte is read, every change replayed, the result checked.

    Of a backup with several destinations, name all URLs, or none for the node's own: each member is verified, then they
    are compared, and for every damaged file the member with the good copy is named.

    Without its key, only the stored bytes of an encrypted backup can be checked; that is then said.

    If nothing but the node's backup.key opens an encrypted backup, that is damage, too: the exit code is 3.

    Needs no lock and does not disturb a running node. Changes nothing, except that damage is recorded in the backup,
    and what --repair mends.
    """
    if (dry_run or take_over) and not repair:
        raise click.UsageError("--dry-run and --take-over belong to --repair: without it, nothing is changed")
    own = None
    if not urls:
        own = as_owner.node_directory(lightning_dir or DEFAULT_DIRECTORY)
        urls = read_settings(own).urls
    if len(urls) > 1:
        if lightning_dir is not None and own is None:
            raise click.UsageError("--lightning-dir compares one backup with the database: name one URL, or none")
        wishes = Wishes(scratch, _accepting(accepted), as_json, repair, take_over, dry_run)
        verify_members(urls, own, wishes, key)
        return
    if repair:
        raise click.UsageError("--repair takes a good copy from another member: name all URLs of the backup, or none")
    _verify_one(urls[0], own, lightning_dir, scratch, accepted, key, as_json)


def _refuse_if_running(node: Path, url: str) -> None:
    """Refuse to compare with the database of a node that runs, and say how its backup is verified all the same."""
    try:
        refuse_if_running(node)
    except BackupError as error:
        key = ("--key-file", node / KEY_FILE) if (node / KEY_FILE).exists() else ()
        alone = shell_line("backup-cli", "verify", *key, url)
        raise BackupError(f"{error}. To verify the backup alone, beside the running node, type: {alone}") from error


def _verify_one(
    url: str,
    own: Path | None,
    lightning_dir: Path | None,
    scratch: Path | None,
    accepted: bool,
    key: KeyOptions,
    as_json: bool,
) -> None:
    """`own` is the directory of the node whose backup this is; None if a URL was named."""
    database = None if lightning_dir is None else database_path(as_owner.node_directory(lightning_dir))
    url, backup = existing_backup_as_owner(url) if database is None else existing_backup(url)
    as_owner.refuse_anothers(scratch)
    if database is not None:
        _refuse_if_running(database.parent, url)
        if not database.exists():
            raise BackupError(f"there is no database at {database} to compare with; check --lightning-dir")
    places = [own] if own is not None else [] if database is None else [database.parent]
    encryption = look_for_encryption(backup)
    find_key(encryption, key, places, needed=database is not None, ask=True)
    if encryption.is_closed:
        verify_stored(url, backup, encryption.members, as_json)
        return
    with scratch_directory(scratch or scratch_place()) as directory:
        made = directory / "verified.sqlite3"
        verified = rebuild(url, backup, made, _accepting(accepted))
        if encryption.members:
            check_ciphertext(backup.storage)
        comparison = compare_databases(made, database) if database is not None else None
    if not as_json:
        tell_whole(url, verified)
    warn_of_earlier(backup, verified.generation)
    warn_of_attachments(backup)
    warn_of_kept(backup)
    closed = warn_of_slots(encryption.members)
    if comparison is not None and database is not None:
        pairing = _pairing(url, backup, database.parent)
        _tell_comparison(comparison, _advice(url, backup, database.parent, pairing), as_json)
        if pairing.memory.verdict is not Memory.AGREES:  # the database may be as old as the backup
            raise BackupError(remembered_otherwise(pairing, url, database.parent))
    if as_json:
        hand_out_result({**_document(url, backup, verified, comparison), "only_backup_key_opens": closed})
    if closed:
        raise click.exceptions.Exit(3)


def _accepting(unknown_schema: bool) -> Accept:
    """What is accepted of a rebuilt database: with `unknown_schema`, also objects that no lightningd makes."""

    def accept(url: str, outcome: Outcome) -> None:
        objects = outcome.rebuilt.state.unknown_objects
        demand_known_schema(objects, unknown_schema, url, "every byte is good otherwise")

    return accept


def _document(url: str, backup: Backup, verified: Outcome, comparison: Comparison | None) -> dict[str, Any]:
    """The result for programs; fields have the same names as in `status --json`."""
    rebuilt, known = verified.rebuilt, backup.damage.read()
    return {
        "url": url,
        "contents": PROVED,
        "backup_id": backup.id(),
        "node_id": rebuilt.state.node_id,
        "data_version": rebuilt.data_version,
        "last_change": rebuilt.last_time,
        "generation": verified.generation,
        "stored_bytes": verified.stored,
        "changes": rebuilt.changes,
        "torn": rebuilt.torn,
        "end_unverified": rebuilt.end_unverified,
        "known_damage": None if known is None or known.generation != verified.generation else asdict(known),
        "compared": None if comparison is None else {"tables": comparison.tables, "rows": comparison.rows},
    }


def _tell_comparison(comparison: Comparison, found: Finding, as_json: bool) -> None:
    if not comparison.differences:
        holds = f"{counted(comparison.tables, 'table')}, {counted(comparison.rows, 'row')}"
        if not as_json:
            show_line(f"identical with the node's database: {holds}")
        return
    if as_json:
        differ = BackupError(f"the backup and the node's database differ. {found.text}")
        differ.listed = tuple(comparison.differences)
        raise differ
    for difference in comparison.differences:
        show_line(f"DIFFERENT: {difference}")
    raise BackupError(f"the backup and the node's database differ (above). {found.text}")


def _pairing(url: str, backup: Backup, directory: Path) -> Pairing:
    settings = None
    with suppress(BackupError):  # no backup.lock: then any backup may be compared
        settings = read_settings(directory)
    return pair_at(directory, settings, end_of_backup(backup, url), inspect_node(directory))


def _advice(url: str, backup: Backup, directory: Path, pairing: Pairing) -> Finding:
    """What the next start will do with database and backup, and what is safe to type: what check-config would say."""
    known = pairing.memory.verdict is Memory.AGREES
    if known and pairing.identity is Identity.OURS and pairing.relation is Relation.EQUAL:
        return problem(
            "version",
            f"Both are at version {pairing.database.version}: one of them holds a change that was never committed, or "
            "something other than lightningd has changed the database. If this is the database that the node last "
            "ran with, make the backup hold it with: backup-cli resync",
        )
    return finding(pairing, url, directory, lambda: brings_forward(directory, backup))
