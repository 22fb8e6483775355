"""What the commands that encrypt ask for at a terminal: no more than is needed, and nothing typed is shown."""

import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.node import hsm_seed
from backup_cli import given_secret, key_options
from tests.cli.made_encrypted import PASSPHRASE, kinds, with_secret
from tests.end_to_end.world import World
from tests.members.world import eventually

ANSWERED = 60.0
"""Seconds in which a command must ask for the next answer, or end."""


def answering(answers: Sequence[tuple[str, str]], *words: object) -> tuple[int, str]:
    """Run `backup-cli` at a terminal, and type each answer once its question is there. Returns its code and output."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "backup_cli.main", *map(str, words)])
    shown, left, deadline = "", list(answers), time.monotonic() + ANSWERED
    seen = 0
    while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux reports a closed other end this way
            break
        if not piece:
            break
        shown += piece.decode()
        if left and left[0][0] in shown[seen:]:
            time.sleep(0.2)  # what was typed before the terminal is silent is dropped
            seen = len(shown)
            os.write(terminal, f"{left.pop(0)[1]}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    assert not left, (left, shown)
    return code, shown


def init_words(world: World, *options: object) -> list[object]:
    return ["init", "--encrypt", *options, "--lightning-dir", world.directory, world.url]


def test_hsm_secret_without_a_passphrase_asks_for_nothing(old_node: World) -> None:
    code, shown = answering([], *init_words(with_secret(old_node)))
    assert code == 0, shown
    assert "assphrase" not in shown
    assert kinds(old_node.backup) == ["hsm"]


def test_node_without_hsm_secret_is_offered_a_passphrase(world: World) -> None:
    answers = [("New passphrase of this backup: ", PASSPHRASE), ("The same again: ", PASSPHRASE)]
    code, shown = answering(answers, *init_words(world))
    assert code == 0, shown
    assert PASSPHRASE not in shown
    assert kinds(world.backup) == ["passphrase"]


def test_empty_line_makes_no_passphrase_slot(world: World) -> None:
    code, shown = answering([("New passphrase of this backup: ", "")], *init_words(world))
    assert code == 0, shown
    assert kinds(world.backup) == []


def test_two_different_passphrases_make_nothing(world: World) -> None:
    answers = [("New passphrase of this backup: ", PASSPHRASE), ("The same again: ", "something else")]
    code, shown = answering(answers, *init_words(world))
    assert code == 1
    assert "differ" in shown
    assert not world.backup.exists()


def test_with_hsm_secret_asks_for_a_passphrase_twice(old_node: World) -> None:
    answers = [("New passphrase of this backup: ", PASSPHRASE), ("The same again: ", PASSPHRASE)]
    code, shown = answering(answers, *init_words(with_secret(old_node), "--with-hsm-secret"))
    assert code == 0, shown
    assert kinds(old_node.backup) == ["passphrase"]


def test_keys_asks_for_a_new_passphrase_twice(old_node: World) -> None:
    assert answering([], *init_words(with_secret(old_node)))[0] == 0
    answers = [("New passphrase of this backup: ", PASSPHRASE), ("The same again: ", PASSPHRASE)]
    code, shown = answering(answers, "keys", "--add-passphrase", "--lightning-dir", old_node.directory)
    assert code == 0, shown
    assert PASSPHRASE not in shown
    assert kinds(old_node.backup) == ["hsm", "passphrase"]


def test_passphrase_is_not_shown_after_the_command_was_stopped_and_goes_on(world: World) -> None:
    """Ctrl-Z, then `fg`: the shell sets the terminal up for itself in between, so that it shows what is typed."""
    question = "New passphrase of this backup: "
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "backup_cli.main", *map(str, init_words(world))])
    shown = shown_until(terminal, question)
    eventually(lambda: not is_shown(terminal))
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    settings = termios.tcgetattr(terminal)
    settings[3] |= termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    os.kill(child, signal.SIGCONT)
    eventually(lambda: not is_shown(terminal))
    shown += shown_until(terminal, question)
    os.write(terminal, f"{PASSPHRASE}\n".encode())
    shown += shown_until(terminal, "The same again: ")
    eventually(lambda: not is_shown(terminal))
    os.write(terminal, b"another one\n")
    shown += shown_until(terminal, "the two passphrases differ")
    os.waitpid(child, 0)
    assert PASSPHRASE not in shown
    os.close(terminal)


def is_shown(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def shown_until(terminal: int, words: str) -> str:
    """What the command shows, until it has shown these words."""
    shown, deadline = "", time.monotonic() + ANSWERED
    while words not in shown:
        assert select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0], shown
        shown += os.read(terminal, 65536).decode()
    return shown


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An hsm_secret whose passphrase is PASSPHRASE, for commands in this process. argon2id would take seconds."""
    path = tmp_path / "hsm_secret"
    path.write_bytes(bytes(32))

    def read_seed(_: Path, passphrase: bytes | None = None) -> bytes:
        if passphrase is None:
            raise hsm_seed.SeedNeedsPassphrase("its passphrase is needed")
        if passphrase != PASSPHRASE.encode():
            raise hsm_seed.WrongSeedPassphrase("wrong")
        return bytes(range(32))

    monkeypatch.setattr(given_secret, "needs_passphrase", lambda _: True)
    monkeypatch.setattr(given_secret, "read_seed", read_seed)
    return path


@pytest.mark.parametrize(("typed", "asked"), [([PASSPHRASE], 1), (["wrong", PASSPHRASE], 2), (["wrong"] * 3, 3)])
def test_passphrase_of_hsm_secret_may_be_mistyped_twice(
    locked: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], asked: int
) -> None:
    questions: list[str] = []
    answers = iter(typed)

    def answer(question: str) -> bytes:
        questions.append(question)
        return next(answers).encode()

    monkeypatch.setattr(given_secret, "at_terminal", lambda: True)
    monkeypatch.setattr(key_options, "typed", answer)
    if typed[-1] == PASSPHRASE:
        assert given_secret.seed_of(locked, None) == bytes(range(32))
    else:
        with pytest.raises(hsm_seed.WrongSeedPassphrase):
            given_secret.seed_of(locked, None)
    assert len(questions) == asked


def test_passphrase_file_that_opens_hsm_secret_asks_for_nothing(locked: Path) -> None:
    assert given_secret.seed_of(locked, PASSPHRASE.encode()) == bytes(range(32))


def test_hsm_secret_whose_passphrase_nobody_can_type_needs_one(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_secret, "at_terminal", lambda: False)
    with pytest.raises(hsm_seed.SeedNeedsPassphrase):
        given_secret.seed_of(locked, None)
