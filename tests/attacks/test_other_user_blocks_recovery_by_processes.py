"""Another local user keeps a node from being restored, with processes that look like its lightningd.

Each attack is made by real processes of another user; the node's user and root can still recover the node.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.world import Said, World, command, spawned
from tests.fake_lightningd import History
from tests.node.processes import running
from tests.other_user import as_user, only_root

pytestmark = only_root

NODE, ATTACKER = 65533, 65534

ASK = "import sys; from pathlib import Path; from backends.node.running import running_lightningd as f\n"
ASK += "print(f(Path(sys.argv[1])))"

Attack = Callable[[World], AbstractContextManager[object]]


@pytest.fixture
def victim() -> Iterator[World]:
    """A stopped node whose directory others may read, as after `chmod -R a+rX`."""
    root = Path(tempfile.mkdtemp(prefix="victim-"))
    try:
        world, history = World(root), History()
        world.init().run([history.first(), *history.notes(3)])
        (world.directory.parent / "lightningd-regtest.pid").write_text("4711\n")
        for path in [root, *root.rglob("*")]:
            os.chown(path, NODE, NODE)
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield world
    finally:
        shutil.rmtree(root)


@contextmanager
def started(words: list[object], name: str, directory: Path | None = None, says: bytes = b"") -> Iterator[None]:
    """A process of another user: this program under the name lightningd, running, after its first output."""
    with tempfile.TemporaryDirectory(prefix="attacker-") as own:
        Path(own).chmod(0o755)
        Path(own, "lightningd").symlink_to(name)
        process = subprocess.Popen(
            [*as_user(ATTACKER), f"{own}/lightningd", *map(str, words)],
            cwd=directory or own,
            env=os.environ | {"PYTHONHOME": sys.base_prefix},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.read(1).startswith(says)
            assert process.poll() is None
            yield
        finally:
            process.kill()
            process.communicate()


def attacker(program: str, *arguments: object, directory: Path | None = None) -> AbstractContextManager[object]:
    source = f"import fcntl, sys, time\na = sys.argv[1:]\n{program}\nprint('ready', flush=True)\ntime.sleep(60)"
    return started(["-c", source, *arguments], sys.executable, directory, b"r")


def names_itself(world: World) -> AbstractContextManager[object]:
    return attacker("", f"--lightning-dir={world.directory.parent}", "--network=regtest")


def works_there(world: World) -> AbstractContextManager[object]:
    return attacker("", f"--lightning-dir={world.directory.parent}", "--regtest", directory=world.directory)


def leaves_the_network_open(world: World) -> AbstractContextManager[object]:
    return attacker("", "--lightning-dir", world.directory.parent)


def locks_the_pid_file_for_reading(world: World) -> AbstractContextManager[object]:
    program = "f = open(a[0]); fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB)"
    return attacker(program, world.directory.parent / "lightningd-regtest.pid")


def reads_the_database(world: World) -> AbstractContextManager[object]:
    return attacker("f = open(a[0], 'rb')", world.database)


def has_root_wait_for_a_password(world: World) -> AbstractContextManager[object]:
    """A setuid program runs as root, and whoever starts it chooses its name and arguments."""
    program = shutil.which("su")
    if program is None or not Path(program).stat().st_mode & 0o4000:
        pytest.skip("no setuid su here")
    return started(["root", "--", f"--lightning-dir={world.directory.parent}", "--network=regtest"], program)


@contextmanager
def points_the_pid_file_at_a_lock_of_roots(world: World) -> Iterator[None]:
    """If the directory above is world-writable: a link to a file that some service of root's keeps locked."""
    service, pid_file = world.root / "service.pid", world.directory.parent / "lightningd-regtest.pid"
    with running("f = open(a[0], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)", service):
        pid_file.unlink()
        pid_file.symlink_to(service)
        os.lchown(pid_file, ATTACKER, ATTACKER)
        yield


@contextmanager
def locks_a_pid_file_of_his_own(world: World) -> Iterator[None]:
    """If the directory above is world-writable: a pid file of the attacker's own, locked."""
    pid_file = world.directory.parent / "lightningd-regtest.pid"
    os.chown(pid_file, ATTACKER, ATTACKER)
    with attacker("f = open(a[0], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX)", pid_file):
        yield


ATTACKS: list[Attack] = [
    names_itself,
    works_there,
    leaves_the_network_open,
    locks_the_pid_file_for_reading,
    reads_the_database,
    has_root_wait_for_a_password,
    points_the_pid_file_at_a_lock_of_roots,
    locks_a_pid_file_of_his_own,
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("user", [NODE, 0], ids=["for the node's user", "for root"])
def test_process_of_another_user_is_not_taken_for_the_nodes_lightningd(
    victim: World, attack: Attack, user: int
) -> None:
    with attack(victim):
        said = spawned(*as_user(user), sys.executable, "-c", ASK, victim.directory)
    assert said == Said(0, "None\n", "")


@pytest.mark.parametrize("user", [NODE, 0], ids=["by the node's user", "by root"])
def test_node_is_recovered_while_all_attacks_run_at_once(victim: World, user: int) -> None:
    with ExitStack() as held:
        for attack in (names_itself, works_there, locks_the_pid_file_for_reading, reads_the_database):
            held.enter_context(attack(victim))
        for words in (
            ["restore", victim.url, str(victim.database), "--replace"],
            ["resync", "--lightning-dir", str(victim.directory)],
            ["init", "--lightning-dir", str(victim.directory), victim.backup.with_name("second.bkp").as_uri()],
        ):
            if words[0] == "init":
                (victim.directory / "backup.lock").unlink()
            said = spawned(*as_user(user), *command(*words))
            assert said.code == 0, (words, said)
