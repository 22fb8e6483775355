"""What happens to a message that cannot be understood as a call, and to a change that cannot be saved.

lightningd sends neither; a faulty disk, a wrapper around the plugin or a later release may. None of it is ever
acknowledged. A call that can be identified is refused, which makes lightningd stop before it commits. If not even that
is possible, the plugin ends, and says so in one line.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends import __version__
from backends.change import VERSIONS
from backends.text import printable
from plugin.answers import refuse
from plugin.input import Input
from plugin.pyln_client import Plugin, Request

_ID = re.compile(rb'[{,]\s*"id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){1,200}"|[0-9]{1,18})')
_METHOD = re.compile(rb'[{,]\s*"method"\s*:\s*"([a-z_-]{1,64})"')


@dataclass(frozen=True, slots=True)
class Misread:
    """A message that pyln-client could not understand as a call, as far as it can be read."""

    ident: str | int | None
    """The id that an answer must carry; None when it cannot be told."""
    method: str
    """Empty when it cannot be told."""
    why: str
    """What is wrong with the message, to continue a sentence after "a message"."""
    code: int
    """JSON-RPC's error code for that."""


def misread(message: bytes, methods: frozenset[str]) -> Misread:
    """What can be told about this message. `methods` are those that this plugin answers."""
    try:
        text, why = message.decode(), ""
    except UnicodeDecodeError:
        text, why = message.decode(errors="replace"), "that is not UTF-8"
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        ident, method = _ID.search(message), _METHOD.search(message)
        return Misread(
            None if ident is None else _loaded(ident[1]),
            "" if method is None else method[1].decode(),
            why or "that is not JSON",
            -32700,
        )
    if not isinstance(document, dict):
        return Misread(None, "", "that is not a JSON object", -32600)
    ident, method = document.get("id"), document.get("method")
    named = method if isinstance(method, str) else ""
    if not why:
        unknown = f"for {printable(named, 40)}, which this plugin does not have"
        why = unknown if named and named not in methods else "without its parts (method, params)"
        if type(ident) not in (str, int):
            why = "without an id" if ident is None else "with an id that is not valid"
    return Misread(ident if type(ident) in (str, int) else None, named, why, -32601 if named else -32600)


def _loaded(ident: bytes) -> str | int | None:
    try:
        loaded: str | int = json.loads(ident)
    except ValueError:
        return None
    return loaded


def deal_with(
    message: bytes, error: Exception, plugin: Plugin, calls: Input, refuse_all: Callable[[str], dict[str, str]]
) -> bool:
    """Answer or ignore a message that pyln-client could not handle.

    `refuse_all` refuses every change from now on, and returns the answer. Returns False when the plugin must end,
    because a call may be waiting for an answer that cannot be given; a line in the node's log has said so.
    """
    found = misread(message, frozenset(plugin.methods))
    if found.ident is not None:
        request = Request(plugin, found.ident, found.method, {}, background=True)
        what = f"a message {found.why}"
        if found.method == "db_write":
            request.set_result(refuse_all(not_saved(what)))
        else:
            refuse(request, found.code, f"lightningd-backup cannot answer {what}; nothing was done")
        return True
    if found.method == "shutdown":
        calls.leave_when_quiet()
        return True
    if found.method and found.method not in plugin.methods and b"db_write" not in message:
        plugin.log(f"a notification that this plugin did not ask for: {printable(found.method, 40)}", "unusual")
        return True
    kind = type(error).__name__
    refuse_all(not_saved(f"a message {found.why}, which could not be answered ({kind}); the plugin ends"))
    return False


def why_unsavable(data_version: object, writes: object) -> str | None:
    """Why a call carries nothing that could be saved on any disk; None when it can be. On the commit path."""
    if type(data_version) is int and 0 <= data_version < VERSIONS and type(writes) is list:
        try:
            text = "".join(writes)
            if "\0" not in text and (text.isascii() or text.encode()):
                return None
        except (TypeError, UnicodeEncodeError):
            pass
    return not_saved(f"a change that this plugin cannot save: {_what(data_version, writes)}")


def not_saved(what: str) -> str:
    """The refusal of `what` lightningd sent: nothing that the node's owner could fix."""
    node = printable(os.environ.get("LIGHTNINGD_VERSION") or "its version is unknown", 40)
    return (
        f"lightningd sent {what}. No disk is at fault. It was not acknowledged, so nothing was committed, and the "
        "backup is as it was. Start the node again; if it happens again, keep everything as it is and report this "
        f"with the versions: lightningd {node}, lightningd-backup {__version__}"
    )


def _what(data_version: object, writes: object) -> str:
    if type(data_version) is not int or not 0 <= data_version < VERSIONS:
        return f"its data_version is {_shown(data_version)}, not a whole number from 0 to {VERSIONS - 1}"
    if not isinstance(writes, list):
        return f"its writes are {_shown(writes)}, not a list of statements"
    for number, statement in enumerate(writes, 1):
        where = f"statement {number} of {len(writes)}"
        if not isinstance(statement, str):
            return f"{where} is {_shown(statement)}, not text"
        if "\0" in statement:
            return f"{where} contains a NUL, which SQLite cannot execute"
        try:
            statement.encode()
        except UnicodeEncodeError:
            return f"{where} contains half a character (a lone surrogate), which is not Unicode text"
    return "its statements cannot be read"  # not reached


def _shown(value: object) -> str:
    """The kind of a value, and numbers by their value: a text may be a secret."""
    if value is None:
        return "missing"
    if isinstance(value, bool | int | float):
        return printable(json.dumps(value), 40)
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
