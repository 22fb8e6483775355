"""`backup.notify`: it is called on trouble, nobody waits for it, and it outlives its plugin."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin import notify
from plugin.notify import NOTIFY_FILE, TOLD_FILE, Notifier

Told = list[tuple[str, str]]


@pytest.fixture
def log() -> Told:
    return []


@pytest.fixture
def notifier(tmp_path: Path, log: Told) -> Iterator[Notifier]:
    made = Notifier(tmp_path, lambda level, line: log.append((level, line)))
    yield made
    made.stop()


def command(directory: Path, script: str, mode: int = 0o700) -> Path:
    path = directory / NOTIFY_FILE
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def wait_for(what: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_notify_command_gets_level_and_sentence_as_arguments_and_environment(
    tmp_path: Path, notifier: Notifier
) -> None:
    command(tmp_path, 'printf "%s\\n" "$1" "$2" "$LIGHTNINGD_BACKUP_LEVEL" "$LIGHTNINGD_BACKUP_DIRECTORY" "$PWD" > new')
    notifier.start()
    sentence = 'the disk\'s "full"; $(rm -rf /) `x`\nand more'
    notifier.tell("broken", sentence)
    wait_for(lambda: len(lines(tmp_path / "new")) == 6)
    assert lines(tmp_path / "new") == ["broken", *sentence.split("\n"), "broken", str(tmp_path), str(tmp_path)]


def test_notify_command_is_not_called_for_info_lines(tmp_path: Path, notifier: Notifier, log: Told) -> None:
    command(tmp_path, 'echo "$2" >> told')
    notifier.start()
    notifier.tell("info", "all is well")
    notifier.tell("unusual", "look at this")
    wait_for(lambda: lines(tmp_path / "told"))
    assert lines(tmp_path / "told") == ["look at this"]
    assert log == []


def test_trouble_without_a_notify_command_is_silent(tmp_path: Path, notifier: Notifier, log: Told) -> None:
    notifier.start()
    notifier.tell("broken", "nobody wants to know")
    notifier.stop()
    assert log == []


@pytest.mark.parametrize(("mode", "word"), [(0o600, "not executable"), (0o722, "written by other users")])
def test_untrusted_notify_command_is_named_once_and_not_called(
    tmp_path: Path, notifier: Notifier, log: Told, mode: int, word: str
) -> None:
    if mode == 0o600 and os.geteuid() == 0:
        assert not os.access(command(tmp_path, "", mode), os.X_OK)  # root, too, needs one x bit
    command(tmp_path, "touch called", mode)
    notifier.start()
    notifier.tell("broken", "one")
    notifier.tell("broken", "two")
    notifier.stop()
    assert [level for level, _ in log] == ["unusual"]
    assert word in log[0][1] and "chmod 700" in log[0][1]
    assert not (tmp_path / "called").exists()


def test_notifying_never_waits_for_the_command(tmp_path: Path, notifier: Notifier) -> None:
    command(tmp_path, "sleep 30")
    notifier.start()
    began = time.monotonic()
    for number in range(500):
        notifier.tell("unusual", f"trouble {number}")
    assert time.monotonic() - began < 1


def test_repeated_sentences_are_sent_once_and_a_flood_is_cut_off(tmp_path: Path, notifier: Notifier) -> None:
    command(tmp_path, 'echo "$2" >> told')
    notifier.start()
    for number in range(40):
        notifier.tell("unusual", "again")
        notifier.tell("unusual", f"number {number}")
    notifier.tell("broken", "the end")  # never too much
    wait_for(lambda: "the end" in lines(tmp_path / "told"))
    time.sleep(0.1)
    assert len(lines(tmp_path / "told")) == notify.MAX_CALLS + 1
    assert lines(tmp_path / "told").count("again") == 1


@pytest.mark.parametrize("remembered", [b"", b"[]", b'{"again": "x"}', b'{"again": 9e99}', b"\xff" * 100_000])
def test_sentence_sent_by_one_plugin_is_not_sent_again_by_the_next(tmp_path: Path, remembered: bytes) -> None:
    """A node that cannot start is started again and again; a corrupt note about what was sent must not suppress
    anything."""
    command(tmp_path, 'echo "$2" >> told')
    (tmp_path / TOLD_FILE).write_bytes(remembered)
    for _ in range(3):
        notifier = Notifier(tmp_path, lambda level, line: None)
        notifier.start()
        notifier.tell("broken", "again")
        notifier.stop()
    wait_for(lambda: lines(tmp_path / "told"))
    time.sleep(0.1)
    assert lines(tmp_path / "told") == ["again"]
    assert (tmp_path / TOLD_FILE).stat().st_mode & 0o777 == 0o600


def test_failing_notify_command_is_logged_with_its_exit_code(tmp_path: Path, notifier: Notifier, log: Told) -> None:
    command(tmp_path, "exit 7")
    notifier.start()
    notifier.tell("broken", "help")
    wait_for(lambda: log)
    assert "ended with 7" in log[0][1]


def test_hanging_notify_command_is_killed_and_logged(
    tmp_path: Path, notifier: Notifier, log: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT", 1.5)
    command(tmp_path, "echo $$ > pid; sleep 60")
    notifier.start()
    notifier.tell("broken", "help")
    wait_for(lambda: log)
    assert "was killed" in log[0][1]
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_notify_command_finishes_although_its_plugin_ends_at_once(tmp_path: Path) -> None:
    """This happens after a refusal: lightningd aborts, the plugin ends, and a service manager sends SIGTERM to what is
    left."""
    command(tmp_path, 'echo $$ > pid; sleep 0.5; echo "$2" > told')
    program = (
        "import sys; from pathlib import Path; from plugin.notify import Notifier\n"
        "notifier = Notifier(Path(sys.argv[1]), print); notifier.start()\n"
        "notifier.tell('broken', 'the last words'); notifier.stop()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=30)
    wait_for(lambda: lines(tmp_path / "pid"))
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    wait_for(lambda: lines(tmp_path / "told") == ["the last words"])
