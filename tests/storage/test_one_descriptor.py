"""A file that is written through one descriptor only."""

import errno
import os
from pathlib import Path

import pytest

from backends.storage.one_descriptor import OneDescriptor


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_failed_sync_fails_every_later_durable_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The kernel reports a lost write once for each descriptor: the next sync would succeed."""
    (tmp_path / "file").touch()
    handle = OneDescriptor(lambda name: os.open(tmp_path / name, os.O_RDWR), "file")

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "lost")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing)
        with pytest.raises(OSError, match="lost"):
            handle.sync() if call == "fsync" else handle.write_durably(0, b"x")
    with pytest.raises(OSError, match="lost"):
        handle.write_durably(0, b"x")
    handle.close()
