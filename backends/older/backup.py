"""The changes of an older backup that count, in order, up to the last one that can be trusted.

Which record counts when two follow one another with the same version? Each change says itself where the database stood:
one that ends with the bump was made at the version before its own, a lone PRAGMA at its own.
- Two with the bump: when the second was made, the first had not been committed, or the database would have stood one
  further. The node had died in between; the second one counts.
- A lone PRAGMA after a change of the same version: the database stood at that version, so the change was committed, and
  both count.
A record that was only begun proves nothing: the change before it is kept, as if the node had died after committing it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from backends.change import ahead, previous
from backends.errors import BackupError
from backends.older.changes import OlderChange, read_change
from backends.older.errors import OlderDamaged, Unfit
from backends.older.file import HEADER_SIZE, Frame, OlderFile
from backends.older.outline import Outline, outline
from backends.older.tail import newer_in_tail
from backends.words import counted

_PIECE = 1 << 18
_JOURNAL_KINDS = slice(18, 20)
"""Two bytes of a SQLite file's header: 1 for a rollback journal, 2 for a WAL."""


class OlderBackup:
    """An open older backup. Use it as a context manager; take `snapshot` first, then iterate `changes` once."""

    def __init__(self, path: Path) -> None:
        """Raises NotABackup, OlderDamaged or Unreachable."""
        self.path = path
        self._file = OlderFile(path)
        self._outline: Outline | None = None
        self._seen = self._read = 0  # bytes
        self.data_version = 0
        """The version reached so far."""
        self.last_time = self._file.mtime
        """When the file was last written, seconds since 1970: its records do not say."""
        self.left_out: list[int] = []
        """Versions of changes that were never committed and were sent again."""
        self.torn: str | None = None
        """After `changes`: in words, what lies behind the last whole change, if anything."""

    def __enter__(self) -> "OlderBackup":
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

    def bytes_read(self) -> int:
        """For a progress bar, out of `stored_bytes`: half of it for the first look, half for reading."""
        return (self._seen + self._read) // 2

    def survey(self, progress: Callable[[int, int], None] | None = None) -> Outline:
        """The first look through the file, if it was not done yet. Raises OlderDamaged or Unreachable."""
        if self._outline is None:

            def seen(offset: int) -> None:
                self._seen = offset
                if progress is not None:
                    progress(self.bytes_read(), self.stored_bytes())

            self._outline = outline(self._file, seen)
            self._refuse_two_histories(self._outline)
            self._read = self._outline.begin
        return self._outline

    def snapshot(self) -> Frame | None:
        """The snapshot that the changes go on from; None when they begin with a new node's database."""
        frame = self.survey().snapshot
        self.data_version = 0 if frame is None else frame.data_version
        return frame

    def pieces(self, snapshot: Frame) -> Iterator[bytes]:
        """The database in the snapshot. Raises Unreachable."""
        for offset in range(snapshot.payload, snapshot.end, _PIECE):
            piece = self._file.read(offset, min(_PIECE, snapshot.end - offset))
            self._read = offset + len(piece)
            if offset == snapshot.payload and piece[_JOURNAL_KINDS] == b"\2\2":
                # Its WAL was not saved with it, and SQLite must not look for one; the version tells if one is missing.
                piece = piece[: _JOURNAL_KINDS.start] + b"\1\1" + piece[_JOURNAL_KINDS.stop :]
            yield piece

    @property
    def begin(self) -> int:
        """Offset of the first record that counts."""
        return self.survey().begin

    def changes(self) -> Iterator[OlderChange]:
        """Every change after the snapshot that was, or may have been, committed. Raises OlderDamaged or Unreachable."""
        survey = self.survey()
        begin = HEADER_SIZE if survey.snapshot is None else survey.snapshot.end
        self.data_version = 0 if survey.snapshot is None else survey.snapshot.data_version
        waiting: OlderChange | None = None
        offset = begin
        while offset < self._file.size:
            try:
                change = read_change(self._file, offset)
                replaced = self._is_replaced(waiting, change)
            except Unfit as unfit:
                error = self._judge(unfit, offset, waiting)
                if waiting is not None and (error is None or not _resent(waiting, unfit)):
                    yield self._reach(waiting)
                if error is not None:
                    raise error from None
                return
            if waiting is not None:
                if replaced:
                    self.left_out.append(waiting.data_version)
                else:
                    yield self._reach(waiting)
            waiting, offset = change, change.end
        if waiting is not None:
            yield self._reach(waiting)
        if survey.acknowledged is None:
            what = f"the records end here, and {self._what_the_header_names()}"
            raise OlderDamaged(what, self.path, offset, self.good(self.data_version))

    def remarks(self) -> list[str]:
        """After `changes`: what a person should know of them, a sentence each."""
        lines = []
        if self.left_out:
            versions = ", ".join(str(version) for version in self.left_out[:5]) + (", ..." if self.left_out[5:] else "")
            lines.append(
                f"the older plugin kept {counted(len(self.left_out), 'change')} that the node had not committed and "
                f"sent again (version {versions}); only those that were sent again count"
            )
        if self.torn is not None:
            lines.append(
                f"{self.torn}: most likely one was being written when the node stopped, and was never committed. After "
                "a power cut it may have been; then the node's own database knows more than this file"
            )
        return lines

    def refuse_if_written(self) -> None:
        """BackupError when somebody has written to the file since it was opened: then it is a living node's."""
        if self._file.is_written():
            raise BackupError(
                f"{self.path} was written while it was read, so a node with the older plugin is running; nothing was "
                "restored. That node's own database is the truth: stop it, then run: backup-cli init URL"
            )

    def good(self, version: int) -> int | None:
        """The version as the last good one; None when it is that of nothing at all."""
        return version if version or self.survey().snapshot is not None else None

    def _reach(self, change: OlderChange) -> OlderChange:
        self.data_version, self._read = change.data_version, change.end
        return change

    def _is_replaced(self, waiting: OlderChange | None, change: OlderChange) -> bool:
        """Whether `change` shows that the one before was never committed. Raises Unfit when it follows on neither."""
        reached = self.data_version if waiting is None else waiting.data_version
        stood_at = change.database_stood_at
        if stood_at == reached:
            return False
        if waiting is not None and waiting.advances and stood_at == previous(reached):
            return True
        what = f"a change made at version {stood_at} follows version {reached}"
        if ahead(stood_at, reached) > 0:
            what += ": those in between are missing"
        raise Unfit(what, change.data_version)

    def _judge(self, unfit: Unfit, offset: int, waiting: OlderChange | None) -> OlderDamaged | None:
        """Damage, or, with None, a tail that was never acknowledged."""
        reached = self.data_version if waiting is None else waiting.data_version
        acknowledged = self.survey().acknowledged
        trace = self._what_the_header_names()
        if acknowledged is not None and offset >= acknowledged:
            newer = newer_in_tail(self._file, offset, reached)
            if newer is None:
                self.torn = (
                    f"the file's last {self._file.size - offset} bytes (from byte {offset} on) hold no whole change"
                )
                return None
            trace = f"version {newer} was once saved behind it"
        good = previous(reached) if waiting is not None and _resent(waiting, unfit) else reached
        return OlderDamaged(f"{unfit.what}, and {trace}", self.path, offset, self.good(good))

    def _what_the_header_names(self) -> str:
        header = self._file.header
        return f"the header names version {header.data_version} as the last, up to byte {header.end}"

    def _refuse_two_histories(self, found: Outline) -> None:
        """A snapshot of an older state than what is before it: only a person can know which one is the node's."""
        snapshot, before = found.snapshot, found.version_before
        if snapshot is not None and before is not None and ahead(snapshot.data_version, before) < -1:
            raise OlderDamaged(
                f"behind version {before} it begins anew with a snapshot of the older version {snapshot.data_version}",
                self.path,
                snapshot.offset,
                before,
            )


def _resent(waiting: OlderChange, unfit: Unfit) -> bool:
    """Whether what could not be read was the waiting change sent again: then that one was not committed."""
    return waiting.advances and unfit.meant == waiting.data_version
