"""Which lines of lightningd's config start the plugin, under whatever name, and that lightningd takes them all."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contrib.checking import PLUGIN_SCRIPT, check, configure, executable, the_problem

OTHER_SCRIPT = """#!/bin/sh
read -r question
printf '%s\\n\\n' '{"jsonrpc": "2.0", "id": "cln:getmanifest#1", "result": {"hooks": [], "rpcmethods": []}}'
cat >/dev/null
"""
"""A plugin that has nothing to do with ours."""


def other(path: Path) -> Path:
    return executable(path, OTHER_SCRIPT)


def lightningd_starts(node: Path) -> bool:
    """Whether lightningd takes the plugin lines of the config above this directory, by its own rules (v26.06).

    From its lightningd/options.c and lightningd/plugin.c: `plugin_register` knows a file by its real path, and a
    second registration fails, except for files in its own `plugins` directory, which comes last.
    """
    known = set[str]()
    for line in (node.parent / "config").read_text().splitlines():
        name, _, value = line.partition("=")
        files = []
        if name in ("plugin", "important-plugin"):
            files = [Path(value)]
        elif name == "plugin-dir":
            files = [path for path in Path(value).iterdir() if path.is_file() and os.access(path, os.X_OK)]
        for file in files:
            real = os.path.realpath(file)
            if real in known or not file.exists():
                return False
            known.add(real)
    return True


def test_model_of_lightningds_plugin_lines_rejects_a_plugin_named_twice(node: Path, plugin: Path) -> None:
    assert lightningd_starts(node)
    configure(node, f"plugin-dir={plugin.parent}\nimportant-plugin={plugin}\n")
    assert not lightningd_starts(node)


def follow(line: str, node: Path) -> None:
    """Do literally what the finding says."""
    config = (node.parent / "config").read_text()
    for command in re.findall(r"\b((?:mv|rm) /.*?)(?:, and|$)", line):
        subprocess.run(shlex.split(command), check=True)
    if gone := re.search(r"(?:[Rr]emove the line|write instead of the line) (plugin-dir=[^,:\s]+)", line):
        config = config.replace(f"{gone[1]}\n", "")
    if instead := re.search(r"write instead of (?!the line)(\S+): ", line):
        config = config.replace(f"{instead[1]}\n", "")
    if "write instead: " in line:
        config = re.sub(r"(?m)^plugin=.*\n", "", config)
    if "Keep one of them" in line:
        config = re.sub(r"(?m)^(important-)?plugin=.*\n", "", config)
    if new := re.search(r"(important-plugin=\S+)$", line):
        config = config.replace(f"{new[1]}\n", "") + f"{new[1]}\n"
    configure(node, config)


# An ordinary plugin is not enough, and what is typed next must not name it twice


def as_plugin(plugin: Path, node: Path) -> str:
    return f"plugin={plugin}\n"


def alone_in_directory(plugin: Path, node: Path) -> str:
    return f"plugin-dir={plugin.parent}\n"


def among_others(plugin: Path, node: Path) -> str:
    other(plugin.with_name("another"))
    return f"plugin-dir={plugin.parent}\n"


def as_link_among_others(plugin: Path, node: Path) -> str:
    directory = node.parent / "my-plugins"
    other(directory / "another")
    (directory / "lightningd-backup").symlink_to(plugin)
    return f"plugin-dir={directory}\n"


def in_own_directory(plugin: Path, node: Path) -> str:
    executable(node.parent / "plugins" / "ours" / "lightningd-backup", PLUGIN_SCRIPT)
    return ""


ORDINARY = [as_plugin, alone_in_directory, among_others, as_link_among_others, in_own_directory]


@pytest.mark.parametrize("how", ORDINARY, ids=lambda how: how.__name__)
def test_advice_for_ordinary_plugin_leads_to_protected_node(
    node: Path, plugin: Path, how: Callable[[Path, Path], str]
) -> None:
    configure(node, how(plugin, node))
    line = the_problem(node)
    assert "ordinary plugin" in line
    follow(line, node)
    assert lightningd_starts(node)
    assert check(node) == (0, [])


# Named twice


def two_lines(plugin: Path, node: Path) -> str:
    return f"plugin={plugin}\nimportant-plugin={plugin}\n"


def same_line_twice(plugin: Path, node: Path) -> str:
    return f"important-plugin={plugin}\nalias=x\nimportant-plugin={plugin}\n"


def through_link(plugin: Path, node: Path) -> str:
    (plugin.parent / "link").symlink_to(plugin)
    return f"important-plugin={plugin}\nimportant-plugin={plugin.parent / 'link'}\n"


def through_linked_directory(plugin: Path, node: Path) -> str:
    (node.parent / "linked").symlink_to(plugin.parent)
    return f"important-plugin={plugin}\nplugin={node.parent / 'linked' / plugin.name}\n"


def in_included_file(plugin: Path, node: Path) -> str:
    (node.parent / "more.conf").write_text(f"plugin={plugin}\n")
    return f"include more.conf\nimportant-plugin={plugin}\n"


def in_networks_file(plugin: Path, node: Path) -> str:
    (node / "config").write_text(f"important-plugin={plugin}\n")
    return f"important-plugin={plugin}\n"


def in_directory_alone(plugin: Path, node: Path) -> str:
    return f"important-plugin={plugin}\nplugin-dir={plugin.parent}\n"


def in_directory_first(plugin: Path, node: Path) -> str:
    other(plugin.with_name("another"))
    return f"plugin-dir={plugin.parent}\nimportant-plugin={plugin}\n"


def by_link_in_directory(plugin: Path, node: Path) -> str:
    return as_link_among_others(plugin, node) + f"important-plugin={plugin}\n"


TWICE = [
    two_lines,
    same_line_twice,
    through_link,
    through_linked_directory,
    in_directory_alone,
    in_directory_first,
    by_link_in_directory,
    in_included_file,
    in_networks_file,
]


@pytest.mark.parametrize("how", TWICE, ids=lambda how: how.__name__)
def test_plugin_named_twice_is_a_problem(node: Path, plugin: Path, how: Callable[[Path, Path], str]) -> None:
    configure(node, how(plugin, node))
    line = the_problem(node)
    assert "lightningd does not start" in line and "Failed to register" in line
    if how in (in_included_file, in_networks_file):  # the lines are in two files
        assert "more.conf line 1" in line or "bitcoin/config line 1" in line
        return
    assert not lightningd_starts(node)
    follow(line, node)
    assert lightningd_starts(node)
    assert check(node) == (0, [])


def test_another_plugin_named_twice_keeps_node_from_starting(node: Path, plugin: Path, tmp_path: Path) -> None:
    rebalance = other(tmp_path / "plugins" / "rebalance")
    configure(node, f"important-plugin={plugin}\nplugin={rebalance}\nplugin-dir={rebalance.parent}\n")
    line = the_problem(node)
    assert f"Remove the line plugin-dir={rebalance.parent}, and keep: plugin={rebalance}" in line


def test_plugin_that_lightningd_skips_does_not_count_as_second(node: Path, plugin: Path) -> None:
    """lightningd's own directory comes last, and a plugin that is known by then is skipped."""
    ours = executable(node.parent / "plugins" / "lightningd-backup", PLUGIN_SCRIPT)
    configure(node, f"important-plugin={ours}\n")
    assert check(node) == (0, [])
    configure(node, f"plugin={plugin}\nclear-plugins\nimportant-plugin={ours}\n")
    assert check(node) == (0, [])
    configure(node, f"plugin={plugin}\ndisable-plugin={plugin}\nimportant-plugin={ours}\n")
    assert check(node) == (0, [])


def test_lightningds_own_plugin_directory_is_not_cleared_by_clear_plugins(node: Path) -> None:
    """lightningd reads `clear-plugins` before its own directory."""
    executable(node.parent / "plugins" / "lightningd-backup", PLUGIN_SCRIPT)
    configure(node, "clear-plugins\n")
    assert "ordinary plugin" in the_problem(node)


def test_plugin_dir_ignores_subdirectories_and_odd_names(node: Path, plugin: Path, tmp_path: Path) -> None:
    executable(tmp_path / "dir" / "deeper" / "lightningd-backup", PLUGIN_SCRIPT)
    executable(tmp_path / "dir" / "lightningd-backup~", PLUGIN_SCRIPT)
    executable(tmp_path / "dir" / "lightningd-backup (1)", PLUGIN_SCRIPT)
    configure(node, f"plugin-dir={tmp_path}/dir\n")
    assert "no line starts" in the_problem(node)
    configure(node, f"plugin-dir={tmp_path}/dir\nimportant-plugin={plugin}\n")
    assert check(node) == (0, [])


def test_two_different_copies_of_the_plugin_are_a_problem(node: Path, plugin: Path, tmp_path: Path) -> None:
    second = executable(tmp_path / "other" / "backup-of-mine", PLUGIN_SCRIPT)
    configure(node, f"important-plugin={plugin}\nimportant-plugin={second}\n")
    assert "this plugin is started twice" in the_problem(node)


# Under other names


def under_another_name(node: Path, tmp_path: Path) -> Path:
    return executable(tmp_path / "names" / "my-backup", PLUGIN_SCRIPT)


def through_a_link(node: Path, tmp_path: Path) -> Path:
    real = executable(tmp_path / "names" / "lightningd-backup", PLUGIN_SCRIPT)
    (tmp_path / "names" / "channels").symlink_to(real)
    return tmp_path / "names" / "channels"


def through_a_link_named_as_the_older(node: Path, tmp_path: Path) -> Path:
    real = executable(tmp_path / "names" / "lightningd-backup", PLUGIN_SCRIPT)
    (tmp_path / "names" / "backup.py").symlink_to(real)
    return tmp_path / "names" / "backup.py"


def under_the_olders_name(node: Path, tmp_path: Path) -> Path:
    return executable(tmp_path / "names" / "backup.py", PLUGIN_SCRIPT)


def by_a_script(node: Path, tmp_path: Path) -> Path:
    real = executable(tmp_path / "names" / "lightningd-backup", PLUGIN_SCRIPT)
    return executable(tmp_path / "names" / "start", f'#!/bin/sh\nexec nice "{real}" "$@"\n')


def by_a_script_that_stays(node: Path, tmp_path: Path) -> Path:
    return executable(tmp_path / "names" / "start", f"#!/bin/sh\n{sys.executable} -m plugin.main\n")


def by_what_says_nothing_of_it(node: Path, tmp_path: Path) -> Path:
    """A compiled program could look like this: it can be recognised only by asking it."""
    executable(tmp_path / "names" / "deeper" / "x", PLUGIN_SCRIPT)
    return executable(tmp_path / "names" / "run", '#!/bin/sh\nexec "${0%/*}/deeper/x" "$@"\n')


NAMES = [
    under_another_name,
    through_a_link,
    through_a_link_named_as_the_older,
    under_the_olders_name,
    by_a_script,
    by_a_script_that_stays,
    by_what_says_nothing_of_it,
]


@pytest.mark.parametrize("how", NAMES, ids=lambda how: how.__name__)
def test_plugin_under_another_name_is_recognised(node: Path, tmp_path: Path, how: Callable[[Path, Path], Path]) -> None:
    first = other(tmp_path / "plugins" / "summary")
    configure(node, f"plugin={first}\nimportant-plugin={how(node, tmp_path)}\n")
    assert check(node) == (0, [])
    again = how(node, tmp_path / "again")
    configure(node, f"plugin={first}\nplugin={again}\n")
    assert "ordinary plugin" in the_problem(node)


@pytest.mark.parametrize("link", [True, False])
def test_older_plugin_is_recognised_through_links(node: Path, plugin: Path, tmp_path: Path, link: bool) -> None:
    older = other(tmp_path / "older" / "backup.py")
    if link:
        (tmp_path / "older" / "db-backup").symlink_to(older)
        older = tmp_path / "older" / "db-backup"
    configure(node, f"important-plugin={plugin}\nplugin={older}\n")
    assert f"older backup plugin {older}" in the_problem(node)


def test_plugin_that_only_mentions_ours_is_not_taken_for_it(node: Path, plugin: Path, tmp_path: Path) -> None:
    watcher = executable(tmp_path / "watch", OTHER_SCRIPT + "# complains when lightningd-backup is away\n")
    configure(node, f"plugin={watcher}\nimportant-plugin={plugin}\n")
    assert check(node) == (0, [])
    configure(node, f"plugin={watcher}\n")
    assert "no line starts lightningd-backup" in the_problem(node)


def test_mute_foreign_plugin_delays_check_config_only_briefly(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_cli.checks.plugin.STRANGER", 0.3)
    mute = executable(tmp_path / "mute", "#!/bin/sh\nexec sleep 100\n")
    configure(node, f"plugin={mute}\n")
    began = time.monotonic()
    assert "no line starts" in the_problem(node)
    assert time.monotonic() - began < 20


# A node that runs

LIGHTNINGD = """
import os, signal, subprocess, sys, time
os.chdir(sys.argv[1])
children = [subprocess.Popen(words.split(), stdin=subprocess.PIPE) for words in sys.argv[2:]]
print("started", flush=True)
signal.pause()
"""


@pytest.mark.parametrize(
    ("how", "runs"),
    [(through_a_link, True), (by_a_script, True), (by_a_script_that_stays, True), (under_another_name, True)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_plugin_of_another_name_is_recognised_in_a_running_node(
    node: Path, tmp_path: Path, how: Callable[[Path, Path], Path], runs: bool
) -> None:
    ours, alien = how(node, tmp_path), other(tmp_path / "plugins" / "summary")
    configure(node, f"plugin={alien}\nimportant-plugin={ours}\n")
    for start, code in ((f"{alien}", 1), (f"{ours}", 0)):
        lightningd = subprocess.Popen(
            ["lightningd", "-c", LIGHTNINGD, str(node), start],
            executable=sys.executable,
            stdout=subprocess.PIPE,
            env={**os.environ, "LIGHTNINGD_PLUGIN": "1"},
            start_new_session=True,
        )
        try:
            assert lightningd.stdout is not None
            lightningd.stdout.readline()
            time.sleep(0.5)
            found, lines = check(node)
            assert found == code, lines
            assert code == 0 or "without the plugin" in lines[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(lightningd.pid, 9)
            lightningd.wait()
            assert lightningd.stdout is not None
            lightningd.stdout.close()
