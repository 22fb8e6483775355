"""The messages for a person whose new backup cannot be made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackupError
from backends.log.reader.absent import already_exists
from backends.storage.base import Storage
from backends.system.owners import only_roots, user_name
from backends.text import shell_line


@contextmanager
def making(storage: Storage) -> Iterator[None]:
    """Around the making of a new backup: turns an OSError into a BackupError that says what to do."""
    place = storage.describe()
    try:
        yield
    except FileExistsError:
        raise already_exists(storage) from None
    except FileNotFoundError:
        raise BackupError(_nowhere_to_make(storage)) from None
    except PermissionError as error:
        if not storage.is_mounted:  # an account or a role elsewhere: who this user is here does not matter there
            raise _not_made(place, error) from error
        raise BackupError(
            f"{place} cannot be made: the user {user_name(os.geteuid())} may not write there. Nothing was made; "
            f"{_own_directory(error)}, or choose another place"
        ) from None
    except OSError as error:
        raise _not_made(place, error) from error


def _not_made(place: str, error: OSError) -> BackupError:
    return BackupError(
        f"{place} cannot be made: {error.strerror or error}. Nothing was left there; fix that and try again"
    )


def _nowhere_to_make(storage: Storage) -> str:
    missing = f"the directory in which {storage.describe()} should be made does not exist. Nothing was made"
    if storage.is_mounted:
        return f"{missing}; is the disk or share mounted? If it is, create the directory first"
    return f"{missing}; is the URL right? If it is, create that directory there first"


def _own_directory(error: PermissionError) -> str:
    """What to do so that this user has a directory there, with the command for root.

    The command is given only where nobody but root decides what is in the parent directory.
    """
    parent = Path(error.filename).parent if error.filename else None
    if parent is None or not only_roots(parent):
        return "have root create a directory there that belongs to this user"
    own = parent / user_name(os.geteuid())
    line = shell_line("install", "-d", "-o", user_name(os.geteuid()), "-m", "0700", own)
    return f"as root, make a directory there for this user ({own}), and make the backup in it: {line}"
