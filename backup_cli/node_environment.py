"""Whether the node will have what opens a destination for this command: credentials that come from the environment of
somebody's shell do not reach a node that systemd starts, which then does not start, or stops at its next start.

Only names are looked at, never values, and only names are told.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from backends import place_at
from backends.errors import BackupError
from backends.log.status_of_members import listed
from backends.members.urls import split_trailing
from backends.members.where import place_warnings
from backends.places.base import Place


def opened_by(urls: Iterable[str]) -> list[str]:
    """The environment variables by which this process opens these destinations. Raises nothing, contacts nobody."""
    names: list[str] = []
    for url in urls:
        with suppress(BackupError):
            names += place_at(split_trailing(url)[0]).opened_by_environment()
    return list(dict.fromkeys(names))


def lacked_by(names: Iterable[str], pid: int | None) -> list[str]:
    """Those of them that the process does not have. All of them if there is no process, or it cannot be asked."""
    has: set[str] = set()
    if pid is not None:
        with suppress(psutil.Error, OSError):
            has = set(psutil.Process(pid).environ())
    return [name for name in names if name not in has]


def destination_warnings(url: str, place: Place, directory: Path) -> list[str]:
    """What to say when the backup of the stopped node in `directory` is to be at this URL, one sentence per item.

    Raises BackupError.
    """
    names = opened_by([url])
    return [*place_warnings(url, place, directory), *([shell_only(names)] if names else [])]


def shell_only(names: list[str]) -> str:
    """What to say of variables that may be in this shell only, and what to write where."""
    several = len(names) > 1
    return (
        f"{listed(names)} {'are' if several else 'is'} in the environment of this command and "
        f"{'open' if several else 'opens'} the destination. A node that systemd starts does not have your shell's "
        f"environment, and would not start. Put {'them' if several else 'it'} into a file that only root can read, "
        "with a line NAME=VALUE for each, and name it in the node's unit (systemctl edit lightningd): [Service] "
        "EnvironmentFile=FILE. Or keep the credentials in the files of the user that runs lightningd "
        "(~/.aws/credentials, ~/.pgpass), and unset these variables here"
    )
