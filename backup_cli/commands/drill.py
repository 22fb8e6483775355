"""`backup-cli drill`: rehearses a real restore, with a recorded node or with the operator's own backup."""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import click

from backends import backup_at
from backends.confined.work import compare_databases, rebuild_backup
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.node.hand_over import hand_over
from backends.node.hsm_secret import HSM_SECRET
from backends.node.lockfile import read_settings
from backends.node.pairing import Relation
from backends.node.present import end_of_backup, inspect_node, pair_at
from backends.sqlite.connection import error_text
from backends.sqlite.copy import nothing
from backends.system.scratch import scratch_directory, scratch_place
from backends.text import counted
from backends.urls import parse_url
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.console import moment_ago, progress, say, show_line, show_row, size, warn
from backup_cli.drill.lost_node import LostNode
from backup_cli.drill.player import Player, recorded_calls
from backup_cli.drill.report import DrillReport, tell
from backup_cli.finding_keys import find_key
from backup_cli.findings import Level
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.old_age import doubt_of
from backup_cli.options import A_PATH, DRILL_PREFIX, existing_backup, no_limits, show_statements
from backup_cli.pairing_text import finding
from backup_cli.paths import plugin_path
from backup_cli.seen_members import newest_url
from backup_cli.waiting import answered
from plugin.foresight import brings_forward


@click.command(short_help="Rehearse a disaster, and measure the destination.")
@click.argument("url", metavar="[URL]", required=False, shell_complete=offered_urls)
@click.option(
    "--lightning-dir",
    type=A_PATH,
    help="Rehearse with this node's own backup instead, read-only; without a URL, the one in its backup.lock.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt that backup, and restore it with an hsm_secret alone.")
@key_options
@json_option
@show_statements
@no_limits
def drill(url: str | None, lightning_dir: Path | None, encrypt: bool, key: KeyOptions, as_json: bool) -> None:
    """Stream a recorded node to the destination at URL, kill it, restore it, and compare.

    Works in a subdirectory of its own, which is removed afterwards; without a URL, under a temporary directory. With
    --encrypt, the restore has nothing of the recorded node but its hsm_secret, which is made up and thrown away.
    """
    if lightning_dir is not None:
        if encrypt:
            raise click.UsageError("--encrypt is for the recorded node: this node's own backup is as it is")
        _own_backup(url, as_owner.node_directory(lightning_dir), key, as_json)
        return
    if key.named:
        raise click.UsageError(f"{key.named[0]} belongs to --lightning-dir: the recorded node has a key of its own")
    if url is not None:
        as_owner.backup(url)
    with scratch_directory(scratch_place()) as scratch:
        seen = _recorded_node(scratch, url or _drill_url(scratch), encrypt)
    if as_json:
        hand_out_result(seen.as_json())
    else:
        tell(seen)
    if seen.differences:
        raise click.exceptions.Exit(1)


def _drill_url(scratch: Path) -> str:
    """The URL of the temporary directory. A container's layer is accepted, since the backup is soon removed again."""
    layer = lifetime_of(scratch) is Lifetime.LAYER
    return f"{scratch.as_uri()}?ephemeral=accepted" if layer else scratch.as_uri()


def _recorded_node(scratch: Path, url: str, encrypt: bool) -> DrillReport:
    node, restored = scratch / "node", scratch / "restored.sqlite3"
    node.mkdir()
    calls = recorded_calls()
    with _destination(url) as (place, backup):
        say(f"A recorded node backs up to {place}{', encrypted' if encrypt else ''}")
        lost = LostNode(scratch, node) if encrypt else None
        position = backup.create(nothing(), encrypt=None if lost is None else lost.store_in(backup))
        hand_over(node, place, backup.id(), position)
        latencies = _stream(node, calls)
        if lost is not None:
            lost.open_again(place)
        with backup.read() as reader:
            snapshot, of_snapshot = reader.snapshot.size(), reader.manifest.base.data_version
        began = time.perf_counter()
        with progress("Restoring", _CHECKING) as show:
            outcome = rebuild_backup(place, restored, show)
        took = time.perf_counter() - began
    comparison = compare_databases(restored, node / "lightningd.sqlite3")
    return DrillReport(
        latencies=latencies,
        snapshot=snapshot,
        log=outcome.stored - snapshot,
        raw=sum(len(sql.encode()) for call in calls if call["data_version"] > of_snapshot for sql in call["writes"]),
        restore=took,
        version=outcome.rebuilt.data_version,
        database=restored.stat().st_size,
        tables=comparison.tables,
        rows=comparison.rows,
        differences=comparison.differences,
        opened_with=None if lost is None else HSM_SECRET,
    )


_DATABASE = 2
"""The parts of the path of a postgres:// URL that names no backup in its database: "/" and the database."""


@contextmanager
def _destination(url: str) -> Iterator[tuple[str, Backup]]:
    """A new backup in a place of its own below what the URL names (in PostgreSQL beside it); removed afterwards."""
    base, query, options = url.partition("?")
    # A stick alone (usb://STICK) is enough here.
    named = parse_url(f"{base.rstrip('/')}/{query}{options}")
    if named.scheme == "postgres" and len(named.path.parts) > _DATABASE:  # a backup in a database has nothing below it
        named = replace(named, path=named.path.parent)
    place = str(named.below(f"{DRILL_PREFIX}{secrets.token_hex(4)}"))
    backup = backup_at(place)
    answered(place, backup.check_new)
    try:
        yield place, backup
    finally:
        backup.remove()


def _stream(node: Path, calls: list[dict[str, Any]]) -> list[float]:
    """Play all calls; half way, kill plugin and node (-9) in the middle of a call, then start both again.

    If the backup had that call's change, the plugin rolls the database forward at its start; else the call is sent
    again. Returns the seconds that each call took.
    """
    half = len(calls) // 2
    latencies: list[float] = []
    player = Player(node, _plugin())
    try:
        with progress(f"Streaming {len(calls)} changes") as show:
            for number, call in enumerate(calls):
                if number == half:
                    player.play_and_die(call)
                    say("Killed plugin and node (-9) in the middle of a write; starting again …")
                    player = Player(node, _plugin())
                    if player.has(call):  # saved before the kill, so the plugin has rolled the node's database forward
                        continue
                latencies.append(player.play(call))
                show(number + 1, len(calls))
        player.stop()
    except apsw.Error as error:
        raise BackupError(
            f"the recorded node's own database in {node.parent.parent} could not be written: {error_text(error)}. That "
            "says nothing about the destination; free some space there, or name another directory with TMPDIR, then "
            "try again"
        ) from error
    finally:
        player.kill()
    return latencies


_CHECKING = "Checking the restored database"


def _plugin() -> list[str]:
    installed = plugin_path()
    return [installed] if Path(installed).exists() else [sys.executable, "-m", "plugin.main"]


def _own_backup(given: str | None, directory: Path, key: KeyOptions, as_json: bool) -> None:
    """Restore the operator's own backup to a temporary directory, and say how long a real restore would take."""
    settings = read_settings(directory)
    find_key(given or settings.urls, key, [directory])
    url, backup = existing_backup(given or newest_url(settings))
    if settings.backup_id not in (None, backup.id()):
        warn(
            f"{url} is not the backup that this node's backup.lock names ({' and '.join(settings.urls)}): it may be old"
        )
    began = time.monotonic()
    with scratch_directory(scratch_place()) as scratch:
        with progress("Restoring", _CHECKING) as show:
            outcome = rebuild_backup(url, scratch / "rehearsed.sqlite3", show)
        rebuilt = outcome.rebuilt
        if rebuilt.state.empty:
            raise BackupError(
                f"{url} holds no database yet, so there is nothing to rehearse: the node has never started with it. If "
                "the node does run, it runs without the plugin: backup-cli check-config"
            )
    took = time.monotonic() - began
    pairing = pair_at(directory, settings, end_of_backup(backup, url), inspect_node(directory))
    found = finding(pairing, url, directory, lambda: brings_forward(directory, backup))
    if as_json:
        hand_out_result(
            {
                "url": url,
                "backup_id": backup.id(),
                "data_version": rebuilt.data_version,
                "last_change": rebuilt.last_time,
                "stored_bytes": outcome.stored,
                "changes": rebuilt.changes,
                "database_bytes": outcome.size,
                "restore_seconds": took,
                "torn": rebuilt.torn,
                "database": {"level": found.level.value, "text": found.text},
            }
        )
        return
    rows = [
        ("backup", f"{url}, {size(outcome.stored)}"),
        ("restored", f"version {rebuilt.data_version}, last changed {moment_ago(rebuilt.last_time)}"),
        ("checked", f"{counted(rebuilt.changes, 'change')} replayed, {size(outcome.size)}, integrity ok"),
        ("took", f"{took:.1f} s; nothing was touched, and the restored copy is removed again"),
        *([("torn end", rebuilt.torn)] if rebuilt.torn is not None else []),
    ]
    for name, value in rows:
        show_row(name, value, 16)
    if found.level is not Level.OK:
        warn(found.text)
    old = None if pairing.relation is Relation.RUNNING else doubt_of(backup, rebuilt.last_time, before_restore=True)
    if old is not None:
        warn(old)
    show_line("Verdict: this backup can be restored. Do you also have hsm_secret somewhere safe?")
