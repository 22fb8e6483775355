"""What a command keeps of what it has read from far away: found again, by its child process, too, and bounded."""

import errno
import os
import sys
from pathlib import Path
from subprocess import run

import pytest

from backends.system import spool
from backends.system.scratch import scratch_place
from backends.system.spool import Spool


def test_piece_is_found_again_as_it_was() -> None:
    kept = Spool()
    pieces = {f"place\n{number}": bytes([number]) * (number * 997) for number in range(20)}
    for name, data in pieces.items():
        kept.put(name, data)
        kept.put(name, b"another")  # nothing that is kept changes
    assert {name: kept.get(name) for name in pieces} == pieces
    assert kept.get("place\n20") is None
    kept.put("place\n3", b"longer now", again=True)
    assert kept.get("place\n3") == b"longer now"
    kept.close()
    assert kept.get("place\n3") is None


def test_child_reads_what_was_kept_and_can_write_nothing() -> None:
    kept = Spool()
    assert kept.for_child() is None, "there is nothing to give"
    kept.put("one", b"1" * 100_000)
    kept.put("two", b"old")
    kept.put("two", b"new", again=True)
    kept.put("empty", b"")
    descriptor = kept.for_child()
    assert descriptor is not None
    code = (
        "import os, sys; from backends.system import spool; spool.take(int(sys.argv[1])); kept = spool.current(); "
        "kept.put('three', b'3'); print(len(kept.get('one')), kept.get('two'), kept.get('empty'), kept.get('three'));\n"
        "try: os.pwrite(int(sys.argv[1]), b'x', 0)\nexcept OSError: print('read-only')"
    )
    said = run([sys.executable, "-c", code, str(descriptor)], pass_fds=(descriptor,), capture_output=True, text=True)
    os.close(descriptor)
    assert said.stdout.split() == ["100000", "b'new'", "b''", "None", "read-only"], said


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_BYTES", 1000)
    kept = Spool()
    for number in range(20):
        kept.put(str(number), bytes(100))
    assert [kept.get(str(number)) is not None for number in range(20)] == [True] * 9 + [False] * 11
    monkeypatch.setattr(spool, "MAX_PIECES", 2)
    kept = Spool()
    for number in range(3):
        kept.put(str(number), b"x")
    assert [kept.get(str(number)) for number in range(3)] == [b"x", b"x", None]


def test_full_disk_is_no_error_and_what_was_kept_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Spool()
    kept.put("one", b"1")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.pwrite", full)
    kept.put("two", b"2")
    assert (kept.get("one"), kept.get("two")) == (b"1", None)


def test_file_has_no_name_and_ends_with_the_command() -> None:
    assert spool.current() is None
    with spool.keeping():
        kept = spool.current()
        assert kept is not None
        kept.put("one", b"1")
        file = Path(f"/proc/self/fd/{kept._descriptor}").readlink()
        assert file.parent == scratch_place()
        assert not file.exists()
    assert spool.current() is None
    assert kept.get("one") is None
