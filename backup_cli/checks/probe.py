"""Does the plugin start? Asked as lightningd does, in an empty directory, so that no node is touched."""

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
    """What a plugin says of itself, and how many seconds that took."""

    hooks: list[str]
    methods: list[str]
    disabled: str | None
    seconds: float


def ask_for_manifest(plugin: Path, patience: float = PATIENCE) -> Manifest:
    """Start the plugin, ask for its manifest, wait `patience` seconds for it, and end the plugin again.

    BackupError says why it did not answer.
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
                start_new_session=True,  # no terminal of ours: what is typed into that, its shell would run
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
                raise BackupError(f"{plugin} starts and does not answer ({_last_words(said.read())})")
            return _manifest(plugin, answer, seconds)
        finally:
            _end(process)


def _last_words(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().split("\n")
    # Python that does not even begin goes on about itself after that.
    telling = next((line for line in lines if line.startswith("Fatal Python error")), lines[-1])
    home = os.environ.get("PYTHONHOME")
    because = f"; PYTHONHOME={printable(home)} in the environment may be why: unset it" if home else ""
    return printable(telling or "without a word") + because


def _ask(process: "subprocess.Popen[bytes]", until: float) -> dict[str, Any] | None:
    """The answer to getmanifest; None when the plugin ends, talks nonsense, or takes too long."""
    assert process.stdin is not None and process.stdout is not None
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        question = json.dumps({**_QUESTION, "params": {"allow-deprecated-apis": False}})
        with suppress(BrokenPipeError):  # it has ended already; perhaps it has said something
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
        raise BackupError(f"{plugin} answers with something that is no manifest") from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.close()
        process.wait(5)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    process.stdout.close()
