"""What it means for a person when the place that a backup lies in, or should, does not do as it is told."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackupError, Unreachable
from backends.log.absent import taken
from backends.owners import only_roots, user_name
from backends.storage.base import Storage
from backends.words import shell_line


@contextmanager
def reaching(storage: Storage) -> Iterator[None]:
    """While a backup that is there is used: an OSError becomes Unreachable."""
    try:
        yield
    except OSError as error:
        place = storage.describe()
        if isinstance(error, FileNotFoundError) and not _there(storage):
            raise Unreachable(
                f"there is no backup at {place}: is the disk or share that holds it mounted, and the "
                "name right? Nothing was changed; mount it, or correct the URL, then try again"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise Unreachable(
                f"a file of the backup in {place} was removed while it was in use{_name_of(error)}: another command, "
                "or a node, has put a new snapshot in its place meanwhile, or somebody else deletes files there. "
                "Nothing that was saved is lost by this one; wait until the other one has ended, then repeat this"
            ) from error
        raise Unreachable(
            f"{place} cannot be used: {error.strerror or error}{_file_in(error)}. Nothing that was saved "
            "is lost; fix that and try again"
        ) from error


@contextmanager
def making(storage: Storage) -> Iterator[None]:
    """While a new backup is made: an OSError becomes a BackupError."""
    place = storage.describe()
    try:
        yield
    except FileExistsError:
        raise taken(storage) from None
    except FileNotFoundError:
        raise BackupError(
            f"the directory that {place} should be made in does not exist. Nothing was made; is the disk or share "
            "mounted? Otherwise create the directory first"
        ) from None
    except PermissionError as error:
        raise BackupError(
            f"{place} cannot be made: the user {user_name(os.geteuid())} may not write there. Nothing was made; "
            f"{_own_directory(error)}, or choose another place"
        ) from None
    except OSError as error:
        raise BackupError(
            f"{place} cannot be made: {error.strerror or error}. Nothing was left there; fix that and try again"
        ) from error


def _own_directory(error: PermissionError) -> str:
    """What root types so that this user has a directory there: only where nobody but root decides what lies there."""
    parent = Path(error.filename).parent if error.filename else None
    if parent is None or not only_roots(parent):
        return "have a directory there that belongs to this user"
    own = parent / user_name(os.geteuid())
    line = shell_line("install", "-d", "-o", user_name(os.geteuid()), "-m", "0700", own)
    return f"as root, make this user a directory there, and make the backup in that one ({own}): {line}"


def _name_of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _there(storage: Storage) -> bool:
    try:
        return storage.exists()
    except OSError:
        return False


def _file_in(error: OSError) -> str:
    """Which file it is that another user's modes keep from us; a backup's files are all the same user's."""
    if not isinstance(error, PermissionError) or not error.filename:
        return ""
    return (
        f" ({error.filename} is closed to the user {user_name(os.geteuid())}: all files of a backup belong to the user "
        "that lightningd runs as)"
    )
