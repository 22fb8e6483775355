"""Which file is really the node's database: `--wallet=sqlite3://main:replica` names two; it is never the replica."""

import os
from contextlib import suppress
from pathlib import Path

from backends.errors import BackupError
from backends.node.directory import DEFAULT_DIRECTORY, NETWORKS, expanded
from backends.node.wallet import Wallet, put_it_here, same_file, wallet_of
from backends.text import printable, shell_line
from backup_cli.console import warn
from backup_cli.node_config import read_config

_USUAL = (DEFAULT_DIRECTORY, Path("/var/lib/lightning"), Path("/var/lib/lightningd"))
"""Usual node directories: the default, and those of a system service."""


def refuse_other_database(directory: Path, database: Path) -> None:
    """Raise BackupError if a lightningd config says that `database` is a replica, or that the node in `directory` uses
    another file.

    lightningd overwrites a replica at each start; a backup must be made of the database that the node runs from.
    """
    refuse_other_main(directory, database)
    for place in _usual_places():
        wallet = None
        with suppress(BackupError, OSError):  # another node's config, which may be unreadable for this user, or wrong
            wallet = _wallet(place)
        replica = None if wallet is None else wallet.replica
        if place != directory and replica is not None and same_file(replica, database):
            raise BackupError(
                f"{database} is the replica of the node in {place}, which lightningd overwrites; nothing was created. "
                f"Name the directory of the node itself: {shell_line('--lightning-dir', place)}"
            )
    if database.exists() and directory.name not in NETWORKS and not (directory / "hsm_secret").exists():
        warn(
            f"there is no hsm_secret next to {database}: make sure that this is the node's own database, and not a "
            "replica or copy of it"
        )


def refuse_other_main(directory: Path, database: Path) -> None:
    """Raise BackupError if the config of the node in `directory` says that its database is not the file `database`."""
    wallet = _wallet(directory)
    if wallet is None:
        return
    if wallet.main is None:
        raise BackupError(
            f"{wallet.where} names a database ({printable(wallet.scheme)}) whose changes lightningd does not pass to "
            "plugins, so this one would stop the node. Nothing was created; back that database up with its own tools "
            "(docs/choosing.md)"
        )
    if same_file(wallet.main, database):
        return
    is_replica = wallet.replica is not None and same_file(wallet.replica, database)
    only = " is only the replica, which lightningd overwrites" if is_replica else " is another file"
    raise BackupError(
        f"the config of the node in {directory} says that its database is {wallet.main}: {database}{only}. Nothing was "
        f"created. This plugin protects the file in the node's directory. {put_it_here(wallet, database)}"
    )


def warn_of_other_main(directory: Path, database: Path) -> None:
    """Warn, after a restore, if lightningd would run from a file other than the restored one."""
    with suppress(BackupError, OSError):  # check-config reports a config that is wrong in other ways
        wallet = _wallet(directory)
        if wallet is not None and wallet.main is not None and not same_file(wallet.main, database):
            warn(
                f"{wallet.where} sets wallet, so lightningd runs from {wallet.main}, and NOT from the restored "
                f"database, {database}. Do not start it like this: {wallet.main} is an old state, or an empty one. "
                "Remove that setting"
            )


def _usual_places() -> list[Path]:
    """The network directories below the usual home of a node, as far as this user may look there.

    `sudo -u` may leave root's HOME in the environment of a user who may not enter it.
    """
    homes = [expanded(home) for home in _USUAL]
    return [home / network for home in homes for network in NETWORKS if os.path.isdir(home / network)]  # noqa: PTH112


def _wallet(directory: Path) -> Wallet | None:
    """The `wallet` setting in the node's config; None when there is none."""
    setting = read_config(directory, None).last("wallet")
    return None if setting is None else wallet_of(setting, directory)
