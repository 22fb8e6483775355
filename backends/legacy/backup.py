"""A backup file of the older plugin, opened for reading: its snapshot, and a pass over the changes after it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from backends.change import ahead
from backends.errors import BackupError
from backends.legacy.errors import LegacyDamaged
from backends.legacy.file import Frame, LegacyFile
from backends.legacy.history import LegacyChanges
from backends.legacy.outline import Outline, outline

_PIECE = 1 << 18
_JOURNAL_KINDS = slice(18, 20)
"""Two bytes of a SQLite file's header: 1 for a rollback journal, 2 for a WAL."""


class LegacyBackup:
    """An open older backup. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises NotABackup, OlderDamaged or Unreachable."""
        self.path = path
        self._file = LegacyFile(path)
        self._outline: Outline | None = None
        self.last_time = self._file.mtime
        """When the file was last written, seconds since 1970: its records do not say."""

    def __enter__(self) -> "LegacyBackup":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def named_version(self) -> int:
        """The version that the header names; the file may hold one more. Costs nothing."""
        return self._file.header.data_version

    def stored_bytes(self) -> int:
        """The size of the file."""
        return self._file.size

    def survey(self, progress: Callable[[int], None] | None = None) -> Outline:
        """The first look through the file, if it was not done yet. Raises OlderDamaged or Unreachable.

        `progress` is called with the bytes that were looked at.
        """
        if self._outline is None:
            self._outline = outline(self._file, progress or (lambda seen: None))
            self._refuse_two_histories(self._outline)
        return self._outline

    def snapshot(self) -> Frame | None:
        """The snapshot that the changes go on from; None when they begin with a new node's database."""
        return self.survey().snapshot

    def pieces(self, snapshot: Frame) -> Iterator[tuple[bytes, int]]:
        """The database in the snapshot, each piece with the offset in the file after it. Raises Unreachable."""
        for offset in range(snapshot.payload, snapshot.end, _PIECE):
            piece = self._file.read(offset, min(_PIECE, snapshot.end - offset))
            end = offset + len(piece)
            if offset == snapshot.payload and piece[_JOURNAL_KINDS] == b"\2\2":
                # Its WAL was not saved with it, and SQLite must not look for one; the version tells if one is missing.
                piece = piece[: _JOURNAL_KINDS.start] + b"\1\1" + piece[_JOURNAL_KINDS.stop :]
            yield piece, end

    @property
    def begin(self) -> int:
        """Offset of the first record that counts."""
        return self.survey().begin

    def changes(self) -> LegacyChanges:
        """A pass over the changes after the snapshot that count. Raises OlderDamaged or Unreachable."""
        return LegacyChanges(self._file, self.path, self.survey())

    def refuse_if_written(self) -> None:
        """BackupError when somebody has written to the file since it was opened: then it is a living node's."""
        if self._file.is_written():
            raise BackupError(
                f"{self.path} was written while it was read, so a node with the older plugin is running; nothing was "
                "restored. That node's own database is the truth: stop it, then run: backup-cli init URL"
            )

    def _refuse_two_histories(self, found: Outline) -> None:
        """A snapshot of an older state than what is before it: only a person can know which one is the node's."""
        snapshot, before = found.snapshot, found.version_before
        if snapshot is not None and before is not None and ahead(snapshot.data_version, before) < -1:
            raise LegacyDamaged(
                f"behind version {before} it begins anew with a snapshot of the older version {snapshot.data_version}",
                self.path,
                snapshot.offset,
                before,
            )
