"""A small lightningd for the drill: plays recorded calls to the real plugin process, with a database of its own.

Like lightningd, it runs each call's statements in a transaction, calls the hook, and commits only on `continue`.
"""

import gzip
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import apsw

from backends.change import Change, foreign_keys_setting
from backends.errors import BackupError

PATIENCE = 180.0
"""Seconds to wait for an answer of the plugin."""


class Player:
    """A simulated node in `directory`, and the plugin process that protects it."""

    def __init__(self, directory: Path, plugin: list[str]) -> None:
        self.database = directory / "lightningd.sqlite3"
        self._buffer = b""
        self._next_id = 0
        self._process = subprocess.Popen(
            plugin,
            cwd=directory,
            env={**os.environ, "LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": "v26.06.6"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches only us; we then stop the plugin, which also ends when we die
        )
        try:
            self._request("getmanifest", {"allow-deprecated-apis": False})
            self._connection = apsw.Connection(str(self.database))
            self._connection.execute("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON")
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The plugin's process id."""
        return self._process.pid

    def has(self, call: dict[str, Any]) -> bool:
        """Whether the database holds this call's change already, because the plugin rolled it forward at its start."""
        if not Change(call["data_version"], call["writes"]).advances:
            return False
        rows = self._connection.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchall()
        return [(call["data_version"],)] == rows

    def play(self, call: dict[str, Any]) -> float:
        """Play one call from transaction to commit. Returns the seconds that the hook took; raises BackupError if the
        plugin refuses the change or does not answer."""
        self._execute(call)
        began = time.perf_counter()
        answer = self._request("db_write", call)
        took = time.perf_counter() - began
        result = answer.get("result", answer.get("error"))
        if result != {"result": "continue"}:
            sentence = result.get("message", result) if isinstance(result, dict) else result
            raise BackupError(f"the plugin refused a change, as it should when it cannot save it: {sentence}")
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        return took

    def play_and_die(self, call: dict[str, Any]) -> None:
        """Send a call and at once kill plugin and node (-9), so that nothing of the call is committed."""
        self._execute(call)
        self._send("db_write", call)
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def stop(self) -> None:
        """Stop the plugin cleanly, as lightningd does."""
        self._connection.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill the plugin if it still runs."""
        self._process.kill()
        self._process.wait()

    def _execute(self, call: dict[str, Any]) -> None:
        statements = call["writes"]
        if foreign_keys_setting(statements) is None:
            self._connection.execute("BEGIN")
        for statement in statements:
            self._connection.execute(statement)

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        wanted = self._send(method, params)
        for message in self._messages():
            if message.get("id") == wanted:
                return message
        raise BackupError(f"the plugin ended without an answer (exit code {self._process.wait()})")

    def _send(self, method: str, params: dict[str, Any]) -> str:
        self._next_id += 1
        ident = f"cln:{method}#{self._next_id}"
        message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n\n")
        self._process.stdin.flush()
        return ident

    def _messages(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while True:
            while b"\n\n" in self._buffer:
                message, self._buffer = self._buffer.split(b"\n\n", 1)
                yield json.loads(message)
            if not select.select([descriptor], [], [], PATIENCE)[0]:
                raise BackupError(f"the plugin has not answered for {PATIENCE:.0f} seconds: the destination hangs")
            data = os.read(descriptor, 1 << 16)
            if not data:
                return
            self._buffer += data


def recorded_calls() -> list[dict[str, Any]]:
    """The calls of the shipped recording: a new node, a channel opened, 60 payments both ways, a mutual close."""
    with (
        as_file(files("backup_cli.drill") / "recordings" / "fresh-channel.jsonl.gz") as path,
        gzip.open(path, "rt", encoding="utf-8") as lines,
    ):
        return [json.loads(line) for line in lines]
