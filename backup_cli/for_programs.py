"""`--json`: one JSON document on stdout, however the command ends; sentences for people still go to stderr.

A result is an object (a list for `versions` and `destinations`), an error is `{"error": {...}}`. A program tells errors
apart by `kind` and `exit_code`; `message` is for people, and its wording may change.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click

from backends.errors import BackupError, Damaged, InUse, Unrestorable
from backends.members.consent import MembersMissing
from backends.text import one_line, unexpected
from backup_cli.console import hand_out, warnings_so_far

_Command = TypeVar("_Command", bound=Callable[..., Any])

FLAG = "--json"


def json_option(command: _Command) -> _Command:
    """Add the flag `--json`; the command gets it as `as_json`."""
    return click.option(FLAG, "as_json", is_flag=True, help="Print the result or the error as JSON.")(command)


OUT_OF_MEMORY = (
    "there is not enough memory for this. Nothing was replaced, and what was saved is safe; end other programs, or add "
    "swap, then repeat this"
)


def wanted(arguments: list[str]) -> bool:
    """Whether JSON was asked for, even if the rest of the command line is wrong."""
    return FLAG in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def hand_out_result(document: dict[str, Any]) -> None:
    """Print what a command has done or found, with the warnings it gave."""
    hand_out(json.dumps({**document, "warnings": list(warnings_so_far())}))


def hand_out_error(error: BaseException, exit_code: int) -> None:
    """Print why the command ended without a result."""
    document = {"kind": _kind(error), "message": _message(error), "exit_code": exit_code, **_fields(error)}
    with suppress(OSError):  # the reader has gone
        hand_out(json.dumps({"error": document, "warnings": list(warnings_so_far())}))


def _kind(error: BaseException) -> str:
    if isinstance(error, BackupError):
        return error.kind
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "stopped"
    if isinstance(error, click.ClickException):
        return "usage"
    return "system" if isinstance(error, OSError | MemoryError) else "unexpected"


def _message(error: BaseException) -> str:
    if isinstance(error, BackupError):
        return str(error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "stopped"
    if isinstance(error, click.ClickException):
        return one_line(error.format_message())
    if isinstance(error, OSError):
        return one_line(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else unexpected(error)


def _fields(error: BaseException) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(error, BackupError) and error.listed:
        fields["listed"] = [one_line(line) for line in error.listed]
    if isinstance(error, Unrestorable):
        fields["finding"] = one_line(error.finding)
    if isinstance(error, Damaged):
        fields.update(file=error.file, offset=error.offset, last_good=error.last_good)
    if isinstance(error, MembersMissing):
        fields["without"] = list(error.names)
    if isinstance(error, InUse) and error.holder is not None:
        fields["holder"] = str(error.holder)
    return fields
