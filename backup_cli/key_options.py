"""The options with which a command is told the key of an encrypted backup, and how a passphrase is read.

A passphrase comes from a terminal, where it is not shown, or from the first line of a file. It is never taken from the
command line or the environment, which other users of the machine can read.
"""

import errno
import os
import signal
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import click

from backends.errors import BackupError, KeyNeeded
from backends.mounts.missing import is_it_mounted
from backends.system.owners import user_name
from backends.text import printable
from backup_cli.console import ask, end_question, say
from backup_cli.options import A_PATH

MIN_NEW = 8
"""The fewest bytes of a new passphrase: whoever holds a copy of the backup can try as many as he likes."""

_MAX = 4096
"""The most bytes of a passphrase that are read. What is longer is no passphrase but the wrong file."""


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What the user has named that opens an encrypted backup."""

    hsm_secret: Path | None = None
    passphrase_file: Path | None = None
    """Its first line is the passphrase of a key slot, of the hsm_secret, or of both."""
    key_file: Path | None = None
    """A backup.key or a copy of it."""

    @property
    def named(self) -> tuple[str, ...]:
        """The options that were given, as they are typed."""
        given = {
            "--hsm-secret": self.hsm_secret,
            "--passphrase-file": self.passphrase_file,
            "--key-file": self.key_file,
        }
        return tuple(option for option, path in given.items() if path is not None)


ATTEMPTS = 3
"""How often a passphrase may be mistyped at the terminal."""

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Opened = TypeVar("_Opened")


def key_options(command: _Command) -> _Command:
    """Add --hsm-secret, --passphrase-file and --key-file; the command gets all three as one KeyOptions, `key`."""

    @click.option(
        "--hsm-secret",
        type=A_PATH,
        metavar="FILE",
        help="Open an encrypted backup with this hsm_secret of its node.",
    )
    @click.option(
        "--passphrase-file",
        type=A_PATH,
        metavar="FILE",
        help="The first line of this file is the passphrase of the encrypted backup, or of the hsm_secret.",
    )
    @click.option(
        "--key-file",
        type=A_PATH,
        metavar="FILE",
        help="Open an encrypted backup with this backup.key, or a copy of it.",
    )
    @wraps(command)
    def given(
        *arguments: Any, hsm_secret: Path | None, passphrase_file: Path | None, key_file: Path | None, **named: Any
    ) -> Any:
        return command(*arguments, **named, key=KeyOptions(hsm_secret, passphrase_file, key_file))

    return cast(_Command, given)


def passphrase_from(options: KeyOptions, *, new: bool, of: str = "this backup") -> bytes:
    """The passphrase in the file that was named, else as it is typed at the terminal; there, a new one twice.

    `of` says in the prompt what has this passphrase. A new one must have MIN_NEW bytes. Raises KeyNeeded if there is
    neither a file nor a terminal, BackupError if the file cannot be used or a new passphrase is not good enough.
    """
    if options.passphrase_file is not None:
        passphrase = _first_line(options.passphrase_file)
    elif at_terminal():
        passphrase = typed(f"{'New passphrase' if new else 'Passphrase'} of {of}")
        if new:
            confirm(passphrase)
    else:
        raise KeyNeeded(
            f"the passphrase of {of} is needed, and nobody can be asked for it: this is not run at a terminal. Nothing "
            "was changed; name a file whose first line is the passphrase: --passphrase-file FILE"
        )
    if new:
        _demand_good(passphrase)
    return passphrase


def confirm(passphrase: bytes) -> None:
    """Have a new passphrase typed once more. Raises BackupError if it is not good enough, or another one is typed."""
    _demand_good(passphrase)  # before it has to be typed again
    if typed("The same again") != passphrase:
        raise BackupError("the two passphrases differ, so neither was used; nothing was changed: try again")


def opened_by_typing(question: str, opened: Callable[[bytes], _Opened], wrong: type[BackupError]) -> _Opened:
    """What `opened` makes of the passphrase that is typed at the terminal; after a `wrong` one it is asked for again.

    Raises what `opened` raises: for a wrong one only once it was mistyped ATTEMPTS times.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return opened(typed(question))
        except wrong as error:
            say(str(error))
    return opened(typed(question))


def at_terminal() -> bool:
    """Whether a person can be asked for a passphrase: both the question and the answer go through a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def typed(question: str) -> bytes:
    """The line that is typed at the terminal after this question, without its end. It is not shown.

    Bytes, because a passphrase is whatever the keyboard sends: nothing is decoded, so that nothing can fail with a
    message that shows it. Raises click.Abort at the end of the input (Ctrl-D).
    """
    terminal = sys.stdin.fileno()
    ask(question)
    before = termios.tcgetattr(terminal)

    def go_on(number: int, frame: FrameType | None) -> None:
        """After Ctrl-Z and `fg`: the shell has made the terminal show again what is typed."""
        ask(question)
        _silence(terminal, before)

    continued = signal.signal(signal.SIGCONT, go_on)
    try:
        _silence(terminal, before)
        line = os.read(terminal, _MAX)  # a terminal returns one line
    finally:
        signal.signal(signal.SIGCONT, continued)
        termios.tcsetattr(terminal, termios.TCSANOW, before)
        end_question()
    if not line:
        raise click.Abort
    return _without_end(line)


def _silence(terminal: int, before: Sequence[Any]) -> None:
    """Let the terminal, whose settings were `before`, show nothing of the line that is typed next. Drops what was typed
    already: it was shown. Raises click.Abort if the terminal does not do it."""
    silent = [*before]
    silent[3] &= ~termios.ECHO
    silent[3] |= termios.ICANON
    while True:
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
            return
        except termios.error as error:
            number, _ = error.args
            if number != errno.EINTR:  # which `bg` and then `fg` cause
                raise click.Abort from error


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # links and pipes are fine: <(pass show lightning) is one
            line = file.readline(_MAX + 1)
    except OSError as error:
        raise BackupError(
            f"the passphrase cannot be read from {printable(path)}: {error.strerror or error} (this runs as the user "
            f"{user_name(os.geteuid())}). Nothing was changed; name another file with --passphrase-file FILE, or "
            "leave that out at a terminal, where it is asked for"
            + (is_it_mounted(path) if isinstance(error, FileNotFoundError) else "")
        ) from None
    if len(line) > _MAX:
        raise BackupError(
            f"the first line of {printable(path)} has more than {_MAX} bytes, so it is no passphrase. Nothing was "
            "changed; name the right file with --passphrase-file FILE"
        )
    return _without_end(line)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _demand_good(passphrase: bytes) -> None:
    if len(passphrase) >= MIN_NEW:
        return
    what = "is empty" if not passphrase else f"has fewer than {MIN_NEW} characters"
    raise BackupError(
        f"the new passphrase {what}, and whoever holds the destination can try millions of them. Nothing was changed; "
        "choose a longer one, for example six random words, and write it on paper"
    )
