"""Kill -9 at each write, sync and deletion while a database is brought forward: the next start does it again."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugin.before_manifest import before_manifest
from tests.end_to_end.db_compare import differences
from tests.end_to_end.test_set_back import drop_with_foreign_keys_off, play_and_set_back
from tests.end_to_end.world import World
from tests.fake_lightningd import History, committed_version

STARTS = """
import sys
from pathlib import Path
from tests.dying_disk import for_each_number_read, step
from backends.node import files
replace = files.replace_file
def replace_file(*arguments, **named):
    step()
    replace(*arguments, **named)
    step()
import plugin.last_found, plugin.roll_forward, backends.node.sync_point
plugin.last_found.replace_file = backends.node.sync_point.replace_file = replace_file
from plugin.before_manifest import before_manifest

def start():
    start = before_manifest(Path(sys.argv[1]))
    assert start.left is None, start

for_each_number_read(start)
"""
"""One start, killed at its n-th step, for each number that is read: in a new process, but with modules loaded once."""


@contextmanager
def starts(directory: Path) -> Iterator[Callable[[int], int | None]]:
    """Yields a function that lets a start take `steps` steps: how many it had left over, or None if it was killed.

    AssertionError if a start ends in any other way.
    """
    words = [sys.executable, "-c", STARTS, str(directory)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def start(steps: int) -> int | None:
            assert process.stdin is not None and process.stdout is not None
            print(steps, file=process.stdin, flush=True)
            said = process.stdout.readline()
            assert said, "a start has failed"
            return None if said == "killed\n" else int(said.removeprefix("done "))

        try:
            yield start
        finally:
            process.kill()


@pytest.mark.slow
def test_roll_forward_killed_at_each_step_is_completed_by_the_next_start(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also long after the power cut, when the file was written much later than the backup."""
    calls = [*drop_with_foreign_keys_off(history), *history.notes(1)]
    newest = play_and_set_back(lived, calls, keep=1)
    first, reached = lived.version, set()
    aside = lived.root / "aside"
    shutil.copytree(lived.directory, aside)
    monkeypatch.setattr("plugin.missing_changes.SOON", 2.0)
    time.sleep(3)
    steps = 0
    with starts(lived.directory) as brought_forward_until:
        while True:
            for name in (path.name for path in lived.directory.iterdir()):
                (lived.directory / name).unlink()  # not the directory itself: it would be another one
            for path in aside.iterdir():
                shutil.copy2(path, lived.directory)
            if brought_forward_until(steps) is not None:
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
    return committed_version(copy)
