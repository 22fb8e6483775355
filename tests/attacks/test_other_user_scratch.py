"""Another local user, or another container, and the scratch directories that hold a whole database for a while."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.system.scratch import remove_left_over, scratch_directory
from tests.end_to_end.world import World, spawned
from tests.end_to_end.world import command as backup_cli
from tests.fake_lightningd import History

NOBODY = 65534
HOLD = """
import sys, time
from pathlib import Path
from backends.system.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as directory:
    (directory / "copy.sqlite3").write_text("a whole database")
    print(directory.name, flush=True)
    time.sleep(60)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world-writable sticky directory, as /var/tmp is."""
    path = tmp_path_factory.mktemp("shared")
    path.chmod(0o1777)
    return path


def deep(place: Path, name: str, levels: int = 1500) -> None:
    """Directories within each other, made without a path that is too long, as an attacker would."""
    above = os.open(place, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, 0o777, dir_fd=above)
        inner = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(above)


def as_nobody(act: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            act()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@as_root
@pytest.mark.parametrize("name", [".lightningd-backup-999999999-x", ".lightningd-backup-0123456789abcdef"])
def test_deeply_nested_directories_of_another_user_stop_no_command(
    world: World, history: History, shared: Path, name: str
) -> None:
    """From a real finding: 1,500 of them ended `verify`, `import`, `drill` and `compact` with RecursionError."""
    world.init().run([history.first(), *history.notes(3)])
    shared.parent.chmod(0o755)
    descriptor = os.open(shared, os.O_RDONLY)

    def attack() -> None:
        os.fchdir(descriptor)
        deep(Path(), name)

    as_nobody(attack)
    for words in (["verify", "--scratch", shared, world.url], ["compact", "--scratch", shared, world.url]):
        said = spawned(*backup_cli(*words))
        assert said.code == 0, said
    said = spawned(*backup_cli("drill"), environment={"TMPDIR": str(shared)})
    assert said.code == 0, said
    assert [path.name for path in shared.iterdir()] == [name], "what is not ours is not touched"
    subprocess.run(["rm", "-rf", str(shared)], check=True)  # pytest's own clean-up would recurse, too


def test_deeply_nested_leftovers_of_our_own_stop_nothing(shared: Path) -> None:
    deep(shared, ".lightningd-backup-x", 1200)
    (shared / ".lightningd-backup-x" / "lock").touch()
    with scratch_directory(shared):
        pass
    assert (shared / ".lightningd-backup-x").exists()
    subprocess.run(["rm", "-rf", str(shared)], check=True)


def test_link_named_like_a_leftover_is_not_followed(tmp_path: Path, shared: Path) -> None:
    """A link of such a name must not empty the directory that it leads to."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "hsm_secret").touch()
    (precious / "lock").touch()
    for name in ("999999999-x", "0123456789abcdef", "²-x"):
        (shared / f".lightningd-backup-{name}").symlink_to(precious)
    with scratch_directory(shared):
        pass
    assert (precious / "hsm_secret").exists()


def test_links_inside_a_removed_leftover_are_not_followed(tmp_path: Path, shared: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "hsm_secret").touch()
    left = shared / ".lightningd-backup-x"
    left.mkdir(0o700)
    (left / "lock").touch()
    (left / "directory").symlink_to(precious)
    (left / "file").symlink_to(precious / "hsm_secret")
    remove_left_over(shared)
    assert not left.exists()
    assert (precious / "hsm_secret").exists()


def test_scratch_directory_in_use_in_another_pid_namespace_is_kept(shared: Path) -> None:
    """From a real failure: a `verify` in one container removed the directory of a running one in another, because a
    process id means nothing there."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        unshare = [*unshare, "--map-root-user", "--user"]
        if subprocess.run([*unshare, "true"], capture_output=True).returncode:
            pytest.skip("no PID namespaces here")
    holder = subprocess.Popen(
        [*unshare, sys.executable, "-c", HOLD, shared], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert holder.stdout is not None
    name = holder.stdout.readline().strip()
    try:
        with scratch_directory(shared):
            pass
        assert (shared / name / "copy.sqlite3").exists()
    finally:
        holder.kill()
        holder.wait()


def test_scratch_directory_of_a_killed_process_is_removed(shared: Path) -> None:
    """The leftover holds a whole database."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, shared], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    name = holder.stdout.readline().strip()
    with scratch_directory(shared):
        assert (shared / name).exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with scratch_directory(shared):
        assert not (shared / name).exists()


@pytest.mark.parametrize("hours", [0, 2])
def test_scratch_directory_without_a_lock_is_removed_after_hours_only(shared: Path, hours: int) -> None:
    empty = shared / ".lightningd-backup-x"
    empty.mkdir(0o700)
    before = empty.stat().st_mtime - hours * 3600
    os.utime(empty, (before, before))
    remove_left_over(shared)
    assert empty.exists() == (hours == 0)


def test_scratch_directory_emptied_before_it_is_locked_is_made_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two calls another process takes the new directory for a leftover."""
    real, raced = os.mkdir, list[str]()

    def mkdir(name: str, mode: int, *, dir_fd: int) -> None:
        real(name, mode, dir_fd=dir_fd)
        if not raced:
            raced.append(name)
            shutil.rmtree(shared / name)

    monkeypatch.setattr("os.mkdir", mkdir)
    with scratch_directory(shared) as directory:
        assert directory.is_dir()
        assert directory.name != raced[0]


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_scratch_directory_is_not_made_where_others_can_swap_it(shared: Path, mode: int) -> None:
    shared.chmod(mode)
    if mode == 0o1777:
        with scratch_directory(shared) as directory:
            assert directory.stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(BackupError, match="other users may rename"), scratch_directory(shared):
            pass
    assert list(shared.iterdir()) == []
