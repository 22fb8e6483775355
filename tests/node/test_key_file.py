"""`backup.key`: read back as written, never written over another key, and every way in which it can be wrong."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from backends import keyring
from backends.errors import BackupError, FromTheFuture, KeyNeeded
from backends.keyring import DataKey
from backends.node.key_file import (
    KEY_FILE,
    NodeKey,
    earlier_key,
    finish_pending,
    key_file_is_open,
    key_in_use,
    key_until_failure,
    load_key,
    read_key,
    read_key_file,
    set_key_aside,
    write_key,
)
from backends.node.lockfile import Settings, write_settings

KEY = DataKey(bytes(range(16)), bytes(range(100, 132)))
OTHER = DataKey(b"\xab\xcd\xef\x01" + bytes(12), bytes(range(32)))
ASIDE = "backup.key.abcdef01"


@pytest.fixture(autouse=True)
def _no_key_is_known() -> Iterator[None]:
    keyring.forget()
    yield
    keyring.forget()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def forge(directory: Path, **changed: Any) -> None:
    """The file with other fields, and with the checksum that belongs to them."""
    write_key(directory, KEY)
    path = directory / KEY_FILE
    fields = {**json.loads(path.read_bytes().split(b"\n")[0]), **changed}
    put(path, json.dumps({name: value for name, value in fields.items() if value is not ...}).encode())


def put(path: Path, line: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(line + b"\n%08x\n" % crc32(line))


# Reading and writing


@pytest.mark.parametrize("pending", [False, True])
def test_backup_key_is_read_back_as_written(tmp_path: Path, pending: bool) -> None:
    write_key(tmp_path, KEY, pending=pending)
    assert read_key(tmp_path) == NodeKey(KEY, pending)
    assert read_key_file(tmp_path / "backup.key") == KEY
    assert names(tmp_path) == {"backup.key"}


def test_missing_backup_key_is_none(tmp_path: Path) -> None:
    assert read_key(tmp_path) is None
    assert load_key(tmp_path) is None
    finish_pending(tmp_path)
    assert names(tmp_path) == set()


def test_backup_key_can_be_read_by_its_owner_only_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, write = [], os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = write(path, flags, mode, **more)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    umask = os.umask(0)
    try:
        write_key(tmp_path, OTHER)
        write_key(tmp_path, KEY)
    finally:
        os.umask(umask)
    assert modes == [0o400, 0o400, 0o400]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o400}


def test_backup_key_says_nothing_about_the_machine(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    fields = json.loads((tmp_path / KEY_FILE).read_bytes().split(b"\n")[0])
    assert fields == {
        "version": 1,
        "backup_id": KEY.backup_id.hex(),
        "key_id": KEY.id,
        "key": KEY.secret.hex(),
        "pending": False,
    }


def test_copy_of_backup_key_is_as_good_under_another_name(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    copied = tmp_path / "copy on a stick"
    copied.write_bytes((tmp_path / KEY_FILE).read_bytes())
    assert read_key_file(copied) == KEY


def test_backup_key_is_synced_before_its_rename_and_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path, OTHER)
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def watched_replace(old: str, new: str, **directories: int) -> None:
        steps.append(f"rename to {new}")
        replace(old, new, **directories)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_key(tmp_path, KEY)
    assert steps == [
        f"sync {ASIDE}.tmp",
        f"rename to {ASIDE}",
        f"sync {tmp_path.name}",
        "sync backup.key.tmp",
        "rename to backup.key",
        f"sync {tmp_path.name}",
    ]


# Loading


def test_loaded_key_is_known_and_demanded(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    assert load_key(tmp_path) == NodeKey(KEY)
    assert keyring.find(KEY.id) == KEY
    assert keyring.demanded(KEY.backup_id)


def test_pending_key_is_known_and_not_demanded_until_it_is_finished(tmp_path: Path) -> None:
    write_key(tmp_path, KEY, pending=True)
    load_key(tmp_path)
    assert keyring.find(KEY.id) == KEY
    assert not keyring.demanded(KEY.backup_id)
    finish_pending(tmp_path)
    assert read_key(tmp_path) == NodeKey(KEY)
    load_key(tmp_path)
    assert keyring.demanded(KEY.backup_id)
    assert names(tmp_path) == {"backup.key"}


def test_finished_key_is_not_written_again(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    before = (tmp_path / KEY_FILE).stat()
    finish_pending(tmp_path)
    after = (tmp_path / KEY_FILE).stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_key_file_named_by_somebody_is_not_made_known(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    read_key_file(tmp_path / KEY_FILE)
    assert keyring.find(KEY.id) is None


# Other keys


def test_key_of_another_backup_is_kept_aside(tmp_path: Path) -> None:
    write_key(tmp_path, OTHER)
    write_key(tmp_path, KEY)
    assert names(tmp_path) == {"backup.key", ASIDE}
    assert read_key(tmp_path) == NodeKey(KEY)
    assert read_key_file(tmp_path / ASIDE) == OTHER


def test_other_key_of_the_same_backup_is_kept_aside(tmp_path: Path) -> None:
    older = DataKey(KEY.backup_id, OTHER.secret)
    write_key(tmp_path, older)
    write_key(tmp_path, KEY)
    assert read_key(tmp_path) == NodeKey(KEY)
    assert read_key_file(tmp_path / "backup.key.00010203") == older


def test_keys_kept_aside_are_never_overwritten(tmp_path: Path) -> None:
    keys = [DataKey(OTHER.backup_id, bytes([number]) * 32) for number in range(4)]
    for key in (*keys, KEY):
        write_key(tmp_path, key)
    assert names(tmp_path) == {"backup.key", ASIDE, *(f"{ASIDE}.{number}" for number in (2, 3, 4))}
    kept = [read_key_file(tmp_path / name) for name in (ASIDE, f"{ASIDE}.2", f"{ASIDE}.3", f"{ASIDE}.4")]
    assert kept == keys


def test_key_that_comes_and_goes_is_kept_aside_once(tmp_path: Path) -> None:
    for key in (OTHER, KEY, OTHER, KEY, OTHER, KEY):
        write_key(tmp_path, key)
    assert names(tmp_path) == {"backup.key", ASIDE, "backup.key.00010203"}


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 300])
def test_damaged_backup_key_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    write_key(tmp_path, KEY)
    assert read_key(tmp_path) == NodeKey(KEY)
    assert (tmp_path / "backup.key.damaged").read_bytes() == content


def test_backup_key_of_later_release_is_kept_aside(tmp_path: Path) -> None:
    forge(tmp_path, version=2)
    content = (tmp_path / KEY_FILE).read_bytes()
    write_key(tmp_path, KEY)
    assert (tmp_path / "backup.key.damaged").read_bytes() == content


def test_link_or_directory_under_the_name_of_a_kept_key_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("keep me")
    (tmp_path / ASIDE).symlink_to("elsewhere")
    (tmp_path / f"{ASIDE}.2").mkdir()
    write_key(tmp_path, OTHER)
    write_key(tmp_path, KEY)
    assert read_key_file(tmp_path / f"{ASIDE}.3") == OTHER
    assert (tmp_path / "elsewhere").read_text() == "keep me"
    assert (tmp_path / ASIDE).is_symlink()


def test_backup_key_is_not_written_when_no_name_is_left_for_the_other(tmp_path: Path) -> None:
    write_key(tmp_path, OTHER)
    for number in range(1, 200):
        (tmp_path / (ASIDE if number == 1 else f"{ASIDE}.{number}")).write_text("taken")
    with pytest.raises(BackupError, match=r"could not be written \(there are 100 older keys"):
        write_key(tmp_path, KEY)
    assert read_key(tmp_path) == NodeKey(OTHER)


# Failures and crashes while it is written


class Killed(BaseException):
    """The process is gone: nothing is cleaned up."""


STEPS = ("open", "fsync", "replace", "unlink")
"""The calls that change something, or make it durable."""


@contextmanager
def interrupted(number: int, error: Callable[[], BaseException], *, after: bool = False) -> Iterator[list[str]]:
    """Raise the error at the call of this number, before or after it is done. Gives the calls until now."""
    calls: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) != number:
                return call(*arguments, **named)
            if after:
                with suppress(OSError):
                    call(*arguments, **named)
            raise error()

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        yield calls


def keys_in(directory: Path) -> set[DataKey]:
    return {read_key_file(path) for path in directory.iterdir() if path.suffix != ".tmp"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("pending", [False, True])
def test_crash_at_any_step_of_write_leaves_old_key_or_new_one_and_loses_none(
    tmp_path: Path, after: bool, pending: bool
) -> None:
    found = set()
    for number in range(1, 100):
        directory = tmp_path / str(number)
        directory.mkdir()
        write_key(directory, OTHER)
        with interrupted(number, Killed, after=after) as calls, suppress(Killed):
            write_key(directory, KEY, pending=pending)
        now = read_key(directory)
        assert now in (NodeKey(OTHER), NodeKey(KEY, pending))
        assert OTHER in keys_in(directory)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o400 for path in directory.iterdir())
        found.add(now)
        write_key(directory, KEY, pending=pending)
        assert read_key(directory) == NodeKey(KEY, pending)
        assert names(directory) <= {"backup.key", ASIDE, f"{ASIDE}.tmp"}
        assert keys_in(directory) == {KEY, OTHER}
        if len(calls) < number:
            break
    assert number > 10
    assert found == {NodeKey(OTHER), NodeKey(KEY, pending)}


def test_crash_at_any_step_of_finishing_leaves_the_key(tmp_path: Path) -> None:
    for number in range(1, 100):
        directory = tmp_path / str(number)
        directory.mkdir()
        write_key(directory, KEY, pending=True)
        with interrupted(number, Killed) as calls, suppress(Killed):
            finish_pending(directory)
        now = read_key(directory)
        assert now is not None
        assert now.key == KEY
        finish_pending(directory)
        assert read_key(directory) == NodeKey(KEY)
        if len(calls) < number:
            break
    assert number > 5


def test_failed_call_at_any_step_of_write_is_named_and_loses_no_key(tmp_path: Path) -> None:
    messages: set[str] = set()
    for number in range(1, 100):
        directory = tmp_path / str(number)
        directory.mkdir()
        write_key(directory, OTHER)
        with interrupted(number, lambda: OSError(28, "No space left on device")) as calls:
            try:
                write_key(directory, KEY)
            except BackupError as error:
                messages.add(str(error).replace(str(directory), "DIR"))
        assert OTHER in keys_in(directory)
        assert read_key(directory) in (NodeKey(OTHER), NodeKey(KEY))
        if len(calls) < number:
            break
    assert number > 10
    (message,) = messages
    assert message.startswith("DIR/backup.key could not be written (No space left on device), so this node does not")


def test_leftover_of_a_crash_is_replaced_although_it_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("keep me")
    (tmp_path / "backup.key.tmp").symlink_to("elsewhere")
    write_key(tmp_path, KEY)
    assert read_key(tmp_path) == NodeKey(KEY)
    assert names(tmp_path) == {"backup.key", "elsewhere"}
    assert (tmp_path / "elsewhere").read_text() == "keep me"


def test_backup_key_in_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"could not be written.*node's own files are untouched"):
        write_key(tmp_path / "missing", KEY)


# Wrong files


def test_every_changed_byte_of_backup_key_is_noticed(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    data, path = (tmp_path / KEY_FILE).read_bytes(), tmp_path / "changed"
    for offset in range(len(data)):
        for flip in (0x01, 0x20):  # the second changes a letter's case
            path.write_bytes(data[:offset] + bytes([data[offset] ^ flip]) + data[offset + 1 :])
            with pytest.raises(KeyNeeded):
                read_key_file(path)


def test_cut_off_backup_key_is_noticed(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    data, path = (tmp_path / KEY_FILE).read_bytes(), tmp_path / "changed"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(KeyNeeded):
            read_key_file(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 70000, b"\xff\xfe\x00", b'{"backend_url": "file:///b"}\n'],
    ids=["empty", "huge", "raw", "lock"],
)
def test_damaged_backup_key_says_how_to_make_it_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    expected = r"backup\.key .*untouched.*hsm_secret or a passphrase, by: backup-cli keys --restore-key URL"
    for read in (read_key, load_key, finish_pending):
        with pytest.raises(KeyNeeded, match=expected) as error:
            read(tmp_path)
        assert (error.value.kind, error.value.exit_code) == ("key_needed", 1)
    assert (tmp_path / KEY_FILE).read_bytes() == content


@pytest.mark.parametrize("line", [b"", b"null", b"7", b'["version"]', b"{}", b"{" * 60000, b"[" * 60000, b"\xff"])
def test_senseless_line_with_right_checksum_is_damaged(tmp_path: Path, line: bytes) -> None:
    put(tmp_path / KEY_FILE, line)
    with pytest.raises(KeyNeeded, match="is damaged"):
        read_key(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 0},
        {"version": True},
        {"version": "1"},
        {"version": ...},
        {"backup_id": ...},
        {"backup_id": "00" * 15},
        {"backup_id": "00" * 16},
        {"backup_id": 7},
        {"key": ...},
        {"key": "00" * 32},
        {"key": "00" * 33},
        {"key": "zz" * 32},
        {"key": None},
        {"key_id": ...},
        {"key_id": "00" * 8},
        {"pending": ...},
        {"pending": 0},
        {"pending": "no"},
    ],
    ids=str,
)
def test_impossible_field_of_backup_key_is_damage(tmp_path: Path, changed: dict[str, Any]) -> None:
    forge(tmp_path, **changed)
    with pytest.raises(KeyNeeded, match="is damaged") as error:
        read_key(tmp_path)
    assert KEY.secret.hex() not in str(error.value)


def test_backup_key_of_later_release_says_so(tmp_path: Path) -> None:
    forge(tmp_path, version=2)
    with pytest.raises(FromTheFuture, match=r"its format is 2.*install that release again"):
        read_key(tmp_path)


def test_link_to_a_key_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_key(elsewhere, OTHER)
    (tmp_path / KEY_FILE).symlink_to(elsewhere / KEY_FILE)
    with pytest.raises(KeyNeeded, match="it is a link, and links to a key are not followed"):
        read_key(tmp_path)
    with pytest.raises(KeyNeeded, match="it is a link"):
        read_key_file(tmp_path / KEY_FILE)
    with pytest.raises(BackupError, match=r"could not be written.*it is a link"):
        write_key(tmp_path, KEY)
    assert read_key(elsewhere) == NodeKey(OTHER)
    assert (tmp_path / KEY_FILE).is_symlink()


def test_pipe_or_directory_in_place_of_backup_key_is_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(KeyNeeded):
            read_key_file(tmp_path / name)


def test_missing_named_key_file_says_what_else_opens_the_backup(tmp_path: Path) -> None:
    with pytest.raises(KeyNeeded, match=r"there is no .*nowhere.*--hsm-secret FILE or --passphrase-file FILE"):
        read_key_file(tmp_path / "nowhere")


def test_backup_key_of_another_user_says_who_must_run_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root no file is closed, so the refusal is the system's in name only."""
    write_key(tmp_path, OTHER)
    with monkeypatch.context() as patch:

        def closed(path: Any, *_: Any, **__: Any) -> int:
            raise PermissionError(13, "Permission denied", str(path))

        patch.setattr(os, "open", closed)
        with pytest.raises(KeyNeeded, match=r"belongs to another user; .*run this as the user that lightningd runs as"):
            read_key(tmp_path)
        with pytest.raises(BackupError, match=r"could not be written \(Permission denied\)"):
            write_key(tmp_path, KEY)
    assert read_key(tmp_path) == NodeKey(OTHER)


# Who may read it


@pytest.mark.parametrize(
    ("mode", "is_open"),
    [(0o400, False), (0o600, False), (0o700, False), (0o440, True), (0o404, True), (0o644, True), (0o420, True)],
)
def test_key_file_that_others_can_use_is_open(tmp_path: Path, mode: int, is_open: bool) -> None:
    write_key(tmp_path, KEY)
    (tmp_path / KEY_FILE).chmod(mode)
    assert key_file_is_open(tmp_path / KEY_FILE) is is_open


def test_missing_key_file_is_not_open(tmp_path: Path) -> None:
    assert not key_file_is_open(tmp_path / KEY_FILE)


def test_failed_change_to_another_backup_leaves_the_earlier_key_and_no_copy(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    with pytest.raises(OSError, match="disk"), key_until_failure(tmp_path, OTHER):
        assert read_key(tmp_path) == NodeKey(OTHER)
        raise OSError("the disk is full")
    assert read_key(tmp_path) == NodeKey(KEY)
    assert names(tmp_path) == {"backup.key"}


def test_key_of_an_earlier_backup_is_set_aside_for_a_plain_one(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    assert set_key_aside(tmp_path, KEY.backup_id.hex()) is None
    aside = set_key_aside(tmp_path, OTHER.backup_id.hex())
    assert aside is not None and names(tmp_path) == {aside.name}
    assert earlier_key(tmp_path, KEY.backup_id.hex()) == NodeKey(KEY)
    assert earlier_key(tmp_path, OTHER.backup_id.hex()) is None
    assert set_key_aside(tmp_path, OTHER.backup_id.hex()) is None


def test_crash_between_key_and_lock_leaves_the_key_of_the_backup_that_counts_in_use(tmp_path: Path) -> None:
    write_key(tmp_path, KEY)
    write_settings(tmp_path, Settings("file:///backup", KEY.backup_id.hex()))
    write_key(tmp_path, OTHER)
    assert key_in_use(tmp_path) == NodeKey(KEY)
    load_key(tmp_path)
    assert keyring.find(KEY.id) == KEY
    write_settings(tmp_path, Settings("file:///other", OTHER.backup_id.hex()))
    assert key_in_use(tmp_path) == NodeKey(OTHER)
