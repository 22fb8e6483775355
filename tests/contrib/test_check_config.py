"""`backup-cli check-config`: it finds each mistake in lightningd's configuration, and nothing else."""

import sys
from pathlib import Path

import pytest

from backup_cli.checks import config as config_findings
from backup_cli.checks import plugin as plugin_findings
from backup_cli.node_config import read_config
from plugin.notify import NOTIFY_FILE
from tests.contrib.checking import check, configure, executable, the_problem
from tests.end_to_end.world import backup_cli
from tests.known_secret import SECRET


def test_check_config_of_a_protected_node_finds_nothing(node: Path) -> None:
    assert check(node) == (0, [])
    assert check(node.parent) == (0, [])


# The plugin's line


@pytest.mark.usefixtures("quick")
def test_config_without_the_plugin_line_is_a_problem(node: Path) -> None:
    configure(node, "network=bitcoin\n#important-plugin=/x/lightningd-backup\n")
    line = the_problem(node)
    assert "important-plugin=" in line and str(node.parent / "config") in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["lightningd-backup", "{}"])
def test_disabled_plugin_is_a_problem(node: Path, plugin: Path, how: str) -> None:
    configure(node, f"important-plugin={plugin}\ndisable-plugin={how.format(plugin)}\n")
    assert "line 2 disables it" in the_problem(node)


@pytest.mark.usefixtures("quick")
def test_plugin_line_before_clear_plugins_is_a_problem(node: Path, plugin: Path) -> None:
    configure(node, f"important-plugin={plugin}\nclear-plugins\n")
    assert "no line starts" in the_problem(node)
    configure(node, f"clear-plugins\nimportant-plugin={plugin}\n")
    assert check(node)[0] == 0


def test_missing_plugin_file_is_a_problem(node: Path, tmp_path: Path) -> None:
    configure(node, f"important-plugin={tmp_path}/gone/lightningd-backup\n")
    assert "No such file" in the_problem(node)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("#!/bin/sh\necho no module named nothing >&2\nexit 3\n", "no module named nothing"),
        ("#!/bin/sh\ncat >/dev/null\n", "it printed no message"),
        ("#!/bin/sh\necho hello\necho\n", "does not answer"),
        ("#!/nowhere/python\n", "No such file"),
        ('#!/bin/sh\necho \'{"id": "cln:getmanifest#1", "result": []}\'\necho\n', "is not a manifest"),
        ('#!/bin/sh\necho \'{"id": "cln:getmanifest#1", "result": {"hooks": []}}\'\necho\n', "not this plugin"),
    ],
)
def test_plugin_that_does_not_start_is_a_problem_with_its_own_words(
    node: Path, tmp_path: Path, script: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_findings, "PATIENCE", 0.5 if "cat" in script else 30.0)
    broken = executable(tmp_path / "broken" / "lightningd-backup", script)
    configure(node, f"important-plugin={broken}\n")
    assert word in the_problem(node)


def test_check_config_starts_the_plugin_outside_the_node_directory_and_ends_it(node: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in node.iterdir())
    script = f"#!/bin/sh\npwd > {tmp_path}/where; echo $$ > {tmp_path}/pid; exec {sys.executable} -m plugin.main\n"
    configure(node, f"important-plugin={executable(tmp_path / 'b' / 'lightningd-backup', script)}\n")
    assert check(node)[0] == 0
    assert not Path((tmp_path / "where").read_text().strip()).exists()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in node.iterdir()) == before


# The files


@pytest.mark.usefixtures("quick")
def test_included_and_network_config_files_are_read_in_lightningds_order(node: Path, plugin: Path) -> None:
    (node / "more").mkdir()
    (node / "more" / "plugins.conf").write_text(f"important-plugin={plugin}  \r\n")
    (node / "config").write_text("include more/plugins.conf\nwallet=sqlite3://lightningd.sqlite3\n")
    configure(node, "wallet=postgres://x\n")  # the network's own file comes later, and counts
    assert check(node) == (0, [])
    config = read_config(node, None)
    assert config.files == [node.parent / "config", node / "config", node / "more" / "plugins.conf"]
    assert config.plugins()[-1].where == f"{node}/more/plugins.conf line 1"
    assert config.plugins()[-1].path == plugin, "without the blanks at the line's end"


@pytest.mark.usefixtures("quick")
def test_conf_option_replaces_the_default_config_files(node: Path, plugin: Path, tmp_path: Path) -> None:
    configure(node, "")
    (tmp_path / "lightningd.conf").write_text(f"important-plugin={plugin}\n")
    assert check(node, "--conf", str(tmp_path / "lightningd.conf")) == (0, [])
    assert "does not exist" in the_problem(node, "--conf", str(tmp_path / "other.conf"))


@pytest.mark.usefixtures("quick")
def test_config_with_a_missing_or_recursive_include_is_a_problem(node: Path) -> None:
    configure(node, "include config\n")
    assert "over and over" in the_problem(node)
    configure(node, "include missing\n")
    assert "missing does not exist" in the_problem(node)


@pytest.mark.usefixtures("quick")
def test_missing_config_file_is_a_problem(node: Path) -> None:
    (node.parent / "config").unlink()
    code, lines = check(node)
    assert code == 1 and [line.split()[:2] for line in lines] == [["warning", "config"], ["problem", "plugin"]]


@pytest.mark.usefixtures("quick")
def test_config_for_another_network_is_reported(node: Path, plugin: Path) -> None:
    for line, elsewhere in (
        ("network=testnet", "testnet"),
        ("regtest", "regtest"),
        ("network=bitcoin\nsignet", "signet"),
    ):
        configure(node, f"important-plugin={plugin}\n{line}\n")
        code, (said,) = check(node)
        assert code == 0 and str(node.parent / elsewhere) in said and said.startswith("warning  network")
    for line in ("network=bitcoin", "mainnet", "signet\nnetwork=bitcoin", "alias=signet"):
        configure(node, f"important-plugin={plugin}\n{line}\n")
        assert check(node) == (0, [])


# Wallet, hsm_secret, backup.notify


@pytest.mark.usefixtures("quick")
def test_wallet_setting_elsewhere_or_on_postgresql_is_a_problem(node: Path, plugin: Path) -> None:
    def with_wallet(value: str) -> None:
        configure(node, f"important-plugin={plugin}\nwallet={value}\n")

    with_wallet(f"sqlite3://{node}/lightningd.sqlite3:/mnt/replica.sqlite3")
    assert check(node) == (0, [])
    with_wallet("postgres://user:secret@host/db")
    line = the_problem(node)
    assert "(postgres)" in line and "secret" not in line
    with_wallet("sqlite3:///srv/other.sqlite3:/mnt/replica")
    assert f"wallet=sqlite3://{node}/lightningd.sqlite3:/mnt/replica" in the_problem(node)
    with_wallet(f"sqlite3:///srv/main.sqlite3:{node}/lightningd.sqlite3")
    line = the_problem(node)
    assert "only as the replica" in line
    assert f"wallet=sqlite3://{node}/lightningd.sqlite3 (" in line, "one file is never its own replica"


@pytest.mark.usefixtures("quick")
def test_hsm_secret_with_wrong_mode_or_content_is_a_problem(node: Path) -> None:
    secret = node / "hsm_secret"
    secret.chmod(0o640)
    assert f"chmod 400 {secret}" in the_problem(node)
    secret.chmod(0o600)
    assert check(node)[0] == 0
    secret.write_bytes(b"")
    assert "is empty" in the_problem(node)
    secret.write_bytes(bytes(31))
    assert "has only 31 bytes" in the_problem(node)
    secret.write_bytes(SECRET)
    secret.chmod(0)
    assert f"not even its owner may read it (mode 0000): chmod 400 {secret}" in the_problem(node)
    secret.unlink()
    assert "is missing" in the_problem(node)
    secret.mkdir()
    assert "it is not a file" in the_problem(node)


@pytest.mark.usefixtures("quick")
def test_check_config_of_a_node_that_never_started_finds_nothing(plugin: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "bitcoin"
    new.mkdir(parents=True)
    assert backup_cli("init", "--lightning-dir", new, (tmp_path / "new.bkp").as_uri()).code == 0
    configure(new, f"important-plugin={plugin}\n")
    assert check(new) == (0, [])


@pytest.mark.usefixtures("quick")
def test_notify_command_that_is_not_executable_is_reported(node: Path) -> None:
    assert config_findings.NOTIFY_FILE == NOTIFY_FILE
    command = executable(node / NOTIFY_FILE, "#!/bin/sh\n")
    assert check(node) == (0, [])
    command.chmod(0o644)
    code, lines = check(node)
    assert code == 0 and len(lines) == 1 and "chmod 700" in lines[0]
