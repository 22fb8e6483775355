"""Which database lightningd is told to use: this plugin only protects the file in the network directory.

`wallet=sqlite3://MAIN:REPLICA` names two files; lightningd overwrites the second one at each start.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from backends.errors import BackupError
from backends.node.config_files import Setting, read_settings
from backends.node.directory import DEFAULT_DIRECTORY, NETWORKS, database_path, expanded
from backends.text import shell_line

_SQLITE = "sqlite3://"
_LIGHTNINGD = "lightningd"


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a `wallet` setting says."""

    where: str
    """Where it was set, in words, for the person who must change it."""
    scheme: str
    main: Path | None = None
    """The database that the node runs from; None when it is not an SQLite file."""
    replica: Path | None = None


def wallet_of(setting: Setting, directory: Path) -> Wallet:
    """What this setting means for a lightningd that works in `directory`, where relative paths begin."""
    if not setting.value.startswith(_SQLITE):
        return Wallet(setting.where, setting.value.partition("://")[0])
    main, _, replica = setting.value.removeprefix(_SQLITE).partition(":")
    return Wallet(setting.where, "sqlite3", directory / main, directory / replica if replica else None)


def same_file(one: Path, other: Path) -> bool:
    """Whether both names lead to one file, with its journal beside it.

    Only symbolic links are followed: SQLite keeps the journal beside the file that such a link leads to, but a second
    name of one file (a hard link or a bind mount) has its journal elsewhere.
    """
    return one.resolve() == other.resolve()


def wallet_elsewhere(directory: Path) -> Wallet | None:
    """The SQLite database of the lightningd that has started this process, if it is not the one in `directory`.

    Taken from lightningd's command line and config files; None also when these cannot be read, or say nothing.
    """
    with suppress(BackupError, OSError, RuntimeError):  # RuntimeError: a user without a home
        arguments = _arguments_of_lightningd()
        _, settings = read_settings(_as_lightningd_names_it(directory, arguments), arguments)
        named = [setting for setting in settings if setting.name == "wallet"]
        wallet = wallet_of(named[-1], directory) if named else None
        if wallet is not None and wallet.main is not None and not same_file(wallet.main, database_path(directory)):
            return wallet
    return None


def _as_lightningd_names_it(directory: Path, arguments: list[str]) -> Path:
    """The directory under the name that lightningd uses: the config file is in that name's own parent."""
    bases = [Path(word.partition("=")[2]) for word in arguments if word.startswith("--lightning-dir=")]
    bases += [Path(after) for word, after in pairwise(arguments) if word == "--lightning-dir"]
    for base in (*bases, expanded(DEFAULT_DIRECTORY)):
        for network in NETWORKS:
            if same_file(base / network, directory):
                return base / network
    return directory


def _arguments_of_lightningd() -> list[str]:
    """The arguments of the lightningd above this process, even with a script in between."""
    try:
        for process in psutil.Process().parents():
            words = process.cmdline()
            name = Path(words[0]).name if words else ""
            if process.name().startswith(_LIGHTNINGD) or name.startswith(_LIGHTNINGD):
                return words[1:]
    except psutil.Error:
        return []
    return []


def put_it_here(wallet: Wallet, database: Path) -> str:
    """What to do to get the node's database where this plugin protects it, as sentences."""
    assert wallet.main is not None
    moved = ("mv", wallet.main, database)
    journal = ("mv", f"{wallet.main}-journal", f"{database}-journal")
    aside = f"move {database} aside (it is another file); then " if database.exists() else ""
    kept = "" if wallet.replica is None or same_file(wallet.replica, database) else f":{wallet.replica}"
    line = f"write wallet=sqlite3://{database}{kept}" if kept else "remove the wallet setting"
    return (
        f"Stop lightningd, {aside}bring the node's database here: {shell_line(*moved)}, and if there is a journal "
        f"beside it, {shell_line(*journal)}; and {line} ({wallet.where})"
    )
