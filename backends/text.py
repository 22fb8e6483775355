"""Words that sentences of all parts need, and how text that somebody else wrote is shown in them."""

import os
import shlex
import unicodedata

SHOWN = 200
"""Characters of one foreign text that a message shows at most."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that a terminal obeys or reorders by, or shows as nothing, instead of printing them."""


def counted(count: int, noun: str) -> str:
    """So many of them: `1 change`, `2 changes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def process_in_words(pid: int) -> str:
    """A process that a file tells of, in the middle of a sentence; 0: the file does not."""
    return f"process {pid}" if pid else "process unknown"


def printable(foreign: object, limit: int = SHOWN) -> str:
    r"""Text from a file, a disk, a server or a peer, safe in a terminal and a log: printable, one line, bounded.

    What a terminal would obey (escape sequences, changes of direction, line ends) is shown as `\x1b` or `\u202e`.
    At most `limit` characters, three dots at the end included where something was cut.
    """
    text = str(foreign)
    shown = "".join(map(_visible, text[: limit + 1]))  # each character becomes one at least
    return shown if len(shown) <= limit and len(text) <= limit else shown[: max(limit - 3, 0)] + "..."


def one_line(message: str) -> str:
    """A whole message, ours with foreign text in it, as the last thing before a terminal or a log: nothing is obeyed.

    Line ends are escaped like the rest: who means to begin a line shows another message. Twice does no more than once.
    """
    return message if message.isprintable() else "".join(map(_visible, message))


def unexpected(error: BaseException) -> str:
    """What is said of an error that nobody foresaw: which, and where. Its own words may hold a node's secrets."""
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
    r"""One word of a command that a person pastes: quoted so that the shell makes exactly this of it.

    What a terminal would obey is written as in `$'\x1b'`, which bash, zsh and busybox's ash read.
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
        code = character.encode("utf-8", "surrogateescape")  # a name that is no UTF-8, as the system gave it
    except UnicodeEncodeError:
        code = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in code)


def shell_line(*words: object) -> str:
    """A command that a person pastes, each word quoted."""
    return " ".join(map(shell_word, words))
