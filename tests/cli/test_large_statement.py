"""A single statement of many megabytes, which a node may send: what was acknowledged is restored, and followed."""

import os
import resource
import sqlite3
import subprocess
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.change import Change
from backends.confined import parent
from backends.log.reader import statements
from backends.log.reader.statements import SpooledStatements
from tests.cli.cli_asserts import assert_refused, restore
from tests.cli.following import once
from tests.end_to_end.following import following
from tests.end_to_end.world import World, command
from tests.fake_lightningd.calls import bump
from tests.log.histories import silent

MB = 1_000_000
NOISE = b64encode(os.urandom(90 * MB * 3 // 4)).decode()
"""More than any process may hold of a backup that is small (`limits.FLOOR`)."""

TIGHT = "import sys; sys.path += sys.argv[1:]\n{}\nfrom backends.confined import child; child.main()"
"""A child process for which something is changed first."""


def save(world: World, value: str = NOISE) -> int:
    """A change with one large statement, as the plugin saves it. Returns its version."""
    with closing(backup_at(world.url).open(silent)) as writer:
        version = writer.position.data_version + 1
        writer.append(Change(version, [f"UPDATE vars SET val = '{value}' WHERE name = 'large'", bump(version)]))
    return version


@pytest.fixture
def roomy(lived: World) -> World:
    """A node with a row for a large value."""
    with closing(backup_at(lived.url).open(silent)) as writer:
        version = writer.position.data_version + 1
        writer.append(Change(version, ["INSERT INTO vars (name, val) VALUES ('large', '')", bump(version)]))
    return lived


@pytest.fixture
def large(roomy: World) -> World:
    """A node with that value."""
    save(roomy)
    return roomy


def holds_it(database: Path) -> bool:
    """Whether the large value is in this database."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT val FROM vars WHERE name = 'large'").fetchone()
    return bool(found == (NOISE,))


def test_running_follower_takes_a_statement_larger_than_the_log_was_when_it_began(roomy: World) -> None:
    with following(roomy) as follower:
        follower.wait_for(roomy.version + 1)
        follower.wait_for(save(roomy))
        assert holds_it(follower.copy)
        assert "NOT in step" not in follower.said


def test_large_statement_is_restored_where_memory_is_given_for_nothing_else(
    large: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's part of the memory has to be allowed before the statement is put together. With 300 MB it failed."""
    tight = "from backends.sqlite import limits; limits.ADDRESS_SPACE = 0"
    monkeypatch.setattr(parent, "_CHILD", TIGHT.format(tight))
    said = restore(large, place / "x.sqlite3")
    assert said.code == 0, said
    assert holds_it(place / "x.sqlite3")


def test_missing_memory_for_a_large_statement_is_named_with_how_much_it_takes(large: World, place: Path) -> None:
    """A limit for the process, as ulimit sets it; then the kernel kills it, as in a container that is too small."""
    words = command("restore", large.url, place / "x.sqlite3")
    said = subprocess.run(
        words, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (350 * MB, 350 * MB)),
    )  # fmt: skip
    assert said.returncode == 1, said
    assert "holds a statement of 85 MiB, and executing it takes up to 514 MiB of memory, which this" in said.stderr
    assert "Nothing was made from the backup" in said.stderr and "--no-limits" not in said.stderr
    assert not list(place.iterdir())


def test_kill_for_want_of_memory_names_how_much_a_large_statement_takes(
    roomy: World, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = (
        "import os, signal, time\nfrom backends.sqlite.replay import Replay\nreal = Replay._execute_all\n"
        "def execute(self, statements):\n"
        "    first = next(iter(statements))\n"
        "    if len(first) > 1000000:\n"
        "        time.sleep(0.3)\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(self, statements)\n"
        "Replay._execute_all = execute"
    )
    monkeypatch.setattr(parent, "_CHILD", TIGHT.format(killed))
    save(roomy, NOISE[: 9 * MB])
    assert_refused(once(roomy, warm), "holds a statement of 8 MiB, and executing it takes up to 51 MiB of memory")


def test_statement_that_a_small_backup_unpacks_to_is_refused_before_it_takes_memory_unless_limits_are_lifted(
    roomy: World, place: Path
) -> None:
    """It shrinks to a thousandth, as no node's changes do; but nobody is locked out."""
    save(roomy, "x" * 90 * MB)
    assert_refused(restore(roomy, place / "x"), "a statement of 85 MiB, which takes up to 514 MiB.*--no-limits", 3)
    assert restore(roomy, place / "x", "--no-limits").code == 0


def test_statements_of_a_spooled_change_know_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_IN_MEMORY", 10)
    for texts in (["aaa", "", "bbbbbbbb", "c"], ["x"], ["", ""], ["é" * 5, "b" * 9]):
        data = "\0".join(texts).encode()
        for size in (1, 2, 3, 100):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            if "é" in texts[0] and size == 1:
                pieces = [data]
            found = statements.spooled(pieces, len(data))
            assert isinstance(found, SpooledStatements) and list(found) == texts
            longest = max(len(text.encode()) for text in texts)
            assert longest <= found.largest <= max(longest, size), (texts, size)
