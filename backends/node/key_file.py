"""`backup.key`, beside `backup.lock`: the key of this node's backup, if that is encrypted. Only its owner may read it.

The plugin has nothing else: at a node's start nobody is there to type a passphrase, and lightningd has not answered any
call yet. If the file is lost, a key slot of the backup gives the key back (backends/log/key_slots.py).

The file is one line of JSON and one line with the CRC-32 of the first in hexadecimal. It says nothing about the
machine, so a copy of it is as good anywhere else. A key is never overwritten by another one: it may be all that opens
an older backup.
"""

import errno
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

from backends import keyring
from backends.errors import BackupError, FromTheFuture, KeyNeeded
from backends.keyring import KEY_SIZE, DataKey
from backends.mounts.missing import is_it_mounted
from backends.node.files import read_small_file, replace_file, sync_directory
from backends.node.lockfile import read_settings
from backends.text import shell_line

KEY_FILE = "backup.key"

_VERSION = 1
_MODE = 0o400
_ID_SIZE = 16

_NO_FILE = (errno.ELOOP, errno.EISDIR)
"""What reading says of a link and of a directory."""

_MAX_ASIDE = 100
"""The most files of one name that are kept aside."""

_RESTORE = (
    "the key can be had again from the backup, with the node's hsm_secret or a passphrase, by: "
    "backup-cli keys --restore-key URL"
)

_OWNER = (
    "run this as the user that lightningd runs as; if it is that one, the user who put the file there must give it to "
    "that one (as root, first check that it is not a link, and what is in it)"
)


@dataclass(frozen=True, slots=True)
class NodeKey:
    """What `backup.key` holds. `pending`: the backup is being made an encrypted one, and may still be a plain one."""

    key: DataKey
    pending: bool = False


def write_key(directory: Path, key: DataKey, *, pending: bool = False) -> None:
    """Write `backup.key` (mode 0400) into this network directory, as a whole and durably.

    Another key that is there is first kept as `backup.key.` and the first 8 digits of its backup's id (what cannot be
    read as a key, as `backup.key.damaged`), so at every moment each key is under one name at least. Raises BackupError;
    then the file is the old one or, if only the last sync failed, the new one.
    """
    path = directory / KEY_FILE
    try:
        _keep_another(path, key)
        replace_file(path, _encoded(NodeKey(key, pending)), durably=True, mode=_MODE)
    except OSError as error:
        raise BackupError(
            f"{path} could not be written ({_why(error)}), so this node does not have the key of its backup yet; no "
            "other key was overwritten, and the node's own files are untouched: put that right and repeat the command "
            "before you start the node"
        ) from error


@contextmanager
def key_until_failure(directory: Path, key: DataKey) -> Iterator[None]:
    """Write `backup.key` (as write_key), and after a failure inside the context leave everything as it was before.

    For the moment in which a node changes to another backup. Raises BackupError, or what the context raises.
    """
    path = directory / KEY_FILE
    before, names = _content(path), _kept_aside(directory)
    try:
        write_key(directory, key)
        yield
    except BaseException:
        with suppress(OSError):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                replace_file(path, before, durably=True, mode=_MODE)
            for aside in set(_kept_aside(directory)).difference(names):
                aside.unlink()
        raise


def set_key_aside(directory: Path, backup_id: str) -> Path | None:
    """Move `backup.key` aside, durably, if it is not the key of the backup with this id (hex). Returns its new path.

    For a node that has changed to a backup that is not encrypted. Raises BackupError, OSError.
    """
    path = directory / KEY_FILE
    try:
        found = read_key(directory)
    except BackupError:
        found = None
    if not path.exists() or (found is not None and found.key.backup_id.hex() == backup_id):
        return None
    aside = _keep_another(path, None)
    path.unlink()
    sync_directory(directory)
    return aside


def earlier_key(directory: Path, backup_id: str) -> NodeKey | None:
    """The key of the backup with this id (hex) that was set aside in this network directory; None if there is none.

    A crash, while a node changes to another backup, may leave the key of the one that still counts there.
    """
    for path in reversed(_kept_aside(directory)):
        with suppress(BackupError, OSError):
            found = _read(path, _RESTORE)
            if found.key.backup_id.hex() == backup_id:
                return found
    return None


def read_key(directory: Path) -> NodeKey | None:
    """What `backup.key` in this network directory holds; None if there is no such file. Links are not followed.

    Raises KeyNeeded if it cannot be read or is damaged, FromTheFuture if a later release wrote it.
    """
    try:
        return _read(directory / KEY_FILE, _RESTORE)
    except FileNotFoundError:
        return None


def key_in_use(directory: Path) -> NodeKey | None:
    """The key of the backup that `backup.lock` in this network directory names, as far as it is here: that in
    `backup.key`; or, if that is another backup's, the one that was set aside. Raises as read_key.

    A crash, while a node changes to another backup, leaves the new key and the earlier backup.lock.
    """
    found = read_key(directory)
    if found is None:
        return None
    own = None
    with suppress(BackupError):
        own = read_settings(directory).backup_id
    if own is None or own == found.key.backup_id.hex():
        return found
    return earlier_key(directory, own) or found


def read_key_file(path: Path) -> DataKey:
    """The key in a `backup.key` that somebody named, wherever it is. Links are not followed.

    Raises KeyNeeded if it is missing, cannot be read or is damaged, FromTheFuture if a later release wrote it.
    """
    try:
        return _read(path, "name another copy of backup.key, or use --hsm-secret FILE or --passphrase-file FILE").key
    except FileNotFoundError:
        raise KeyNeeded(
            f"there is no {path}; nothing was changed: name the node's backup.key or a copy of it, or use --hsm-secret "
            f"FILE or --passphrase-file FILE instead{is_it_mounted(path)}"
        ) from None


def load_key(directory: Path) -> NodeKey | None:
    """Make the key in this network directory known to this process; None if there is no such file. Raises as read_key.

    Unless the change-over is pending, a plain backup with this id is refused from then on.
    """
    found = key_in_use(directory)
    if found is not None:
        keyring.add(found.key, demanded=not found.pending)
    return found


def finish_pending(directory: Path) -> None:
    """Note that the backup is an encrypted one now. Nothing is done if that is known, or if there is no key. Raises
    BackupError."""
    found = read_key(directory)
    if found is not None and found.pending:
        write_key(directory, found.key)


def key_file_is_open(path: Path) -> bool:
    """Whether others than its owner may use the file at `path` (a missing one is nobody's)."""
    try:
        return bool(path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def _kept_aside(directory: Path) -> list[Path]:
    """The keys that were set aside, in the order of their names."""
    return sorted(path for path in directory.glob(f"{KEY_FILE}.*") if not path.name.endswith(".tmp"))


def _content(path: Path) -> bytes | None:
    """The bytes of the file; None if there is none, or it cannot be read."""
    with suppress(OSError):
        return read_small_file(path, links=False)
    return None


def _keep_another(path: Path, key: DataKey | None) -> Path | None:
    """Keep a copy of the file at `path`, durably, unless it holds this key or there is none. Returns the copy's path.

    A copy and not a rename: a crash right after a rename would leave the node without any key. Raises OSError.
    """
    try:
        data = read_small_file(path, links=False)
    except FileNotFoundError:
        return None
    try:
        found = _decoded(data).key
    except (_Senseless, FromTheFuture):
        suffix = "damaged"
    else:
        if found == key:
            return None
        suffix = found.backup_id.hex()[:8]
    for number in range(1, _MAX_ASIDE):
        aside = path.with_name(f"{path.name}.{suffix}" + (f".{number}" if number > 1 else ""))
        if _is_free_for(aside, data):
            replace_file(aside, data, durably=True, mode=_MODE)
            return aside
    raise OSError(errno.EEXIST, f"there are {_MAX_ASIDE} older keys beside it already")


def _is_free_for(aside: Path, data: bytes) -> bool:
    """Whether nothing would be lost by writing `data` there. A file with the same bytes is written once more: whoever
    has made it may not have synced it."""
    try:
        return read_small_file(aside, links=False) == data
    except FileNotFoundError:
        return True
    except OSError:  # a link, a directory or another user's file
        return False


class _Senseless(Exception):
    """The file is not what was once written. The text says what is wrong, as a clause without anything secret."""


def _encoded(found: NodeKey) -> bytes:
    document = {
        "version": _VERSION,
        "backup_id": found.key.backup_id.hex(),
        "key_id": found.key.id,
        "key": found.key.secret.hex(),
        "pending": found.pending,
    }
    line = json.dumps(document).encode()
    return line + b"\n%08x\n" % crc32(line)


def _decoded(data: bytes) -> NodeKey:
    """Raises _Senseless or FromTheFuture."""
    line, _, checksum = data.partition(b"\n")
    if checksum != b"%08x\n" % crc32(line):
        raise _Senseless("its text does not match its checksum" if data else "it is empty")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise _Senseless("it is not JSON") from None
    version = document.get("version") if isinstance(document, dict) else None
    if type(version) is not int or version < 1:
        raise _Senseless("it is no file of lightningd-backup")
    if version > _VERSION:
        raise FromTheFuture(
            f"backup.key was written by a later release of lightningd-backup (its format is {version}, this release "
            f"knows {_VERSION}); nothing was changed: install that release again"
        )
    key = DataKey(_bytes(document, "backup_id", _ID_SIZE), _bytes(document, "key", KEY_SIZE))
    if key.id != document.get("key_id"):
        raise _Senseless("the key in it is not the one that it names")
    if not isinstance(document.get("pending"), bool):
        raise _Senseless('"pending" is neither true nor false')
    return NodeKey(key, document["pending"])


def _bytes(document: dict[str, Any], name: str, size: int) -> bytes:
    value = document.get(name)
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != size:
        raise _Senseless(f'"{name}" is not {size} bytes in hexadecimal')
    return found


def _read(path: Path, remedy: str) -> NodeKey:
    """Raises FileNotFoundError, KeyNeeded or FromTheFuture."""
    try:
        return _decoded(read_small_file(path, links=False))
    except FileNotFoundError:
        raise
    except PermissionError:
        _unusable(path, "cannot be read: it belongs to another user", _OWNER)
    except OSError as error:
        if error.errno in _NO_FILE:  # nothing writes a key over it
            remedy = f"move it away, with {shell_line('mv', '-n', path, f'{path}-moved')}; then {remedy}"
        _unusable(path, f"cannot be read ({_why(error)})", remedy)
    except _Senseless as error:
        _unusable(path, f"is damaged: {error}", remedy)


def _unusable(path: Path, what: str, remedy: str) -> NoReturn:
    raise KeyNeeded(
        f"{path} {what}; the backup and the node's own files are untouched, and nothing was changed: {remedy}"
    ) from None


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link, and links to a key are not followed"
    return error.strerror or str(error)
