"""Phrases that messages in every part of the program share, and how text from outside is shown in a message."""

import os
import shlex
import unicodedata

SHOWN = 200
"""The most characters of one foreign text that a message shows."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that a terminal does not print, but obeys, reorders text by, or shows as nothing."""


def counted(count: int, noun: str) -> str:
    """The count with its noun: `1 change`, `2 changes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def mib(count: int) -> str:
    """So many bytes in whole MiB, for the node's log."""
    return f"{count / (1 << 20):.0f} MiB"


def process_in_words(pid: int) -> str:
    """A process that a file names, in words for the middle of a sentence. `pid` 0: the file does not name it."""
    return f"process {pid}" if pid else "process unknown"


def printable(foreign: object, limit: int = SHOWN) -> str:
    r"""Text from a file, a disk, a server or a peer, made safe for a terminal and a log: printable, one line, bounded.

    What a terminal would obey (escape sequences, changes of direction, line ends) is shown as `\x1b` or `\u202e`.
    The result has at most `limit` characters, including the three dots at the end if the text was cut.
    """
    text = str(foreign)
    shown = "".join(map(_visible, text[: limit + 1]))  # each character becomes at least one
    return shown if len(shown) <= limit and len(text) <= limit else shown[: max(limit - 3, 0)] + "..."


def one_line(message: str) -> str:
    """A whole message (ours, with foreign text in it), escaped so that a terminal or a log obeys nothing in it.

    The last step before printing. Line ends are escaped too: to print several lines, print several messages. Applying
    this twice gives the same result as applying it once.
    """
    return message if message.isprintable() else "".join(map(_visible, message))


def unexpected(error: BaseException) -> str:
    """What is said about an error that nobody foresaw: its type and where it was raised.

    Its own text is left out, because it may contain the node's secrets.
    """
    step, place = error.__traceback__, ""
    while step is not None:
        place = f" at {os.path.basename(step.tb_frame.f_code.co_filename)}:{step.tb_lineno}"  # noqa: PTH119
        step = step.tb_next
    return f"something unexpected went wrong ({type(error).__name__}{place})"


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shell_word(word: object) -> str:
    r"""One word of a command that a person pastes, quoted so that the shell reads back exactly this word.

    What a terminal would obey is written as in `$'\033'`, which bash, zsh and busybox's ash understand.
    """
    text = str(word)
    if all(_visible(character) == character for character in text):
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if _visible(character) == character:
        return character
    try:
        code = character.encode("utf-8", "surrogateescape")  # a name that is not UTF-8, as the system returned it
    except UnicodeEncodeError:
        code = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in code)


def shell_line(*words: object) -> str:
    """A command that a person can paste, with each word quoted."""
    return " ".join(map(shell_word, words))
