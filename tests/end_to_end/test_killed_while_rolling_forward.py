"""Kill -9 at each write, sync and deletion while a database is brought forward: the next start does it again."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plugin.before_manifest import before_manifest
from tests.end_to_end.same import differences
from tests.end_to_end.test_set_back import drop_with_foreign_keys_off, play_and_set_back
from tests.end_to_end.world import World
from tests.standin import History, stands_at

DIES_AT = """
import os, signal, sys
from pathlib import Path
import apsw

left = int(sys.argv[2])

def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

class File(apsw.VFSFile):
    def xWrite(self, *arguments):
        step()
        super().xWrite(*arguments)
    def xSync(self, *arguments):
        step()
        super().xSync(*arguments)
    def xTruncate(self, *arguments):
        step()
        super().xTruncate(*arguments)

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("dying", "unix", makedefault=True)
    def xOpen(self, name, flags):
        return File("unix", name, flags)
    def xDelete(self, *arguments):
        step()
        super().xDelete(*arguments)
        step()

import backends.database.connection  # which sets SQLite up anew
disk = Disk()
from backends.node import files
replace = files.replace_file
def replace_file(*arguments, **named):
    step()
    replace(*arguments, **named)
    step()
import plugin.last_found, backends.node.witness
plugin.last_found.replace_file = backends.node.witness.replace_file = replace_file
from plugin.before_manifest import before_manifest
start = before_manifest(Path(sys.argv[1]))
assert start.left is None, start
print(left)
"""


def brought_forward_until(directory: Path, steps: int) -> int | None:
    """How many steps were left; None when it was killed."""
    done = subprocess.run(
        [sys.executable, "-c", DIES_AT, str(directory), str(steps)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, -9), done.stderr
    return None if done.returncode else int(done.stdout)


@pytest.mark.slow
def test_killed_at_each_step(lived: World, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when that is long after the power cut, so that the file was written much later than the backup."""
    calls = [*drop_with_foreign_keys_off(history), *history.notes(1)]
    newest = play_and_set_back(lived, calls, keep=1)
    first, reached = lived.version, set()
    aside = lived.root / "aside"
    shutil.copytree(lived.directory, aside)
    monkeypatch.setattr("plugin.roll_forward.SOON", 2.0)
    time.sleep(3)
    steps = 0
    while True:
        for name in (path.name for path in lived.directory.iterdir()):
            (lived.directory / name).unlink()  # not the directory itself: it would be another one
        for path in aside.iterdir():
            shutil.copy2(path, lived.directory)
        if brought_forward_until(lived.directory, steps) is not None:
            break
        reached.add(stands_at_in_a_copy(lived))
        assert before_manifest(lived.directory).left is None, f"killed at step {steps}"
        assert differences(lived.database, newest) == []
        steps += 1
    assert steps > 20
    assert reached >= set(range(first, first + 4)), "killed in between, too"
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def stands_at_in_a_copy(world: World) -> int | None:
    copy = world.root / "looked-at"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(world.directory, copy)
    return stands_at(copy)
