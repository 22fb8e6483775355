"""The plugin's executable: what it tells about itself, and how it ends."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.world import PLUGIN, World, as_mortal, said_at, spawned, tree
from tests.fake_lightningd import History, Refused, run_without_plugin

pytestmark = pytest.mark.usefixtures("cold")


def test_manifest_names_the_hook_and_the_rpc_methods_and_is_not_dynamic(lived: World) -> None:
    with lived.node() as node:
        manifest = node.manifest
    assert manifest["dynamic"] is False
    assert manifest["hooks"] == [{"name": "db_write", "before": [], "after": []}] or [
        hook["name"] for hook in manifest["hooks"]
    ] == ["db_write"]
    assert {method["name"] for method in manifest["rpcmethods"]} == {
        "backup-status",
        "backup-compact",
        "backup-member-add",
        "backup-member-remove",
    }
    assert all(method["description"] for method in manifest["rpcmethods"])
    assert "shutdown" in manifest["subscriptions"]
    assert "disable" not in manifest


def test_start_logs_one_line(lived: World, history: History) -> None:
    node = lived.run(history.notes(2))
    [(level, line)] = node.logs
    assert level == "info"
    assert line.startswith(f"backing up to {lived.url}: version 6, snapshot ")


def test_plugin_started_by_hand_explains_itself_and_touches_nothing(tmp_path: Path) -> None:
    said = spawned(*PLUGIN, directory=tmp_path)
    assert "\nimportant-plugin=/" in said.out
    assert said.code == 0, "reckless takes anything else for a broken plugin"
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_plugin_ends_when_lightningd_hangs_up(lived: World, history: History) -> None:
    """lightningd died: there is no `shutdown`, only an end of its input."""
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    began = time.monotonic()
    assert node.wire.hang_up() == 0
    assert time.monotonic() - began < 10
    assert node.stderr == ""
    node.die()
    assert lived.run(history.notes(1)).stderr == ""
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_the_whole_process_group_does_not_end_the_plugin_before_lightningd(
    lived: World, history: History, number: int
) -> None:
    """A Ctrl-C in lightningd's terminal, or a service that is stopped: lightningd still commits, and then says so."""
    node = lived.node()
    node.start()
    node.play(history.notes(3))
    os.kill(node.pid, number)
    for call in history.notes(50):
        node.db_write(call)
        time.sleep(0.002)
    os.kill(node.pid, number)
    assert node.shut_down(history.notes(3)) == 0
    assert node.stderr == ""
    after = lived.run(history.notes(2))
    assert said_at(after, "unusual") == []
    lived.assert_restored_equals_the_nodes()


def test_unwritable_node_directory_refuses_and_changes_nothing(lived: World, history: History) -> None:
    lived.directory.chmod(0o500)
    before = tree(lived.backup)
    node = lived.node(command=[*as_mortal(), *PLUGIN])
    node.start()
    try:
        with pytest.raises(Refused, match=r"Permission denied.*(then start the node again|nothing was changed)"):
            node.ask(history.note())  # only the hook: lightningd itself, if it is not root, could write no journal
    finally:
        lived.directory.chmod(0o700)
    assert tree(lived.backup) == before
    assert "unexpected" not in str(said_at(node, "broken"))
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()


def test_python_files_in_the_node_directory_are_not_imported(lived: World, history: History) -> None:
    """The plugin's working directory is the node's; no file there may be imported instead of a module."""
    for name in ("json.py", "psutil.py", "secrets.py", "sqlite3.py", "plugin.py", "backends.py"):
        (lived.directory / name).write_text("raise SystemExit('this was run')")
    with lived.node() as node:
        node.play(history.notes(20))
        node.rpc("backup-compact")
        assert node.wire.listen(20, lambda: any("compaction ended" in line for _, line in node.logs)), node.logs
    assert said_at(node, "broken") == []
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("broken", ["raise ImportError('no libsqlite3.so.0')", "syntax error"])
def test_broken_dependency_refuses_the_first_call(lived: World, history: History, tmp_path: Path, broken: str) -> None:
    """The manifest is still answered: without its plugin, a node with a plain `plugin` line would run on."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "apsw.py").write_text(broken)
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'packages')!r}); from plugin.main import main; main()"
    before = tree(lived.backup)
    node = lived.node(command=[sys.executable, "-c", program])
    node.start()
    with pytest.raises(Refused, match=r"not completely installed .*then start the node again"):
        node.db_write(history.note())
    node.die()
    assert tree(lived.backup) == before
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()


SLOW = """
import time
from backends.log.writer.writer import Writer
from plugin import destination
from plugin.main import main
append = Writer.append
def slowly(self, change):
    time.sleep(1.25)
    append(self, change)
Writer.append = slowly
destination.commit_timeout_of = lambda url: 0.7
main()
"""


def test_destination_that_answers_just_after_the_watchdog_gave_up_prints_no_traceback(
    lived: World, history: History
) -> None:
    """From a real failure: the second answer's exception was dumped on stderr, object by object."""
    node = lived.node(command=[sys.executable, "-c", SLOW])
    node.start()
    before = lived.version
    ident = node.post(history.note())
    assert "has not answered for 1 seconds" in node.wire.reply(ident)["result"]["message"]
    assert len(said_at(node, "broken")) == 1
    # lightningd stops at that: whatever the plugin still has to say, nobody hears.
    assert node.wire.process.stdin is not None
    assert node.wire.process.stdout is not None
    node.wire._eof = True
    node.wire.process.stdout.close()
    node.wire.process.stdin.close()
    node.wire.process.wait(20)
    assert node.stderr == ""
    node.die()
    assert lived.version == before


def test_two_nodes_of_one_user_are_backed_up_side_by_side(lived: World, tmp_path: Path) -> None:
    """Two nodes of one user, each with its own backup."""
    (tmp_path / "second").mkdir()
    other = World(tmp_path / "second")
    other.init()
    ours, theirs = History(lived.version), History()
    run_without_plugin(other.directory, [theirs.first()])
    with lived.node() as one, other.node() as two:
        for _ in range(3):
            one.play(ours.notes(2))
            two.play(theirs.notes(2))
    lived.assert_restored_equals_the_nodes()
    other.assert_restored_equals_the_nodes()
