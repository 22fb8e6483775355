"""The work on a backup's bytes that the commands leave to a child process, and the checks of what it sends back.

Each function raises what the same work raises in this process, and also `limits.BeyondLimits`, and BackupError when the
child dies. The file that it was to write is then worthless, and the caller removes it.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import Position
from backends.change import VERSIONS
from backends.confined.messages import (
    MAX_TOLD,
    Nonsense,
    Overtaken,
    number,
    perhaps_number,
    perhaps_text,
    text,
    texts,
    truth,
)
from backends.confined.parent import Stopped, run
from backends.errors import BackupError
from backends.following.follower import Ended, News, Order, Stretch
from backends.log.writer.compacted import CompactedSnapshot
from backends.sqlite.compare import Comparison
from backends.sqlite.rebuild import BytesDone, Rebuilt
from backends.sqlite.schema import UnknownObjects
from backends.sqlite.source import DatabaseState
from backends.sqlite_header import MAGIC
from backends.text import printable

__all__ = [
    "Outcome",
    "Overtaken",
    "Stopped",
    "compact_backup",
    "compare_databases",
    "follow_backup",
    "mark_followed",
    "rebuild_backup",
    "rebuild_legacy_file",
    "release_followed",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A database that was rebuilt from a backup, and where it came from."""

    rebuilt: Rebuilt
    generation: int
    stored: int
    """Bytes of the generation's files."""
    size: int
    """Bytes of the database."""
    violations: list[str]
    """The result of `foreign_key_violations`, if it was asked for; otherwise empty."""


def rebuild_backup(
    url: str,
    target: Path,
    progress: BytesDone | None = None,
    *,
    generation: int | None = None,
    kept: int | None = None,
    to_version: int | None = None,
    durable: bool = True,
    violations: bool = False,
    following: str | None = None,
    check_all: bool = True,
) -> Outcome:
    """Write the database in the backup at `url` to the new file `target`, checked and (if `durable`) durable.

    It is made from the generation in use, or from the one with the number `kept`, which is kept beside it; with
    `to_version`, it is the database at that version. With `following`, the id of the backup, it is a copy that
    `follow_backup` goes on with. Unless `check_all`, a large database of certain origin is not checked again as far as
    it was checked when its snapshot was made. Raises Overtaken when the generation in use is not `generation`, or the
    backup not that one, if they are given.
    """
    arguments = {
        "url": url, "target": str(target.absolute()), "generation": generation, "kept": kept,
        "to_version": to_version, "durable": durable, "violations": violations, "following": following,
        "check_all": check_all,
    }  # fmt: skip
    said = run("rebuild_backup", arguments, progress)
    try:
        rebuilt, size = _rebuilt(said), number(said, "bytes")
        if to_version is None:
            sequence, checksum = number(said, "sequence", 1 << 64), number(said, "checksum", 1 << 32)
            rebuilt = replace(rebuilt, end=Position(rebuilt.data_version, sequence, checksum))
        outcome = Outcome(
            rebuilt,
            number(said, "generation"),
            number(said, "stored"),
            size,
            texts(said, "violations", MAX_TOLD + 1),
        )
    except Nonsense as error:
        raise _nonsense(error) from None
    check_made(target, size)
    return outcome


def follow_backup(
    url: str, path: Path, order: Order, news: Callable[[News], None], goes_on: Callable[[], bool]
) -> Stretch:
    """`backends.following.follower.follow` for the backup at `url` and the copy at `path`.

    `news` is called now and then. `goes_on` is asked every second: once it returns False, the child is killed, which
    leaves the copy in a whole state, and Stopped is raised.
    """

    def told(sent: object) -> None:
        news(_news(sent))

    said = run("follow_backup", {"url": url, "path": str(path.absolute()), **asdict(order)}, news=told, goes_on=goes_on)
    try:
        last = None if said.get("news") is None else _news(said["news"])
        versions = (number(said, key, VERSIONS) for key in ("copy_version", "backup_version"))
        return Stretch(Ended(text(said, "ended")), last, *versions)
    except (Nonsense, ValueError) as error:
        raise _nonsense(error) from None


def release_followed(path: Path) -> DatabaseState:
    """Make the copy at `path` an ordinary database, durably, and return what is known of its state.

    Raises BackupError.
    """
    said = run("release_followed", {"path": str(path.absolute())})
    try:
        state = DatabaseState(perhaps_number(said, "state_version", VERSIONS), _node_id(said), True, False)
        size = number(said, "bytes")
    except Nonsense as error:
        raise _nonsense(error) from None
    check_made(path, size)
    return state


def mark_followed(path: Path, checksum: int) -> int | None:
    """Make the database at `path` a copy again that holds the change of the record with this checksum, durably.

    Returns its version. Raises BackupError.
    """
    said = run("mark_followed", {"path": str(path.absolute()), "checksum": checksum})
    try:
        version, size = perhaps_number(said, "state_version", VERSIONS), number(said, "bytes")
    except Nonsense as error:
        raise _nonsense(error) from None
    check_made(path, size)
    return version


def _news(sent: object) -> News:
    """Raises Nonsense."""
    if not isinstance(sent, dict):
        raise Nonsense("news")
    key = perhaps_text(sent, "key")
    return News(
        text(sent, "backup_id"),
        key,
        number(sent, "generation"),
        number(sent, "lineage"),
        number(sent, "sequence"),
        number(sent, "checksum", 1 << 32),
        number(sent, "data_version", VERSIONS),
        number(sent, "last_change", 1 << 34),
        number(sent, "lag"),
        number(sent, "in_step", 1 << 34),
        number(sent, "checked", 1 << 34),
        number(sent, "changes"),
        perhaps_text(sent, "torn"),
        perhaps_text(sent, "end_unverified"),
    )


def rebuild_legacy_file(
    file: Path, target: Path, progress: BytesDone | None = None, *, to_version: int | None = None
) -> tuple[Rebuilt, list[str]]:
    """Write the database in a backup file of the older plugin to the new file `target`, checked and durable.

    Also returns what a person should know about that backup, a sentence each.
    """
    arguments = {"file": str(file.absolute()), "target": str(target.absolute()), "to_version": to_version}
    said = run("rebuild_legacy_file", arguments, progress)
    try:
        rebuilt, size, remarks = _rebuilt(said), number(said, "bytes"), texts(said, "remarks", MAX_TOLD + 1)
    except Nonsense as error:
        raise _nonsense(error) from None
    check_made(target, size)
    return rebuilt, remarks


def compact_backup(url: str, scratch: Path, progress: BytesDone | None = None) -> CompactedSnapshot | None:
    """`backends.compaction.compact.compact_log` for the backup at `url`, of which this process is the writer.

    After an error, the writer must remove what is left at the destination.
    """
    said = run("compact_backup", {"url": url, "scratch": str(scratch.absolute())}, progress)
    try:
        compacted = perhaps_text(said, "folded")
        return None if compacted is None else CompactedSnapshot.decode(compacted)
    except (Nonsense, ValueError, KeyError, TypeError) as error:
        raise _nonsense(error) from None


def compare_databases(a: Path, b: Path, a_name: str = "the first", b_name: str = "the second") -> Comparison:
    """`backends.sqlite.compare.compare`, for databases of which one came out of a backup."""
    said = run(
        "compare_databases",
        {"a": str(a.absolute()), "b": str(b.absolute()), "a_name": a_name, "b_name": b_name},
    )
    try:
        return Comparison(number(said, "tables"), number(said, "rows"), texts(said, "differences", MAX_TOLD + 1))
    except Nonsense as error:
        raise _nonsense(error) from None


def check_made(target: Path, size: int) -> None:
    """Raise BackupError unless `target` is what the child was to make: a regular file of `size` bytes, owned by this
    user, closed to others, with no other link, and a SQLite database (or empty)."""
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            made, begin = os.fstat(descriptor), os.pread(descriptor, len(MAGIC), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BackupError(
            f"{target} is not the file that was written there ({error.strerror}); nothing was replaced"
        ) from None
    plain = stat.S_ISREG(made.st_mode) and made.st_nlink == 1 and not made.st_mode & 0o177
    if not plain or made.st_uid != os.geteuid() or made.st_size != size or (size and begin != MAGIC):
        raise BackupError(
            f"{target} is not the file that was written there; nothing was replaced. Do not start a node from it"
        )


def _rebuilt(said: dict[str, Any]) -> Rebuilt:
    state = DatabaseState(
        perhaps_number(said, "state_version", VERSIONS),
        _node_id(said),
        truth(said, "is_lightningd"),
        truth(said, "empty"),
        unknown_objects=_unknown(said.get("unknown")),
    )
    return Rebuilt(
        state,
        number(said, "data_version", VERSIONS),
        number(said, "changes"),
        number(said, "last_time", 1 << 34),
        truth(said, "foreign_keys"),
        perhaps_text(said, "torn"),
        perhaps_text(said, "end_unverified"),
        all_checked=truth(said, "all_checked"),
    )


def _node_id(said: dict[str, Any]) -> str | None:
    node_id = perhaps_text(said, "node_id")
    if node_id is not None and not re.fullmatch("[0-9a-f]{0,128}", node_id):
        raise Nonsense("node_id")
    return node_id


def _unknown(said: object) -> UnknownObjects:
    if not isinstance(said, dict):
        raise Nonsense("unknown")
    return UnknownObjects(tuple(texts(said, "objects", MAX_TOLD)), number(said, "count"))


def _nonsense(error: Exception) -> BackupError:
    return BackupError(
        f"the process that read the backup sent a message that makes no sense ({printable(error)}); nothing was made "
        "from the backup. The backup may have been altered: do not start a node from it"
    )
