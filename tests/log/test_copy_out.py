"""The copy that a compaction makes on the node's disk is brought to the disk before the kernel does it all at once."""

from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from backends.compaction import copy_out
from backends.compaction.copy_out import AT_ONCE, CopyOut
from backends.log.writer.pace import Pace
from backends.system import write_out
from backends.system.commits import Commits


class Written:
    """What was written out, as `(offset, length)`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[tuple[int, int]] = []
        monkeypatch.setattr(write_out, "write_out", self._write_out)
        monkeypatch.setattr(copy_out, "BEGIN_AFTER", 0.0)

    def _write_out(self, descriptor: int, offset: int, length: int) -> bool:
        self.parts.append((offset, length))
        return True


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


def test_growing_copy_is_written_out_from_its_beginning_on(tmp_path: Path, written: Written) -> None:
    copy, size = tmp_path / "copy", 2 * AT_ONCE + 5000
    with CopyOut(copy, Pace(Commits())) as out:
        out.go_on()  # it need not exist yet
        copy.write_bytes(bytes(size))
        for _ in range(3):
            out.go_on()
    assert written.parts[0][0] == 0
    assert all(one + length == other for (one, length), (other, _) in pairwise(written.parts))
    assert sum(length for _, length in written.parts) == size


def test_copy_is_written_out_again_for_what_is_replayed_into_it(tmp_path: Path, written: Written) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(bytes(10_000))
    with CopyOut(copy, Pace(Commits())) as out:
        out.go_on()
        out.go_on()
    assert [offset for offset, _ in written.parts] == [0, 0]


def test_copy_that_is_gone_soon_is_not_written(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wear out a memory card for nothing."""
    monkeypatch.undo()
    monkeypatch.setattr(write_out, "write_out", written._write_out)
    (tmp_path / "copy").write_bytes(bytes(10_000))
    with CopyOut(tmp_path / "copy", Pace(Commits())) as out:
        out.go_on()
    assert written.parts == []


def test_nothing_stays_open(tmp_path: Path, written: Written) -> None:
    before = psutil.Process().num_fds()
    (tmp_path / "copy").write_bytes(bytes(10_000))
    with CopyOut(tmp_path / "copy", Pace(Commits())) as out:
        out.go_on()
        assert psutil.Process().num_fds() == before + 1
    assert psutil.Process().num_fds() == before
