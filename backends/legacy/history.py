"""One pass over the changes of a legacy backup that count, from the first to the last one that can be trusted.

Which record counts when two in a row have the same version? Each change itself shows at which version the database was
when it was made: a change that ends with the bump was made at the version before its own, a lone PRAGMA at its own.
- Two changes with the bump: when the second was made, the first had not been committed, or the database would have been
  one version further. The node had died in between; only the second one counts.
- A lone PRAGMA after a change of the same version: the database was at that version, so the change was committed, and
  both count.
An incomplete record proves nothing: the change before it is kept, as if the node had died after committing it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.change import ahead, previous
from backends.legacy.changes import LegacyChange, read_change
from backends.legacy.errors import LegacyDamaged, Unfit
from backends.legacy.file import HEADER_SIZE, LegacyFile
from backends.legacy.outline import Outline
from backends.legacy.tail import newer_in_tail
from backends.text import counted


@dataclass(frozen=True, slots=True)
class LegacyEnd:
    """How the changes of a legacy backup end, known once all of them have been read."""

    torn: str | None
    """For people: what follows the last complete change, if anything."""


class LegacyChanges:
    """Every change after the snapshot that counts; iterate it once. Iterating raises LegacyDamaged or Unreachable."""

    def __init__(self, file: LegacyFile, path: Path, survey: Outline) -> None:
        self._file, self._path, self._survey = file, path, survey
        self.data_version = 0 if survey.snapshot is None else survey.snapshot.data_version
        """The version that the changes passed so far lead to."""
        self._left_out: list[int] = []
        self._end: LegacyEnd | None = None
        self._each = self._changes()

    def __iter__(self) -> Iterator[LegacyChange]:
        """Always the same iterator."""
        return self._each

    def left_out(self) -> list[int]:
        """Versions of the changes passed so far that do not count: they were never committed, and were sent again."""
        return list(self._left_out)

    def end(self) -> LegacyEnd:
        """How the changes end. Raises RuntimeError before all of them have been read."""
        if self._end is None:
            raise RuntimeError("the changes have not been read to their end")
        return self._end

    def good(self, version: int) -> int | None:
        """`version` as the last good one; None for version 0 without a snapshot, where nothing good precedes it."""
        return version if version or self._survey.snapshot is not None else None

    def _changes(self) -> Iterator[LegacyChange]:
        waiting: LegacyChange | None = None
        offset = HEADER_SIZE if self._survey.snapshot is None else self._survey.snapshot.end
        while offset < self._file.size:
            try:
                change = read_change(self._file, offset)
                replaced = self._is_replaced(waiting, change)
            except Unfit as unfit:
                verdict = self._judge(unfit, offset, waiting)
                if waiting is not None and (isinstance(verdict, str) or not _resent(waiting, unfit)):
                    yield self._reach(waiting)
                if isinstance(verdict, LegacyDamaged):
                    raise verdict from None
                self._end = LegacyEnd(verdict)
                return
            if waiting is not None:
                if replaced:
                    self._left_out.append(waiting.data_version)
                else:
                    yield self._reach(waiting)
            waiting, offset = change, change.end
        if waiting is not None:
            yield self._reach(waiting)
        if self._survey.acknowledged is None:
            what = f"the records end here, but {self._what_the_header_names()}"
            raise LegacyDamaged(what, self._path, offset, self.good(self.data_version))
        self._end = LegacyEnd(None)

    def _reach(self, change: LegacyChange) -> LegacyChange:
        self.data_version = change.data_version
        return change

    def _is_replaced(self, waiting: LegacyChange | None, change: LegacyChange) -> bool:
        """Whether `change` shows that `waiting`, the change before it, was never committed.

        Raises Unfit when it can follow neither `waiting` nor the change before that.
        """
        reached = self.data_version if waiting is None else waiting.data_version
        stood_at = change.database_stood_at
        if stood_at == reached:
            return False
        if waiting is not None and waiting.advances and stood_at == previous(reached):
            return True
        what = f"a change made at version {stood_at} follows version {reached}"
        if ahead(stood_at, reached) > 0:
            what += ": the changes in between are missing"
        raise Unfit(what, change.data_version)

    def _judge(self, unfit: Unfit, offset: int, waiting: LegacyChange | None) -> LegacyDamaged | str:
        """What the unfit bytes at `offset` mean: damage, or (as text for people) a tail that was never acknowledged."""
        reached = self.data_version if waiting is None else waiting.data_version
        acknowledged = self._survey.acknowledged
        trace = self._what_the_header_names()
        if acknowledged is not None and offset >= acknowledged:
            newer = newer_in_tail(self._file, offset, reached)
            if newer is None:
                count = counted(self._file.size - offset, "byte")
                return f"there is no complete change in the last {count} of the file (from byte {offset} on)"
            trace = f"version {newer} was once saved after it"
        good = previous(reached) if waiting is not None and _resent(waiting, unfit) else reached
        return LegacyDamaged(f"{unfit.what}, and {trace}", self._path, offset, self.good(good))

    def _what_the_header_names(self) -> str:
        header = self._file.header
        return f"the header names version {header.data_version} as the last, ending at byte {header.end}"


def remarks(left_out: list[int], torn: str | None) -> list[str]:
    """What a person should know about changes that were left out and about a torn end, a sentence each."""
    lines = []
    if left_out:
        versions = ", ".join(str(version) for version in left_out[:5]) + (", ..." if left_out[5:] else "")
        named = f"{'version' if len(left_out) == 1 else 'versions'} {versions}"
        lines.append(
            f"the older plugin kept {counted(len(left_out), 'change')} that the node had not committed and later "
            f"sent again ({named}); only what was sent again counts"
        )
    if torn is not None:
        lines.append(
            f"{torn}: most likely a change was being written when the node stopped, and was never committed. After "
            "a power cut, it may have been committed; then the node's own database is newer than this file"
        )
    return lines


def _resent(waiting: LegacyChange, unfit: Unfit) -> bool:
    """Whether the unfit bytes were `waiting` being sent again: then `waiting` was never committed."""
    return waiting.advances and unfit.meant == waiting.data_version
