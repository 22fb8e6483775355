"""The completion files work, in the real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETION = Path(__file__).parents[2] / "contrib" / "completion"

BASH = """
source {file}
COMP_WORDS=({words} '{last}'); COMP_CWORD={count}
compopt() {{ :; }}
_backup_cli_completion backup-cli
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

# compadd and _describe work inside the line editor only: these stand-ins print what they are given.
ZSH = """
zsh_directory=${{:-{file}}}; zsh_directory=${{zsh_directory:h}}
fpath=($zsh_directory $fpath)
compdef() {{ : }}
_describe() {{ print -l -- ${{(P)3}} }}
compadd() {{ print -l -- ${{(P)@[-1]}} }}
autoload -U _backup-cli
words=({words} '{last}'); CURRENT={current}
_backup-cli
"""

FISH = """
source {file}
complete --do-complete '{line}'
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH that has backup-cli, however the tests were started."""
    command = tmp_path / "backup-cli"
    command.write_text(f"#!{sys.executable}\nfrom backup_cli.main import main\nmain()\n")
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        (["backup-cli"], "res", {"restore", "resync"}),
        (["backup-cli", "restore"], "--re", {"--replace", "--resume"}),
        (["backup-cli", "resync"], "--light", {"--lightning-dir"}),
    ],
)
def test_completion(shell: str, words: list[str], last: str, expected: set[str], environment: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script, file = {"bash": (BASH, "backup-cli.bash"), "zsh": (ZSH, "_backup-cli"), "fish": (FISH, "backup-cli.fish")}[
        shell
    ]
    text = script.format(
        file=COMPLETION / file,
        words=" ".join(words),
        last=last,
        line=" ".join([*words, last]),
        count=len(words),
        current=len(words) + 1,
    )
    done = subprocess.run([shell, "-c", text], env=environment, capture_output=True, text=True, timeout=30)
    offered = {line.split(":")[0].split("\t")[0] for line in done.stdout.split()}
    assert expected <= offered, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_files_are_what_the_command_generates(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    """In what matters: the variable that asks for completion. click changes the rest from release to release."""
    file = {"bash": "backup-cli.bash", "zsh": "_backup-cli", "fish": "backup-cli.fish"}[shell]
    shutil.copytree(COMPLETION, tmp_path / "completion")
    (tmp_path / "completion" / file).unlink()
    subprocess.run(
        [tmp_path / "completion" / "generate", tmp_path / "backup-cli"], env=environment, check=True, timeout=30
    )
    for text in ((COMPLETION / file).read_text(), (tmp_path / "completion" / file).read_text()):
        assert f"_BACKUP_CLI_COMPLETE={shell}_complete" in text
