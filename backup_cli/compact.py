"""`backup-cli compact`: a compaction now, with the node stopped."""

import socket
from pathlib import Path

import click
import psutil

from backends.base import Backend
from backends.errors import BackupError, Unrestorable
from backends.log.backend import LogBackend
from backup_cli.console import progress, say, size, warn
from backup_cli.noting import damage_noted
from backup_cli.options import chown_needed, existing_backup, local_directory, url_argument
from backup_cli.verify import scratch_place


@click.command()
@url_argument
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the whole database lies meanwhile.  [default: TMPDIR, or /var/tmp]",
)
def compact(url: str, scratch: Path | None) -> None:
    """Fold the backup's history into a new snapshot. Stop the node first; a running one compacts by itself."""
    url, backend = existing_backup(url)
    assert isinstance(backend, LogBackend)
    _refuse_if_written(url, backend)
    _refuse_if_damaged(backend)
    backend.open(lambda level, line: warn(line))
    try:
        before = backend.sizes()
        noted = damage_noted(url, backend, "compaction", backend.manifest.generation)
        with noted, progress("Compacting") as show:
            folded = backend.fold(scratch or scratch_place(), show)
        if folded is None:
            say(f"{url}: there is nothing to fold yet")
            return
        backend.switch_generation(folded)
        after = backend.sizes()
    finally:
        backend.close()
    _warn_of_root(url)
    say(f"{url}: {size(before.snapshot + before.segments)} before, {size(after.snapshot + after.segments)} after")


def _refuse_if_damaged(backend: LogBackend) -> None:
    """What was found may be in the last records, which a compaction leaves as they are."""
    known = backend.known_damage()
    if known is not None:
        raise Unrestorable(
            f"{known.sentence()}. Nothing was changed; a compaction does not end that, but a new snapshot of the "
            "node's database does. The node's next start takes one by itself",
            known.what,
        )


def _warn_of_root(url: str) -> None:
    """What root has made in another user's backup is closed to lightningd."""
    place = local_directory(url)
    command = chown_needed(place, place) if place is not None else None
    if command is not None:
        warn(
            "this was done as root, and the node's user cannot open what is new. Before you start lightningd: "
            f"{command}"
        )


def _refuse_if_written(url: str, backend: Backend) -> None:
    """A plugin of this machine that lives; one on another machine finds its marker, and cannot be seen from here."""
    last = backend.last_writer()
    if last is None or last.closed:
        return
    here = last.host == socket.gethostname()
    if here and psutil.pid_exists(last.pid) and psutil.Process(last.pid).create_time() <= last.started + 60:
        raise BackupError(
            f"a running node (process {last.pid}) writes to {url}; nothing was changed. It compacts by itself when "
            "that is due; to have it now, use: lightning-cli backup-compact"
        )
    if not here:
        warn(f"{url} was last written from {last.host} and not closed there: make sure that no node runs there now")
