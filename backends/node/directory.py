"""Which directory is the node's: the network directory, where `lightningd.sqlite3` and `backup.lock` lie."""

import os
from pathlib import Path

from backends.errors import BackupError
from backends.text import shell_word

DEFAULT_DIRECTORY = Path("~/.lightning")
"""Where lightningd keeps everything when it is told nothing else."""

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
"""lightningd names a network directory after its network, never otherwise."""

# What shows that a node lives in a directory, the surest sign first.
_SIGNS = (DATABASE, "hsm_secret", "backup.lock")

CONFIG = "config"
"""lightningd's configuration file lies above the network directory (a further one may lie in it)."""


def network_directory(path: Path = DEFAULT_DIRECTORY, *, new: bool = False) -> Path:
    """The network directory that `path` means: itself, or the only one in it.

    A database decides before an `hsm_secret`, and either before mere names, so that an empty `regtest`
    does not stand in the way of the `bitcoin` that holds a node. Nothing is created. The result is
    absolute; a symbolic link stays in it, because lightningd's pid file lies beside the link.

    `new` is for a node that was never started: a directory of any name is then believed to be meant, unless a
    configuration file shows that it is the one above. `looks_like_a_nodes` tells whether that was a guess.

    Raises BackupError when there is no such directory, or no network directory, or more than one.
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
    """Whether its name or what lies in it shows that lightningd works, or will work, in this directory."""
    return directory.name in NETWORKS or any((directory / sign).exists() for sign in _SIGNS)


def database_path(directory: Path) -> Path:
    """Where lightningd keeps its database in this network directory; it need not exist yet."""
    return directory / DATABASE


def expanded(path: Path) -> Path:
    """With `~` replaced, or as it is for a user without a home: one without a name, where HOME is not set either."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _existing(path: Path) -> Path:
    """The directory, absolute. BackupError when it is missing, no directory, or closed to this user."""
    try:
        path = path.expanduser()
        path = path.resolve() if ".." in path.parts else path.absolute()
        with os.scandir(path) as entries:
            next(entries, None)
    except FileNotFoundError:
        problem, remedy = (
            "does not exist",
            "if the node has never been started, make the directory that lightningd will work in first, with: mkdir -p "
            "-m 700 ~/.lightning/bitcoin; otherwise name the one that it works in",
        )
    except NotADirectoryError:
        problem, remedy = "is not a directory", f"name the directory that holds {DATABASE}"
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem, remedy = f"cannot be read ({reason})", "run this as the user that lightningd runs as, naming it"
    else:
        return path
    raise BackupError(f"the node's directory {path} {problem}; nothing was changed: {remedy} with --lightning-dir")


def _only(directory: Path, choices: list[Path]) -> Path:
    if len(choices) == 1:
        return choices[0]
    listed = ", ".join(shell_word(choice) for choice in choices)
    raise BackupError(
        f"{directory} holds several nodes, and each needs a backup of its own; nothing was changed: "
        f"repeat this with --lightning-dir and one of {listed}"
    )
