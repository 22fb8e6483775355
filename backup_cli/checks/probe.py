"""Whether the plugin starts: it is asked for its manifest as lightningd asks, but in an empty directory, so no node is
touched."""

import json
import os
import selectors
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import BackupError
from backends.text import printable

PATIENCE = 60.0
"""Seconds that lightningd waits for a manifest."""

_QUESTION = {"jsonrpc": "2.0", "id": "cln:getmanifest#1", "method": "getmanifest"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a plugin's manifest says, and how many seconds it took to answer."""

    hooks: list[str]
    methods: list[str]
    disabled: str | None
    seconds: float


def ask_for_manifest(plugin: Path, patience: float = PATIENCE) -> Manifest:
    """Start the plugin, ask for its manifest, wait up to `patience` seconds for it, and stop the plugin again.

    Raises BackupError, which says why the plugin did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-check-") as directory, tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [str(plugin)],
                cwd=directory,
                env={**os.environ, "LIGHTNINGD_PLUGIN": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # not our terminal: the plugin could type commands into it for the shell
            )
        except OSError as error:
            raise BackupError(f"{plugin} cannot be started ({error.strerror})") from None
        try:
            began = time.monotonic()
            answer = _ask(process, began + patience)
            seconds = time.monotonic() - began
            if answer is None:
                process.kill()
                process.wait()
                said.seek(0)
                raise BackupError(f"{plugin} starts, but does not answer ({_last_words(said.read())})")
            return _manifest(plugin, answer, seconds)
        finally:
            _end(process)


def _last_words(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().split("\n")
    # When Python itself cannot start, many lines about its configuration follow the one that says why.
    telling = next((line for line in lines if line.startswith("Fatal Python error")), lines[-1])
    home = os.environ.get("PYTHONHOME")
    because = f"; PYTHONHOME={printable(home)} in the environment may be why: unset it" if home else ""
    return printable(telling or "it printed no message") + because


def _ask(process: "subprocess.Popen[bytes]", until: float) -> dict[str, Any] | None:
    """The answer to getmanifest; None when the plugin ends, answers with nonsense, or takes too long."""
    assert process.stdin is not None and process.stdout is not None
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        question = json.dumps({**_QUESTION, "params": {"allow-deprecated-apis": False}})
        with suppress(BrokenPipeError):  # the plugin has ended already, perhaps after it answered
            process.stdin.write(question.encode() + b"\n\n")
            process.stdin.flush()
        try:
            while selector.select(max(0.0, until - time.monotonic())):
                data = os.read(process.stdout.fileno(), 1 << 16)
                text += data
                *messages, text = text.split(b"\n\n")
                for message in messages:
                    answer = json.loads(message)
                    if isinstance(answer, dict) and answer.get("id") == _QUESTION["id"]:
                        return answer
                if not data:
                    return None
        except (OSError, ValueError):
            return None
    return None


def _manifest(plugin: Path, answer: dict[str, Any], seconds: float) -> Manifest:
    try:
        result = answer["result"]
        return Manifest(
            [hook if isinstance(hook, str) else hook["name"] for hook in result.get("hooks", [])],
            [method["name"] for method in result.get("rpcmethods", [])],
            result.get("disable"),
            seconds,
        )
    except (KeyError, TypeError, AttributeError):
        raise BackupError(f"{plugin} answers with something that is not a manifest") from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.close()
        process.wait(5)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    process.stdout.close()
