"""The completion files work, in the real shells."""

import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import pytest

from backup_cli import completing, off_site
from backup_cli.main import cli

COMPLETION = Path(__file__).parents[2] / "contrib" / "completion"

# compadd and _describe work inside the line editor only: these replacements print what they are given.
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


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        (["backup-cli"], "res", {"restore", "resync"}),
        (["backup-cli", "restore"], "--re", {"--replace", "--resume"}),
        (["backup-cli", "resync"], "--light", {"--lightning-dir"}),
        (["backup-cli", "init"], "us", {"usb://"}),
        (["backup-cli", "init", "s3://x/y"], "", {"file:///", "nfs://"}),
    ],
)
def test_completion_in_zsh_and_fish_offers_the_matching_words(
    shell: str, words: list[str], last: str, expected: set[str], environment: dict[str, str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script, file = {"zsh": (ZSH, "_backup-cli"), "fish": (FISH, "backup-cli.fish")}[shell]
    text = script.format(
        file=COMPLETION / file,
        words=" ".join(words),
        last=last,
        line=" ".join([*words, last]),
        current=len(words) + 1,
    )
    done = subprocess.run([shell, "-c", text], env=environment, capture_output=True, text=True, timeout=30)
    offered = {word for line in done.stdout.split() for word in (line, line.split(":")[0].split("\t")[0])}
    assert expected <= offered, done.stdout + done.stderr


URL = "file:///mnt/nas/lightning.bkp"


@pytest.mark.parametrize(
    ("typed", "ran"),
    [
        ("restor", ["restore"]),
        ("restore --repl", ["restore", "--replace"]),
        (f"restore {URL} --resu", ["restore", URL, "--resume"]),
        (f"verify {URL} --lightning-d", ["verify", URL, "--lightning-dir"]),
        (f"restore --to-version=5 {URL} --resu", ["restore", "--to-version=5", URL, "--resume"]),
        (f"verify {URL} --lightning-dir=saf", ["verify", URL, "--lightning-dir=safe place/"]),
        (f"verify '{URL} x' --lightning-dir saf", ["verify", f"{URL} x", "--lightning-dir", "safe place/"]),
        ("status usb://STICK/lightning.bkp --prom", ["status", "usb://STICK/lightning.bkp", "--prometheus"]),
        (f"verify {URL} {URL} --no-such", ["verify", URL, URL, "--no-such"]),
        ("status fi\tmnt/x", ["status", "file:///mnt/x"]),
        ("status usb:\tSTICK/x", ["status", "usb://STICK/x"]),
        ("verify --scratch=. us\tSTICK/x", ["verify", "--scratch=.", "usb://STICK/x"]),
    ],
)
def test_tab_in_bash_completes_commands_options_and_urls(
    typed: str, ran: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "safe place").mkdir()
    (tmp_path / "backup-cli").rename(tmp_path / "really")
    (tmp_path / "backup-cli").write_text(
        '#!/bin/sh\n[ -z "$_BACKUP_CLI_COMPLETE" ] || exec really\nprintf "%s\\n" "$@" > ran\n'
    )
    (tmp_path / "backup-cli").chmod(0o755)
    type_in_bash(f"backup-cli {typed}\t\nexit\n", environment, tmp_path)
    assert (tmp_path / "ran").read_text().splitlines() == ran


def test_ssh_servers_are_offered_once_the_kind_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_site, "ssh_hosts", lambda: iter(["nas", "friend", "nas"]))
    monkeypatch.setattr(completing, "SCHEMES", {"file": "", "sftp": "", "s3": ""})
    context, parameter = click.Context(cli), click.Argument(["url"])
    offered = {
        typed: completing.offered_urls(context, parameter, typed) for typed in ("", "s", "sftp://", "sftp://n", "x")
    }
    assert offered == {
        "": ["file:///", "sftp://", "s3://"],
        "s": ["sftp://", "s3://"],
        "sftp://": ["sftp://", "sftp://nas/", "sftp://friend/"],
        "sftp://n": ["sftp://nas/"],
        "x": [],
    }


def type_in_bash(keys: str, environment: dict[str, str], directory: Path) -> None:
    """Type these keys into an interactive bash: a tab completes only on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execvpe("bash", ["bash", "--noprofile", "--rcfile", str(COMPLETION / "backup-cli.bash"), "-i"], environment)
    os.write(terminal, keys.encode())
    with suppress(OSError):  # a terminal ends this way after its last program
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_files_equal_the_generated_ones(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    """They must agree on the variable that asks for completion. click changes the rest from release to release."""
    file = {"zsh": "_backup-cli", "fish": "backup-cli.fish"}[shell]
    shutil.copytree(COMPLETION, tmp_path / "completion")
    (tmp_path / "completion" / file).unlink()
    subprocess.run(
        [tmp_path / "completion" / "generate", tmp_path / "backup-cli"], env=environment, check=True, timeout=30
    )
    for text in ((COMPLETION / file).read_text(), (tmp_path / "completion" / file).read_text()):
        assert f"_BACKUP_CLI_COMPLETE={shell}_complete" in text
