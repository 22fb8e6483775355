"""The warning that other people may read a backup, because it is kept with them and is not encrypted."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from backends import place_at
from backends.errors import BackupError
from backends.text import shell_line


def kept_by_strangers(urls: Iterable[str]) -> list[str]:
    """Those of these destinations that people other than the operator may read. Touches none of them.

    One whose package is not installed here is left out: whoever uses it is told that.
    """
    found = []
    for url in urls:
        with suppress(BackupError):
            if place_at(url).strangers:
                found.append(url)
    return found


def readable_by_others(urls: Iterable[str], remedy: str) -> str | None:
    """A sentence about a backup at these destinations that is not encrypted; None if nobody else may read any of them.

    `remedy` says what to type, as a clause.
    """
    places = kept_by_strangers(urls)
    if not places:
        return None
    return (
        f"the backup at {' and '.join(places)} is not encrypted, and whoever runs the server there can read every "
        f"channel, peer and payment of the node (docs/encryption.md). {remedy}"
    )


def encrypt_later(directory: Path) -> str:
    """What to type to encrypt the backup of the node in this directory, as a remedy."""
    command = shell_line("backup-cli", "resync", "--encrypt", "--lightning-dir", directory)
    return f"To encrypt it, run (with lightningd stopped): {command}"


ENCRYPT_AT_ONCE = "To have it encrypted from the beginning, add --encrypt"
"""The remedy for a backup that is not made yet."""
