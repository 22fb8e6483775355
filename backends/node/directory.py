"""Which directory is the node's: the network directory, which holds `lightningd.sqlite3` and `backup.lock`."""

import os
from pathlib import Path

from backends.errors import BackupError
from backends.mounts.missing import is_it_mounted
from backends.text import shell_word

DEFAULT_DIRECTORY = Path("~/.lightning")
"""Where lightningd keeps everything by default."""

DATABASE = "lightningd.sqlite3"

NETWORKS = (
    "bitcoin",
    "testnet",
    "testnet4",
    "signet",
    "regtest",
    "litecoin",
    "litecoin-testnet",
    "liquid",
    "liquid-regtest",
)
"""A network directory always has the name of its network."""

# Files that show that a directory is a node's, the surest sign first.
_SIGNS = (DATABASE, "hsm_secret", "backup.lock")

CONFIG = "config"
"""The name of lightningd's config file. It is above the network directory; there may be another one in it."""


def network_directory(path: Path = DEFAULT_DIRECTORY, *, new: bool = False) -> Path:
    """The network directory that `path` means: `path` itself, or the only network directory in it.

    A database counts more than an `hsm_secret`, and either counts more than a mere name, so that an empty `regtest`
    does not hide the `bitcoin` that holds a node. Nothing is created. The result is absolute and keeps its symbolic
    links, because lightningd's pid file is beside the link.

    `new` is for a node that was never started: a directory of any name is then accepted, unless a config file in it
    shows that it is the one above the network directory. `looks_like_a_nodes` tells whether that was a guess.

    Raises BackupError when there is no such directory, no network directory, or more than one.
    """
    directory = _existing(path)
    inside = [directory / name for name in NETWORKS if (directory / name).is_dir()]
    for sign in _SIGNS:
        if (directory / sign).exists():
            return directory
        holding = [choice for choice in inside if (choice / sign).exists()]
        if holding:
            return _only(directory, holding)
    if directory.name in NETWORKS:
        return directory
    if inside:
        return _only(directory, inside)
    if new and not (directory / CONFIG).exists():
        return directory
    raise BackupError(
        f"{directory} is not a node's directory: it holds no {DATABASE} and no directory named after a network "
        f"(such as {NETWORKS[0]}); nothing was changed. Name the directory that lightningd works in with "
        f"--lightning-dir, usually ~/.lightning/bitcoin; for a node that has never been started, make that directory "
        "first, with: mkdir -m 700 DIR"
    )


def looks_like_a_nodes(directory: Path) -> bool:
    """Whether the directory's name or content shows that lightningd works, or will work, in it."""
    return directory.name in NETWORKS or any((directory / sign).exists() for sign in _SIGNS)


def database_path(directory: Path) -> Path:
    """Where lightningd keeps its database in this network directory; the file need not exist yet."""
    return directory / DATABASE


def expanded(path: Path) -> Path:
    """`path` with `~` replaced; unchanged for a user without a home (no account name, and HOME not set)."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _existing(path: Path) -> Path:
    """`path`, made absolute. BackupError when it is missing, not a directory, or not readable by this user."""
    asked = ""
    try:
        path = path.expanduser()
        path = path.resolve() if ".." in path.parts else path.absolute()
        with os.scandir(path) as entries:
            next(entries, None)
    except FileNotFoundError:
        asked = is_it_mounted(path)
        problem, remedy = (
            "does not exist",
            "if the node has never been started, make the directory that lightningd will work in first, with: mkdir -p "
            "-m 700 ~/.lightning/bitcoin; otherwise name the one that it works in",
        )
    except NotADirectoryError:
        problem, remedy = "is not a directory", f"name the directory that holds {DATABASE}"
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem, remedy = f"cannot be read ({reason})", "run this as the user that lightningd runs as, and name it"
    else:
        return path
    raise BackupError(
        f"the node's directory {path} {problem}; nothing was changed: {remedy} with --lightning-dir{asked}"
    )


def _only(directory: Path, choices: list[Path]) -> Path:
    if len(choices) == 1:
        return choices[0]
    listed = ", ".join(shell_word(choice) for choice in choices)
    raise BackupError(
        f"{directory} holds several nodes, and each needs a backup of its own; nothing was changed: "
        f"repeat this with --lightning-dir and one of {listed}"
    )
