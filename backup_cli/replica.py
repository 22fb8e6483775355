"""Which file the node's database really is: `--wallet=sqlite3://main:replica` names two, and the replica is not it."""

from pathlib import Path

from backends.errors import BackupError
from backends.node.directory import DEFAULT_DIRECTORY, NETWORKS
from backup_cli.console import warn
from backup_cli.node_config import read_config

_SCHEME = "sqlite3://"


def refuse_other_database(directory: Path, database: Path) -> None:
    """Refuse when a lightningd config says that `database` is a replica, or that the node in `directory` uses another.

    A replica is overwritten by lightningd at each start; a backup must be made of the database that the node runs from.
    """
    for place in (directory, *_default_places()):
        main, replica = _wallet(place)
        if replica is not None and _same(replica, database):
            raise BackupError(
                f"{database} is the replica of {main}, which lightningd overwrites; nothing was made. Name the "
                f"directory of the node itself: --lightning-dir {place}"
            )
        if place == directory and main is not None and not _same(main, database):
            raise BackupError(
                f"the config of the node in {directory} says that its database is {main}, and this plugin protects "
                f"{database}. Nothing was made; move the database there and take the wallet line out of the config"
            )
    if database.exists() and directory.name not in NETWORKS and not (directory / "hsm_secret").exists():
        warn(f"there is no hsm_secret beside {database}: make sure that this is the node's own database, and no copy")


def _default_places() -> list[Path]:
    home = DEFAULT_DIRECTORY.expanduser()
    return [home / network for network in NETWORKS if (home / network).is_dir()]


def _wallet(directory: Path) -> tuple[Path | None, Path | None]:
    """The main database and the replica that the node's config names, each None when it names none."""
    setting = read_config(directory, None).last("wallet")
    if setting is None or not setting.value.startswith(_SCHEME):
        return None, None
    main, _, replica = setting.value.removeprefix(_SCHEME).partition(":")
    return directory / main, directory / replica if replica else None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
