"""Whether backup-cli would understand a command line, according to click's own parser; nothing is run."""

import shlex
from collections.abc import Iterator
from pathlib import PurePath

import click

from backup_cli.main import cli


def complaint(words: list[str]) -> str | None:
    """Why `backup-cli WORDS` is no command of ours; None when it is one. `N` stands for a number."""
    words = ["1" if word == "N" else word for word in words]
    # With the group's own settings: a command keeps the help option that it is first asked for, for every later test.
    context = click.Context(cli, info_name="backup-cli", **cli.context_settings)
    try:
        if words and words[0].startswith("-"):
            cli.make_context("backup-cli", list(words))
            return None
        name, command, rest = cli.resolve_command(context, list(words))
        assert command is not None
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        return None  # --help, --version
    except click.MissingParameter as error:
        return error.format_message()
    except click.BadParameter as error:
        # A path that exists on the reader's machine only.
        return None if error.param is not None and isinstance(error.param.type, click.Path) else error.format_message()
    except click.UsageError as error:
        return error.format_message()
    return None


def calls_of_backup_cli(script: str) -> Iterator[list[str]]:
    """What follows each `backup-cli` in a piece of shell, as words; up to the end of that command.

    One that nothing follows is a file's name, as in `install … completions/backup-cli`.
    """
    for line in script.replace("\\\n", " ").splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:
            continue  # prose with an apostrophe
        yield from (call for call in _calls(words) if call)


def _calls(words: list[str]) -> Iterator[list[str]]:
    call: list[str] | None = None
    for word in words:
        if call is not None:
            if set(word) <= set("|&;<>()"):
                yield call
                call = None
            else:
                call.append(word)
        elif PurePath(word).name == "backup-cli":
            call = []
        elif " backup-cli " in f" {word} ".replace("/backup-cli ", " backup-cli "):
            yield from calls_of_backup_cli(word)  # sh -c '…'
    if call is not None:
        yield call
