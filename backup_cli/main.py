"""`backup-cli`: creates a backup before the node first starts, and restores the node's database after a disaster.

Each command has its own module in `commands/`. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the backup is
damaged, 130 stopped by Ctrl-C.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from backends import __version__, keyring
from backends.errors import BackupError
from backends.system import interrupts, spool
from backends.text import unexpected
from backup_cli import as_owner
from backup_cli.console import fail, forget_warnings, say
from backup_cli.for_programs import OUT_OF_MEMORY, hand_out_error, wanted


class Commands(click.Group):
    """The commands, each imported only when it is wanted: importing all takes longer than most of them run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if there is none."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(f"backup_cli.commands.{module}"), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="backup-cli")
def cli() -> None:
    """A backup of a Core Lightning node that holds every committed transaction.

    Before the node first starts: backup-cli init URL.

    After a disaster: backup-cli restore URL DEST.
    """


COMMANDS = {
    "init": "init:init",
    "restore": "restore:restore",
    "follow": "follow:follow",
    "import": "import_:import_",
    "verify": "verify:verify",
    "status": "status:status",
    "versions": "versions:versions",
    "compact": "compact:compact",
    "resync": "resync:resync",
    "drill": "drill:drill",
    "check-config": "check_config:check_config",
    "destinations": "destinations:destinations",
    "members": "members:members",
    "member-add": "member_add:member_add",
    "member-remove": "member_remove:member_remove",
    "keys": "keys:keys",
}
"""What is typed for each command → its module in `commands/`, and its name there."""


_COMPLETING = "_BACKUP_CLI_COMPLETE"
"""The variable by which a shell asks for completions: then each command is imported when one of its words is wanted."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code. Every error is shown as one sentence; a traceback is a bug."""
    _load(sys.argv[1:] if arguments is None else arguments)
    interrupts.listen()
    _open_missing_streams()
    try:
        code = run(arguments)
    except Exception as error:  # mostly a bug; its traceback could print the node's values, or escape sequences
        bug = f"{unexpected(error)}; this is a bug in backup-cli, please report it. Nothing was replaced"
        fail(OUT_OF_MEMORY if isinstance(error, MemoryError) else bug)
        code = 1
        if wanted(sys.argv[1:] if arguments is None else arguments):
            hand_out_error(error, code)
    last = interrupts.came()
    if last in (signal.SIGTERM, signal.SIGHUP):  # die of the signal itself: systemd then does not report a unit that
        signal.signal(last, signal.SIG_DFL)  # it stopped as failed
        os.kill(os.getpid(), last)
    sys.exit(code)


def _load(typed: list[str]) -> None:
    """Import what was typed, or for an overview all commands, while Ctrl-C still ends the process without a word."""
    if typed == ["--version"] or _COMPLETING in os.environ:
        return
    context = click.Context(cli)
    for name in [word for word in typed if word in COMMANDS][:1] or COMMANDS:
        cli.get_command(context, name)


def _open_missing_streams() -> None:
    """Open /dev/null for each standard file that is missing: some supervisors start programs without any.

    Otherwise every message would fail, and the next file to be opened, one of the backup's, would get the descriptor to
    which system libraries write their complaints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (as long as this process lives)


_STOPPED = 130
"""The exit code that shells report for a program that Ctrl-C has stopped."""


def run(arguments: list[str] | None = None) -> int:
    """Like `main`, but returns the exit code."""
    if any("\0" in word for word in arguments or ()):  # no shell can pass it, and no path contains it
        fail("an argument contains a NUL byte")
        return 2
    typed = sys.argv[1:] if arguments is None else arguments
    as_owner.remember(typed)
    forget_warnings()
    keyring.forget()  # what another command in this process has opened is closed to this one
    try:
        with interrupts.audible(), spool.keeping():
            result: Any = cli.main(args=arguments, prog_name="backup-cli", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = _tell(error)
        if wanted(typed) and not isinstance(error, click.exceptions.Exit):  # which has shown its result already
            hand_out_error(KeyboardInterrupt() if code == _STOPPED else error, code)
        return code
    return result if isinstance(result, int) else 0


def _tell(error: Exception | KeyboardInterrupt) -> int:
    """Report how a command ended, and return the exit code. An error that is a bug is raised again."""
    # After an interrupt, any other error is only its consequence.
    if isinstance(error, click.Abort | KeyboardInterrupt) or interrupts.came() is not None:
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
        say("stopped, but the work was already done: its result stays")
    else:
        say("stopped; the unfinished work was undone, and nothing that was there before has changed")
    return _STOPPED


def _tell_usage(error: click.ClickException) -> None:
    """Show a usage error as click does, but through `say`: click repeats what was typed or pasted without escaping."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is the help, of many lines
        say(*error.ctx.get_help().splitlines())
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        option = max(error.ctx.help_option_names, key=len)
        say(*error.ctx.get_usage().splitlines(), f"Try '{error.ctx.command_path} {option}' for help.", "")
    say(f"Error: {error.format_message()}")


if __name__ == "__main__":
    main()
