"""Numbers in sentences, and text that somebody else wrote."""

import subprocess

import pytest

from backends.text import SHOWN, counted, printable, shell_line, shell_word
from backup_cli.console import age


@pytest.mark.parametrize(("count", "text"), [(0, "0 changes"), (1, "1 change"), (2, "2 changes")])
def test_counted_noun_is_singular_for_one_only(count: int, text: str) -> None:
    assert counted(count, "change") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 seconds"), (0.4, "0 seconds"), (1.2, "1 second"), (61, "1 minute"), (7200, "2 hours")],
)
def test_age_uses_the_right_unit_and_plural(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("a stick", "a stick"),
        ("Müller 雪 ½", "Müller 雪 ½"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("one\nerror: two\r", r"one\x0aerror: two\x0d"),
        ("abc\u202egpj", r"abc\u202egpj"),
        ("\u2028\x85\x9b\ufeff", r"\u2028\x85\x9b\ufeff"),
        ("\udcff\U000e0001", r"\udcff\U000e0001"),
    ],
)
def test_foreign_text_is_printable_and_one_line(foreign: str, shown: str) -> None:
    assert printable(foreign) == shown


@pytest.mark.parametrize("foreign", ["x" * SHOWN, "x" * (SHOWN + 1), "\n" * SHOWN, "y" * 1_000_000])
def test_foreign_text_is_bounded(foreign: str) -> None:
    assert len(printable(foreign)) <= SHOWN
    assert printable(foreign).endswith("...") == (foreign != "x" * SHOWN)


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("word", ["/mnt/$(id)", "a'b\"c`id`", "", "-x; id", "~", "two words", "é"])
def test_shell_word_is_read_back_unchanged_by_shells(shell: str, word: str) -> None:
    assert _read_by(shell, shell_word(word)) == word.encode()


@pytest.mark.parametrize("word", ["\x1b[2J'\\\n1", "\u202e7", "/media/\udcff7", "\t"])
def test_shell_word_with_control_characters_is_printable_and_read_back_by_bash(word: str) -> None:
    assert printable(shell_word(word), 1000) == shell_word(word)
    assert _read_by("bash", shell_word(word)) == word.encode("utf-8", "surrogateescape")


def test_shell_line_quotes_each_word() -> None:
    assert shell_line("umount", "/mnt/$(id)", 5) == "umount '/mnt/$(id)' 5"


def _read_by(shell: str, word: str) -> bytes:
    return subprocess.run([shell, "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
