"""The messages between parent and child: lines of JSON of bounded length, with every field checked when it is read.

What the child reads may have taken it over, so its messages are treated like a stranger's.
"""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from backends.errors import (
    BackupError,
    Damaged,
    FromTheFuture,
    KeyNeeded,
    NoSpace,
    NotABackup,
    NotEncrypted,
    Unreachable,
    Unrestorable,
    WrongKey,
    withheld_by,
)
from backends.legacy.errors import LegacyDamaged
from backends.sqlite.connection import Busy, Corrupt
from backends.sqlite.following import CopyDamaged, HeldUp, NoCopy
from backends.sqlite.limits import BeyondLimits
from backends.sqlite.replay import MAX_WITHHELD
from backends.sqlite.replay_errors import MemoryFailed, MemoryMissing, OutOfTime, ReplayFailed
from backends.text import printable
from backends.urls import BadURL

MAX_LINE = 1 << 20
"""Bytes of one message."""

MAX_TEXT = 4000
"""Characters of one text in a message."""

MAX_TOLD = 100
"""Sentences in one list; a person reads the first few."""

_FAR = 1 << 62
"""Above any number in a message."""


class Nonsense(Exception):
    """A message that our own child never sends."""


class Overtaken(BackupError):
    """The node has begun a new generation, so the one that was asked for is no longer in use."""


_PLAIN: dict[str, type[BackupError]] = {
    kind.__name__: kind
    for kind in (
        BackupError, Unreachable, NoSpace, NotABackup, FromTheFuture, Busy, Corrupt, MemoryFailed, MemoryMissing,
        OutOfTime, BadURL, Overtaken, KeyNeeded, WrongKey, NotEncrypted, NoCopy, CopyDamaged, HeldUp,
    )
}  # fmt: skip
"""Errors that consist of a message only."""

_PROOFS: dict[str, type[Unrestorable]] = {kind.__name__: kind for kind in (Unrestorable, ReplayFailed)}
"""Errors that consist of a message and a finding."""


def encode(message: dict[str, Any]) -> bytes:
    """The message as one line of JSON."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message in a line of JSON. Raises Nonsense."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Nonsense("not JSON") from None
    if not isinstance(message, dict):
        raise Nonsense("not a message")
    return message


def number(message: dict[str, Any], key: str, below: int = _FAR) -> int:
    """The field `key`, which must be a whole number from 0 to below `below`. Raises Nonsense."""
    value = message.get(key)
    if type(value) is not int or not 0 <= value < below:
        raise Nonsense(key)
    return value


def perhaps_number(message: dict[str, Any], key: str, below: int = _FAR) -> int | None:
    """The field `key` as by `number`; None when it is null or missing. Raises Nonsense."""
    return None if message.get(key) is None else number(message, key, below)


def text(message: dict[str, Any], key: str) -> str:
    """The field `key`, which must be a text, made printable. Raises Nonsense."""
    value = message.get(key)
    if not isinstance(value, str):
        raise Nonsense(key)
    return printable(value, MAX_TEXT)


def perhaps_text(message: dict[str, Any], key: str) -> str | None:
    """The field `key` as by `text`; None when it is null or missing. Raises Nonsense."""
    return None if message.get(key) is None else text(message, key)


def truth(message: dict[str, Any], key: str) -> bool:
    """The field `key`, which must be true or false. Raises Nonsense."""
    value = message.get(key)
    if not isinstance(value, bool):
        raise Nonsense(key)
    return value


def texts(message: dict[str, Any], key: str, most: int) -> list[str]:
    """The field `key`, which must be a list of at most `most` texts, made printable. Raises Nonsense."""
    value = message.get(key)
    if not isinstance(value, list) or len(value) > most:
        raise Nonsense(key)
    return [text({key: each}, key) for each in value]


def failure(error: BaseException) -> dict[str, Any]:
    """An error as a message, with what it withholds: only the parent knows whether the operator asked to see that."""
    return {**_failure(error), "withheld": withheld_by(error)[:MAX_WITHHELD]}


def _failure(error: BaseException) -> dict[str, Any]:
    said = str(error)[: 2 * MAX_TEXT]
    if isinstance(error, Damaged):
        return {
            "failed": LegacyDamaged.__name__ if isinstance(error, LegacyDamaged) else Damaged.__name__,
            "what": error.what[:MAX_TEXT],
            "file": error.file,
            "offset": error.offset,
            "last_good": error.last_good,
            "hint": error.hint[:MAX_TEXT],
        }
    if isinstance(error, BeyondLimits):
        return {"failed": BeyondLimits.__name__, "what": error.what[:MAX_TEXT]}
    if isinstance(error, Unrestorable):
        return {"failed": _known(error, _PROOFS), "says": said, "finding": error.finding[:MAX_TEXT]}
    if isinstance(error, BackupError):
        return {"failed": _known(error, _PLAIN), "says": said}
    if isinstance(error, OSError):
        name = error.filename if isinstance(error.filename, str) else None
        return {"failed": OSError.__name__, "number": error.errno or errno.EIO, "says": error.strerror or said,
                "file": name}  # fmt: skip
    return {"failed": "bug", "says": f"{type(error).__name__}: {said}"}


def raise_failure(message: dict[str, Any]) -> NoReturn:
    """Raise the error that a message of `failure` describes, as its own class. Raises Nonsense for an unknown kind."""
    error = _error_of(text(message, "failed"), message)
    if isinstance(error, BackupError) and isinstance(message.get("withheld"), str):
        error.withheld = printable(message["withheld"], MAX_WITHHELD)
    raise error


def _error_of(kind: str, message: dict[str, Any]) -> Exception:
    make = _WITH_FIELDS.get(kind)
    if make is not None:
        return make(message)
    if kind in _PROOFS:
        return _PROOFS[kind](text(message, "says"), text(message, "finding"))
    if kind in _PLAIN:
        return _PLAIN[kind](text(message, "says"))
    raise Nonsense(kind)


def _known(error: BackupError, kinds: dict[str, Any]) -> str:
    """The name of the error's nearest class that a message can name; its text is kept in any case."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in kinds), BackupError.__name__)


def _damaged(message: dict[str, Any]) -> Damaged:
    return Damaged(
        text(message, "what"),
        text(message, "file"),
        number(message, "offset"),
        perhaps_number(message, "last_good"),
        text(message, "hint"),
    )


def _legacy_damaged(message: dict[str, Any]) -> Damaged:
    return LegacyDamaged(
        text(message, "what"),
        Path(text(message, "file")),
        number(message, "offset"),
        perhaps_number(message, "last_good"),
    )


def _os_error(message: dict[str, Any]) -> OSError:
    code, name = number(message, "number", 1 << 16), perhaps_text(message, "file")
    return OSError(code, text(message, "says") or os.strerror(code), name)


def _bug(message: dict[str, Any]) -> BackupError:
    return BackupError(
        f"reading the backup failed in an unexpected way ({text(message, 'says')}); nothing was made from it, and "
        "nothing was changed. Please report this line"
    )


_WITH_FIELDS: dict[str, Callable[[dict[str, Any]], Exception]] = {
    BeyondLimits.__name__: lambda message: BeyondLimits(text(message, "what")),
    Damaged.__name__: _damaged,
    LegacyDamaged.__name__: _legacy_damaged,
    OSError.__name__: _os_error,
    "bug": _bug,
}
"""Errors with fields of their own, and how each is made from a message."""
