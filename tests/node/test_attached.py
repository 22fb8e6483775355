"""The node's files that travel with its backup: read safely, and put back without replacing anything."""

import errno
import os
from pathlib import Path

import pytest

from backends.log.format.attachments import Attachment
from backends.node.attached import Unfit, put_node_file, read_node_file, stamp_of

EMERGENCY, SECRET = Attachment.EMERGENCY, Attachment.SECRET


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the node's `emergency.recover` is."""
    return tmp_path / EMERGENCY.value


def test_file_of_the_node_is_read_with_how_it_looks(path: Path) -> None:
    assert stamp_of(path.parent, EMERGENCY) is None
    with pytest.raises(FileNotFoundError):
        read_node_file(path.parent, EMERGENCY)
    path.write_bytes(b"\0\xffchannels")
    file = read_node_file(path.parent, EMERGENCY)
    assert file.content == b"\0\xffchannels"
    assert file.stamp == stamp_of(path.parent, EMERGENCY)


def test_change_of_size_time_or_file_is_seen(path: Path) -> None:
    path.write_bytes(b"one")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    seen = [stamp_of(path.parent, EMERGENCY)]
    path.write_bytes(b"three")
    seen.append(stamp_of(path.parent, EMERGENCY))
    os.utime(path, (1_700_000_001, 1_700_000_001))
    seen.append(stamp_of(path.parent, EMERGENCY))
    other = path.with_name("scb.tmp")
    other.write_bytes(b"seven")
    os.utime(other, (1_700_000_001, 1_700_000_001))
    other.rename(path)
    seen.append(stamp_of(path.parent, EMERGENCY))
    assert len(set(seen)) == 4


def test_link_pipe_directory_empty_and_too_large_files_are_not_read(path: Path) -> None:
    elsewhere = path.with_name("shadow")
    elsewhere.write_bytes(b"another file")
    path.symlink_to(elsewhere)
    with pytest.raises(Unfit, match="it is a link"):
        read_node_file(path.parent, EMERGENCY)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unfit, match="it is not a file"):
        read_node_file(path.parent, EMERGENCY)
    path.unlink()
    path.mkdir()
    with pytest.raises(Unfit, match="it is not a file"):
        read_node_file(path.parent, EMERGENCY)
    path.rmdir()
    path.write_bytes(b"")
    with pytest.raises(Unfit, match="it is empty"):
        read_node_file(path.parent, EMERGENCY)
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(Unfit, match=r"it has 1048577 bytes"):
        read_node_file(path.parent, EMERGENCY)
    (path.parent / SECRET.value).write_bytes(bytes(1025))
    with pytest.raises(Unfit, match=r"no more than 1024"):
        read_node_file(path.parent, SECRET)


@pytest.mark.parametrize(("which", "mode"), [(EMERGENCY, 0o600), (SECRET, 0o400)])
def test_file_that_is_put_back_is_whole_and_closed_to_others(tmp_path: Path, which: Attachment, mode: int) -> None:
    put_node_file(tmp_path, which, b"content")
    assert (tmp_path / which.value).read_bytes() == b"content"
    assert (tmp_path / which.value).stat().st_mode & 0o7777 == mode
    assert (tmp_path / which.value).stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == [tmp_path / which.value]


@pytest.mark.parametrize("links", [True, False])
def test_file_or_dangling_link_in_its_place_is_left(path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        refuse_links(monkeypatch)
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        put_node_file(path.parent, EMERGENCY, b"theirs")
    assert path.read_bytes() == b"mine"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        put_node_file(path.parent, EMERGENCY, b"theirs")
    assert path.is_symlink()
    assert list(path.parent.iterdir()) == [path]


def test_file_is_put_back_where_there_are_no_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch)
    put_node_file(path.parent, EMERGENCY, b"content")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_file_that_cannot_be_synced_is_not_put_back_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "a fault made for a test")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="a fault made for a test"):
        put_node_file(path.parent, EMERGENCY, b"content")
    assert list(path.parent.iterdir()) == []


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard link can be made, as on FAT."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", fail)
