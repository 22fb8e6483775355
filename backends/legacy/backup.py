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
from backends.sqlite_header import FILE_FORMAT, NOT_WAL, in_wal_mode

_PIECE = 1 << 18


class LegacyBackup:
    """A legacy backup, opened for reading. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises NotABackup, LegacyDamaged or Unreachable."""
        self.path = path
        self._file = LegacyFile(path)
        self._outline: Outline | None = None
        self.last_time = self._file.mtime
        """When the file was last written, seconds since 1970; its records have no times."""

    def __enter__(self) -> "LegacyBackup":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def named_version(self) -> int:
        """The version that the header names; the file may hold one more change. Reads nothing."""
        return self._file.header.data_version

    def stored_bytes(self) -> int:
        """The size of the file."""
        return self._file.size

    def survey(self, progress: Callable[[int], None] | None = None) -> Outline:
        """Scan the file's records, the first time this is called. Raises LegacyDamaged or Unreachable.

        `progress` is called with the bytes scanned so far.
        """
        if self._outline is None:
            self._outline = outline(self._file, progress or (lambda seen: None))
            self._refuse_two_histories(self._outline)
        return self._outline

    def snapshot(self) -> Frame | None:
        """The snapshot from which the changes continue; None when they begin with a new node's empty database."""
        return self.survey().snapshot

    def pieces(self, snapshot: Frame) -> Iterator[tuple[bytes, int]]:
        """The database in the snapshot: each piece, with the offset in the file where it ends. Raises Unreachable."""
        for offset in range(snapshot.payload, snapshot.end, _PIECE):
            piece = self._file.read(offset, min(_PIECE, snapshot.end - offset))
            end = offset + len(piece)
            if offset == snapshot.payload and in_wal_mode(piece):
                # The database was in WAL mode, but its WAL was not saved. SQLite must not look for one; if it held
                # changes, the version of the snapshot shows that they are missing.
                piece = piece[: FILE_FORMAT.start] + NOT_WAL + piece[FILE_FORMAT.stop :]
            yield piece, end

    @property
    def begin(self) -> int:
        """Offset of the first record that counts."""
        return self.survey().begin

    def changes(self) -> LegacyChanges:
        """A pass over the changes after the snapshot that count. Raises LegacyDamaged or Unreachable."""
        return LegacyChanges(self._file, self.path, self.survey())

    def refuse_if_written(self) -> None:
        """Raise BackupError when the file has been written to since it was opened: then a running node is using it."""
        if self._file.is_written():
            raise BackupError(
                f"{self.path} was written to while it was read, so a node with the older plugin is running; nothing "
                "was restored. That node's own database is the newest state: stop the node, then run: backup-cli init "
                "URL"
            )

    def _refuse_two_histories(self, found: Outline) -> None:
        """Raise LegacyDamaged for a snapshot older than the record before it: only a person can tell which is right.

        One version older is allowed: then the last change before the snapshot was never committed.
        """
        snapshot, before = found.snapshot, found.version_before
        if snapshot is not None and before is not None and ahead(snapshot.data_version, before) < -1:
            raise LegacyDamaged(
                f"after version {before} it starts again with a snapshot of the older version {snapshot.data_version}",
                self.path,
                snapshot.offset,
                before,
            )
