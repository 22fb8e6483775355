"""What a terminal of 80 columns shows: no word is cut, no bar is glued to a sentence, no command is broken."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backup_cli.terminal import Bar, laid_out
from tests.cli.on_a_terminal import on_a_terminal, screen
from tests.end_to_end.world import World, backup_cli


def test_drill_prints_its_sentence_above_the_progress_bar(tmp_path: Path) -> None:
    code, written = on_a_terminal("drill", tmp_path.as_uri())
    assert code == 0, written
    lines = screen(written)
    killed = [line for line in lines if "Killed plugin and node" in line]
    assert len(killed) == 1
    assert killed[0].startswith("Killed plugin and node (-9) in the middle of a write")
    streaming = [line for line in lines if line.startswith("Streaming ")]
    assert len(streaming) == 1
    assert "100 %" in streaming[0]
    assert [line for line in lines if len(line) > 80 and " " in line] == []  # a URL is never cut


def test_init_and_restore_show_progress_for_each_long_step(old_node: World, place: Path) -> None:
    code, written = on_a_terminal("init", "--lightning-dir", old_node.directory, old_node.url)
    assert code == 0, written
    assert re.search(r"^Writing the snapshot of version \d+.* 100 %$", "\n".join(screen(written)), re.MULTILINE)
    code, written = on_a_terminal("restore", old_node.url, place)
    assert code == 0, written
    assert re.search(r"^Restoring .* 100 %$", "\n".join(screen(written)), re.MULTILINE)


_WORK = """
from backup_cli.console import progress
with progress("Restoring", "Checking the database") as show:
    for part in range(101):
        show(part, 100)
    print("checked", flush=True)
"""


def test_progress_gives_the_final_check_a_line_of_its_own() -> None:
    """A restore used to stay at 99 % for as long as the check of its result took."""
    program = f"import pty; pty.spawn([{sys.executable!r}, '-c', {_WORK!r}])"
    said = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TERM": "xterm"}, capture_output=True, text=True
    )
    text = "\n".join(screen(said.stdout.replace("\r\n", "\n")))
    assert re.search(r"^Restoring .* 100 %\nChecking the database \.\.\.\nchecked$", text, re.MULTILINE), text
    said = subprocess.run([sys.executable, "-c", _WORK], capture_output=True, text=True)
    assert said.stderr.splitlines()[-1] == "Checking the database …"


def test_check_config_breaks_between_words_and_indents_its_table(old_node: World) -> None:
    assert backup_cli("init", "--lightning-dir", old_node.directory, old_node.url).code == 0
    code, written = on_a_terminal("check-config", "--lightning-dir", old_node.directory)
    assert code == 1
    program = [sys.executable, "-m", "backup_cli.main", "check-config", "--lightning-dir", str(old_node.directory)]
    piped = subprocess.run(program, stdout=subprocess.PIPE, text=True).stdout
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in screen(written)]
    hanging = [line for line in lines if line.startswith(" " * 24)]
    assert hanging
    told = [re.sub(r"\d+ seconds? ago", "", " ".join(text.split())) for text in ("\n".join(lines), piped)]
    assert told[0] == told[1]


@pytest.mark.parametrize(("term", "environment"), [("dumb", {}), ("", {}), ("xterm", {"NO_COLOR": "1"})])
def test_plain_terminal_gets_no_colours(old_node: World, term: str, environment: dict[str, Any]) -> None:
    old_node.init()
    code, written = on_a_terminal("check-config", "--lightning-dir", old_node.directory, term=term, **environment)
    assert code == 1
    assert "\x1b" not in written
    assert "\x1b[3" in on_a_terminal("check-config", "--lightning-dir", old_node.directory)[1]


def test_dumb_terminal_gets_no_progress_bars(old_node: World) -> None:
    code, written = on_a_terminal("init", "--lightning-dir", old_node.directory, old_node.url, term="dumb")
    assert code == 0
    assert "\r" not in written
    assert "\x1b" not in written
    assert "Writing the snapshot of version 6: 100 % after" in written


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize(
    "command",
    [
        "backup-cli restore --resume --replace file:///mnt/a/lightning.bkp /home/u/.lightning/bitcoin",
        "backup-cli restore --kept --replace 'file:///mnt/a stick/lightning.bkp' DEST",
        "sudo -u lightning /opt/x/bin/backup-cli init --lightning-dir '/a b/bitcoin' file:///m/x",
        "setpriv --reuid=1001 --regid=1001 --clear-groups /opt/x/bin/backup-cli verify file:///m/x",
        "backup-cli resync --discard-newer 1234567",
    ],
)
def test_command_to_paste_is_never_broken_across_lines(command: str, width: int) -> None:
    for before in range(20, 100, 7):
        message = f"error: {'word ' * (before // 5)}so type this: {command}; then look whether the node starts again"
        lines = laid_out(message, width)
        assert any(command in line for line in lines), lines
        assert " ".join(" ".join(lines).split()) == " ".join(message.split())


def test_message_in_a_pipe_is_one_line() -> None:
    message = "word " * 200
    assert laid_out(message, None) == [message]


def test_list_and_table_rows_are_indented_under_their_text() -> None:
    assert laid_out("  - " + "word " * 10, 30)[1].startswith("    word")
    assert laid_out(f"{'version':<13}{'word ' * 10}", 40, 13)[1].startswith(" " * 13 + "word")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_progress_bar_never_fills_the_last_column(width: int) -> None:
    """In the last column a terminal wraps, and the next bar would not overwrite this one."""
    bar = Bar("Writing the snapshot of version 1234567 (the backup was at 1234560)", width)
    for done in range(101):
        bar.moved(done, 100)
        assert len(bar.text) < width


def test_help_does_not_cut_the_list_of_commands() -> None:
    code, written = on_a_terminal("--help")
    assert code == 0
    commands = written.partition("Commands:")[2]
    assert "verify" in commands
    assert "..." not in commands
    assert "…" not in commands
    assert all(len(line) <= 80 for line in written.splitlines())
