"""A protected node, for the tests of `backup-cli check-config`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from backup_cli.checks import plugin as plugin_findings
from backup_cli.checks import probe
from backup_cli.main import cli
from tests.contrib.checking import PLUGIN_SCRIPT, configure, executable
from tests.known_secret import SECRET, known_database


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    return executable(tmp_path / "bin" / "lightningd-backup", PLUGIN_SCRIPT)


@pytest.fixture
def node(tmp_path: Path, plugin: Path) -> Path:
    """A node with a database, a backup and a config: protected."""
    directory = tmp_path / "lightning" / "bitcoin"
    directory.mkdir(parents=True)
    (directory / "lightningd.sqlite3").write_bytes(known_database())
    secret = directory / "hsm_secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o400)
    done = CliRunner().invoke(cli, ["init", "--lightning-dir", str(directory), f"file://{tmp_path}/lightning.bkp"])
    assert done.exit_code == 0, done.output
    configure(directory, f"network=bitcoin\nimportant-plugin={plugin}\n")
    return directory


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip starting the plugin in tests that are about something else."""
    answer = probe.Manifest(["db_write"], ["backup-status"], None, 0.5)
    monkeypatch.setattr(plugin_findings, "ask_for_manifest", lambda path, patience: answer)
