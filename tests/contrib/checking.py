"""Helpers that run `backup-cli check-config`."""

import sys
from pathlib import Path

from click.testing import CliRunner

from backup_cli.main import cli

PLUGIN_SCRIPT = f"#!{sys.executable}\nfrom plugin.main import main\nmain()\n"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def configure(directory: Path, text: str) -> None:
    (directory.parent / "config").write_text(text)


def check(directory: Path, *options: str) -> tuple[int, list[str]]:
    """The exit code, and the lines that are not ok, except the one about the same disk, which is always there."""
    result = CliRunner().invoke(cli, ["check-config", "--lightning-dir", str(directory), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.stdout.splitlines()[-1].startswith("protected" if result.exit_code == 0 else "NOT protected")
    return result.exit_code, [
        line for line in result.stdout.splitlines()[:-1] if not line.startswith("ok ") and "same disk" not in line
    ]


def the_problem(directory: Path, *options: str) -> str:
    code, lines = check(directory, *options)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("problem"), lines
    return lines[0]
