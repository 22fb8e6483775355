"""`--dry-run`: refuses whatever the real command would refuse, else says what it would do. Nothing changes, neither at
the node nor in the backup."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from backends.node.writer_lock import WriterLock
from backup_cli.console import show_line
from backup_cli.for_programs import hand_out_result

_Command = TypeVar("_Command", bound=Callable[..., Any])


def dry_run_option(command: _Command) -> _Command:
    """Add the flag `--dry-run`; the command gets it as `dry_run`."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done, or refused, and change nothing.")(
        command
    )


@contextmanager
def held(lock: WriterLock, dry_run: bool) -> Iterator[None]:
    """Hold the node's lock; in a dry run, only check that nobody else holds it."""
    if dry_run:
        lock.look()
        yield
        return
    with lock:
        yield


def tell_steps(steps: Sequence[str], as_json: bool = False) -> None:
    """Show what the real command would do now, step by step."""
    if as_json:
        hand_out_result({"dry_run": True, "would": list(steps)})
        return
    for step in steps:
        show_line(f"- would {step}")
    show_line("Nothing was changed. To do it, repeat this without --dry-run.")
