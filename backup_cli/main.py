"""`backup-cli`: prepares a backup before the node first starts, and brings it back after a disaster.

One module a command. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the backup is damaged, 130 stopped
by Ctrl-C.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from backends import __version__
from backends.errors import BackupError
from backends.system import interrupts
from backends.text import unexpected
from backup_cli import as_owner
from backup_cli.commands.check_config import check_config
from backup_cli.commands.compact import compact
from backup_cli.commands.destinations import destinations
from backup_cli.commands.drill import drill
from backup_cli.commands.import_ import import_
from backup_cli.commands.init import init
from backup_cli.commands.restore import restore
from backup_cli.commands.resync import resync
from backup_cli.commands.status import status
from backup_cli.commands.verify import verify
from backup_cli.commands.versions import versions
from backup_cli.console import fail, forget_warnings, say
from backup_cli.for_programs import hand_out_error, wanted


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="backup-cli")
def cli() -> None:
    """A backup of a Core Lightning node that holds every committed transaction.

    Before the node first starts: backup-cli init URL.

    After a disaster: backup-cli restore URL DEST.
    """


for command in (init, restore, import_, verify, status, versions, compact, resync, drill, check_config, destinations):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; every error is one sentence, and a traceback is a bug."""
    interrupts.listen()
    _open_what_is_closed()
    try:
        code = run(arguments)
    except Exception as error:  # a bug; its traceback might show a node's values, or what a terminal obeys
        fail(f"{unexpected(error)}; that is a mistake in backup-cli, please report it. Nothing was replaced")
        code = 1
        if wanted(sys.argv[1:] if arguments is None else arguments):
            hand_out_error(error, code)
    last = interrupts.came()
    if last in (signal.SIGTERM, signal.SIGHUP):  # and be seen to have ended by it: to systemd, a unit that it stopped
        signal.signal(last, signal.SIG_DFL)  # has not failed
        os.kill(os.getpid(), last)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Some supervisors start programs with no standard files at all; then every word would fail, and the next file that
    is opened, one of a backup, would get the number that the system's libraries complain to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (as long as this process lives)


_STOPPED = 130
"""What shells make of a program that Ctrl-C has ended."""


def run(arguments: list[str] | None = None) -> int:
    """Like `main`, but returns the exit code."""
    if any("\0" in word for word in arguments or ()):  # no shell can pass one, and no path has one
        fail("an argument contains a NUL byte")
        return 2
    typed = sys.argv[1:] if arguments is None else arguments
    as_owner.remember(typed)
    forget_warnings()
    try:
        with interrupts.audible():
            result: Any = cli.main(args=arguments, prog_name="backup-cli", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = _tell(error)
        if wanted(typed) and not isinstance(error, click.exceptions.Exit):  # which has shown what it had to
            hand_out_error(KeyboardInterrupt() if code == _STOPPED else error, code)
        return code
    return result if isinstance(result, int) else 0


def _tell(error: Exception | KeyboardInterrupt) -> int:
    """Say what a command ended with; the exit code. What is no error for people is raised again."""
    if isinstance(error, click.Abort | KeyboardInterrupt) or interrupts.came() is not None:  # then the rest follows
        return _tell_stop()
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        _tell_usage(error)
        return error.exit_code
    if isinstance(error, BackupError):
        fail(str(error))
        for line in (*error.listed, *as_owner.instead(error)):
            say(f"  {line}")
        return error.exit_code
    if isinstance(error, OSError):
        what = f"{error.filename} cannot be used: {error.strerror}" if error.filename else error.strerror or str(error)
        fail(f"{what}. Fix that (permission, space, mount), then repeat the command")
        return 1
    raise error


def _tell_stop() -> int:
    if interrupts.past_undoing():
        say("stopped, but only after the work was done: its result stays")
    else:
        say("stopped; what was begun was undone, and nothing that was there before has changed")
    return _STOPPED


def _tell_usage(error: click.ClickException) -> None:
    """As click does, which repeats what was typed, or pasted, as it is."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        option = max(error.ctx.help_option_names, key=len)
        say(*error.ctx.get_usage().splitlines(), f"Try '{error.ctx.command_path} {option}' for help.", "")
    say(f"Error: {error.format_message()}")


if __name__ == "__main__":
    main()
