"""`backup-cli check-config`: is this node really protected?"""

from collections.abc import Iterator
from pathlib import Path

import click

from backends.errors import BackupError
from backends.words import counted
from backup_cli import as_owner
from backup_cli.backup_findings import look_at_backup
from backup_cli.config_findings import (
    look_at_files,
    look_at_network,
    look_at_notify,
    look_at_owners,
    look_at_wallet,
)
from backup_cli.console import show_line
from backup_cli.findings import Finding, Level, problem
from backup_cli.node_config import read_config
from backup_cli.options import lightning_dir
from backup_cli.plugin_findings import look_at_plugin
from backup_cli.secret_findings import look_at_secret

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@click.command("check-config", short_help="Whether the node is really protected, and what to type if not.")
@lightning_dir
@click.option(
    "--conf",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    help="lightningd's config file, if it is started with --conf.  [default: the usual ones]",
)
def check_config(lightning_dir: Path, conf: Path | None) -> None:
    """Say whether the node is really protected, and what to type where it is not.

    Reads lightningd's configuration and backup.lock, starts the plugin in an empty directory, and looks at the backup.
    Changes nothing; a running node is not disturbed. Exits with 1 when there is a problem; warnings are none.
    """
    directory, problems = as_owner.node_directory(lightning_dir), 0
    as_owner.refuse_anothers(None if conf is None else conf.parent)
    for finding in _findings(directory, conf):
        show_line(f"{finding.about:<14} {finding.text}", level=(f"{finding.level.value:<8} ", _COLOURS[finding.level]))
        problems += finding.level is Level.PROBLEM
    if problems:
        show_line(f"NOT protected: {counted(problems, 'problem')}", bold=True)
        raise click.exceptions.Exit(1)
    show_line("protected", bold=True)


def _findings(directory: Path, conf: Path | None) -> Iterator[Finding]:
    try:
        config = read_config(directory, conf)
    except BackupError as error:
        yield problem("config", str(error))
    else:
        yield from look_at_files(config)
        yield from look_at_network(config)
        yield from look_at_plugin(config)
        yield from look_at_wallet(config)
        yield from look_at_secret(config)
        yield from look_at_owners(config)
        yield from look_at_notify(config)
    yield from look_at_backup(directory)
