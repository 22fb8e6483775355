"""Which file the node's database really is: `--wallet=sqlite3://main:replica` names two, and the replica is not it."""

from contextlib import suppress
from pathlib import Path

from backends.errors import BackupError
from backends.node.directory import DEFAULT_DIRECTORY, NETWORKS
from backends.words import shell_line
from backup_cli.console import warn
from backup_cli.node_config import read_config

_SCHEME = "sqlite3://"

_USUAL = (DEFAULT_DIRECTORY, Path("/var/lib/lightning"), Path("/var/lib/lightningd"))
"""Where nodes live: by default, and as a service."""


def refuse_other_database(directory: Path, database: Path) -> None:
    """Refuse when a lightningd config says that `database` is a replica, or that the node in `directory` uses another.

    A replica is overwritten by lightningd at each start; a backup must be made of the database that the node runs from.
    """
    _refuse_other_main(directory, database)
    for place in _usual_places():
        replica = None
        with suppress(BackupError, OSError):  # another node's config, which may be closed to this user or wrong
            _, replica = _wallet(place)
        if place != directory and replica is not None and _same(replica, database):
            raise BackupError(
                f"{database} is the replica of the node in {place}, which lightningd overwrites; nothing was made. "
                f"Name the directory of the node itself: {shell_line('--lightning-dir', place)}"
            )
    if database.exists() and directory.name not in NETWORKS and not (directory / "hsm_secret").exists():
        warn(
            f"there is no hsm_secret beside {database}: make sure that this is the node's own database, and no replica "
            "or copy of it"
        )


def _refuse_other_main(directory: Path, database: Path) -> None:
    main, replica = _wallet(directory)
    if main is None or _same(main, database):
        return
    only = " is only the replica, which lightningd overwrites" if replica and _same(replica, database) else " is not it"
    aside = "move that aside, " if database.exists() else ""
    raise BackupError(
        f"the config of the node in {directory} says that its database is {main}: {database}{only}. Nothing was made. "
        f"This plugin protects the file in the node's directory: {aside}move {main} there (node stopped, with its "
        "-journal if there is one), and take that path out of the wallet line"
    )


def _usual_places() -> list[Path]:
    homes = [home.expanduser() for home in _USUAL]
    return [home / network for home in homes for network in NETWORKS if (home / network).is_dir()]


def _wallet(directory: Path) -> tuple[Path | None, Path | None]:
    """The main database and the replica that the node's config names, each None when it names none."""
    setting = read_config(directory, None).last("wallet")
    if setting is None:
        return None, None
    if not setting.value.startswith(_SCHEME):
        raise BackupError(
            f"{setting.where} names a database ({setting.value.partition('://')[0]}) of which lightningd tells plugins "
            "nothing, so this one would stop the node. Nothing was made; protect that database by its own means "
            "(docs/choosing.md)"
        )
    main, _, replica = setting.value.removeprefix(_SCHEME).partition(":")
    return directory / main, directory / replica if replica else None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
