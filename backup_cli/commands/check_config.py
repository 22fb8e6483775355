"""`backup-cli check-config`: tells whether this node is really protected."""

from collections.abc import Iterator
from pathlib import Path

import click

from backends.errors import BackupError
from backends.text import counted
from backup_cli import as_owner
from backup_cli.checks.backup import check_backup
from backup_cli.checks.config import (
    check_database,
    check_files,
    check_network,
    check_notify,
    check_owners,
    check_wallet,
)
from backup_cli.checks.environment import check_environment
from backup_cli.checks.plugin import check_plugin
from backup_cli.checks.secret import check_hsm_secret
from backup_cli.console import show_line, show_row
from backup_cli.findings import Finding, Level, problem
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.node_config import read_config
from backup_cli.options import lightning_dir
from backup_cli.waiting import asked_once

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@click.command("check-config", short_help="Whether the node is really protected, and what to type if not.")
@lightning_dir
@click.option(
    "--conf",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    help="lightningd's config file, if it is started with --conf.  [default: the usual ones]",
)
@json_option
def check_config(lightning_dir: Path, conf: Path | None, as_json: bool) -> None:
    """Say whether the node is really protected, and what to type where it is not.

    Reads lightningd's configuration and backup.lock, starts the plugin in an empty directory, and looks at the backup.
    Changes nothing; a running node is not disturbed. Exits with 1 if there is a problem; a warning is not one.
    """
    directory = as_owner.node_directory(lightning_dir)
    as_owner.refuse_anothers(None if conf is None else conf.parent)
    with asked_once():
        _check(directory, conf, as_json)


def _check(directory: Path, conf: Path | None, as_json: bool) -> None:
    problems = 0
    if as_json:
        _hand_out(list(_findings(directory, conf)))
        return
    for finding in _findings(directory, conf):
        level = (f"{finding.level.value:<8} ", _COLOURS[finding.level])
        show_row(finding.about, finding.text, max(15, len(finding.about) + 1), level=level)
        problems += finding.level is Level.PROBLEM
    if problems:
        show_line(f"NOT protected: {counted(problems, 'problem')}", bold=True)
        raise click.exceptions.Exit(1)
    show_line("protected", bold=True)


def _hand_out(findings: list[Finding]) -> None:
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    listed = [{"level": each.level.value, "about": each.about, "text": each.text} for each in findings]
    hand_out_result({"protected": not problems, "problems": problems, "findings": listed})
    if problems:
        raise click.exceptions.Exit(1)


def _findings(directory: Path, conf: Path | None) -> Iterator[Finding]:
    pid = None
    try:
        config = read_config(directory, conf)
    except BackupError as error:
        yield problem("config", str(error))
    else:
        yield from check_files(config)
        yield from check_network(config)
        yield from check_plugin(config)
        yield from check_wallet(config)
        yield from check_database(config)
        yield from check_hsm_secret(config)
        yield from check_owners(config)
        yield from check_notify(config)
        pid = config.pid
    yield from check_environment(directory, pid)
    yield from check_backup(directory)
