"""Whatever is wrong when the node starts: the first change is refused with a sentence that says what to do.

lightningd then stops before it commits, whether it was told `plugin` or `important-plugin`; no node runs unprotected.
"""

import json
import shutil
import sys
from collections.abc import Callable

import pytest

from tests.end_to_end.corruption import DAMAGED, from_a_later_release, in_file
from tests.end_to_end.refusal import assert_matches, refusal
from tests.end_to_end.world import PLUGIN, World, as_mortal, said_at
from tests.fake_lightningd import History, Refused, transaction

Act = Callable[[World], object]


def a_directory_instead(world: World) -> None:
    (world.directory / "backup.lock").unlink()
    (world.directory / "backup.lock").mkdir()


def write_lock(text: bytes) -> Act:
    return lambda world: (world.directory / "backup.lock").write_bytes(text)


# backup.lock


LOCKS: dict[str, tuple[Act, str]] = {
    "there is none": (
        lambda world: (world.directory / "backup.lock").unlink(),
        "there is no .*backup.lock.*run: backup-cli init",
    ),
    "it is empty": (write_lock(b""), "does not say where.*backup-cli init"),
    "it is garbage": (write_lock(b"\0\xff\xfe garbage" * 99), "does not say where.*backup-cli init"),
    "it is a page of zeros": (write_lock(bytes(4096)), "does not say where.*backup-cli init"),
    "it is huge": (write_lock(b"[" * (1 << 20)), "does not say where.*backup-cli init"),
    "it is a list": (write_lock(b"[1]"), "does not say where.*backup-cli init"),
    "it has no URL": (write_lock(b'{"version": 1}'), "backend_url.*backup-cli init"),
    "it has a path": (
        write_lock(b'{"backend_url": "/mnt/backup", "version": 1}'),
        "backup.lock.*no scheme.*file:///mnt.*backup-cli init",
    ),
    "it has a URL of a kind that nobody knows": (
        write_lock(b'{"backend_url": "floppy://a/x", "version": 1}'),
        "backup.lock.*no kind of destination floppy://.*backup-cli init",
    ),
    "it was written by a later release": (
        write_lock(b'{"backend_url": "file:///x", "backup_id": "ab", "version": 3}'),
        "later release.*install that release",
    ),
    "it is a directory": (
        a_directory_instead,
        "does not say where.*backup-cli init",
    ),
}


@pytest.mark.parametrize("what", LOCKS)
def test_backup_lock_that_is_missing_or_unusable_is_refused_with_advice(
    taken_over: World, history: History, what: str
) -> None:
    act, sentence = LOCKS[what]
    act(taken_over)
    assert_matches(refusal(taken_over, history.note()), sentence)


def test_fresh_node_without_a_backup_does_not_start(world: World, history: History) -> None:
    assert_matches(refusal(world, history.first()), "no backup yet.*backup-cli init")
    assert world.version == 0


def test_backup_lock_without_read_permission_is_refused(taken_over: World, history: History) -> None:
    (taken_over.directory / "backup.lock").chmod(0)
    assert_matches(refusal(taken_over, history.note(), command=[*as_mortal(), *PLUGIN]), "cannot be read.*must give it")


def test_backup_lock_of_a_legacy_backup_is_refused_with_init_as_advice(taken_over: World, history: History) -> None:
    """The older plugin's backup.lock names a file in a format that is not ours."""
    old = taken_over.root / "disk" / "backup.dbak"
    old.write_bytes(b"\0" * 512)
    write_lock(json.dumps({"backend_url": old.as_uri()}).encode())(taken_over)
    assert_matches(refusal(taken_over, history.note()), "older.*backup-cli init")


def test_backup_lock_in_legacy_form_that_names_our_backup_is_accepted(taken_over: World, history: History) -> None:
    """Written by hand, or by a tool: it says where, and that is enough."""
    write_lock(json.dumps({"backend_url": taken_over.url}).encode())(taken_over)
    taken_over.run(history.notes(3))
    taken_over.assert_restored_equals_the_nodes()


# The destination


def removed(world: World) -> None:
    shutil.rmtree(world.backup)


def unmounted(world: World) -> None:
    shutil.rmtree(world.backup.parent)


def half_copied(world: World) -> None:
    (world.backup / "manifest").unlink()


def a_file(world: World) -> None:
    removed(world)
    world.backup.write_bytes(b"x")


def another_nodes(world: World) -> None:
    other = World(world.root / "other")
    history = History()
    other.run_without_plugin([history.first(), *history.notes(world.version - 1)])
    other.init()
    removed(world)
    shutil.copytree(other.backup, world.backup)


def swapped_segment(world: World) -> None:
    """One file of another backup among the right ones."""
    other = World(world.root / "other").init()
    shutil.copy(min(other.backup.glob("segment-*")), min(world.backup.glob("segment-*")))


DESTINATIONS: dict[str, tuple[Act, str]] = {
    "it was removed": (removed, "no backup at .*mounted"),
    "it is not mounted": (unmounted, "no backup at .*mounted"),
    "it was not copied to the end": (half_copied, "not a whole backup.*copy the whole directory again"),
    "a file lies in its place": (a_file, "cannot be used: Not a directory"),
    "it is another node's": (another_nodes, "backup.lock expects the backup .*another.*put the right one back"),
    "a file of another backup lies in it": (swapped_segment, "belongs to another backup"),
    "its manifest is from the future": (in_file("manifest", from_a_later_release), "newer.*install that release"),
    "its log is from the future": (in_file("segment", from_a_later_release), "newer.*install that release"),
    "its session marker is from the future": (in_file("session", from_a_later_release), "newer.*install that release"),
    **{what: (act, "the backup is damaged: .*backup-cli resync") for what, act in DAMAGED.items()},
}


@pytest.mark.parametrize("what", DESTINATIONS)
def test_destination_that_is_missing_damaged_or_foreign_is_refused_with_advice(
    taken_over: World, history: History, what: str
) -> None:
    act, sentence = DESTINATIONS[what]
    act(taken_over)
    assert_matches(refusal(taken_over, history.note()), sentence)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_destination_without_write_permission_is_refused(taken_over: World, history: History, mode: int) -> None:
    command = [*as_mortal(), *PLUGIN]
    taken_over.backup.chmod(mode)
    try:
        node = taken_over.node(command=command)
        node.start()
        with pytest.raises(Refused, match="cannot be used: Permission denied"):
            node.db_write(history.note())
    finally:
        taken_over.backup.chmod(0o700)
    taken_over.assert_restored_equals_the_nodes()


def test_destination_that_was_away_and_is_back_is_continued_without_a_snapshot(
    taken_over: World, history: History
) -> None:
    away = taken_over.root / "away"
    taken_over.backup.rename(away)
    call = history.note()
    refusal(taken_over, call)
    away.rename(taken_over.backup)
    node = taken_over.run([call, *history.notes(2)])
    assert said_at(node, "unusual") == []
    taken_over.assert_restored_equals_the_nodes()


# Another writer


WAITS_ONE_SECOND = "import plugin.roll_forward as it; it.ALONE_WITHIN = 1.0; from plugin.main import main; main()"
"""A plugin that waits one second, not ten, for another process to leave."""


def test_second_plugin_beside_a_running_one_is_refused_by_pid(taken_over: World, history: History) -> None:
    with taken_over.node() as first:
        first.play(history.notes(2))
        call = transaction(taken_over.version + 1, "DELETE FROM db_upgrades")
        message = refusal(taken_over, call, [sys.executable, "-c", WAITS_ONE_SECOND])
        assert_matches(message, rf"another process \(pid {first.pid}, .*stop it first")
        first.play(history.notes(2))
    taken_over.assert_restored_equals_the_nodes()


def test_lock_file_of_a_dead_process_does_not_prevent_a_start(taken_over: World, history: History) -> None:
    node = taken_over.node()
    node.start()
    node.play(history.notes(2))
    node.die()
    assert (taken_over.directory / "backup.pid").read_text().startswith(str(node.pid))
    taken_over.run(history.notes(2))
    taken_over.assert_restored_equals_the_nodes()
