"""What each kind of destination costs by itself: one durable request a call, with nothing of ours around it."""

import os
import secrets
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import obstore
import psycopg
from obstore.store import S3Store

from contrib.bench.contestants import BareWriter

SIZE = 512
"""Bytes of a request: about what a change of a busy channel takes as it is stored."""


class Bare(Protocol):
    """A loop of bare requests; `latencies` are the seconds of each so far."""

    latencies: list[float]

    def write(self) -> None: ...
    def close(self) -> None: ...


def bare_file(directory: Path, count: int) -> BareWriter:
    """One pwrite and one fdatasync into preallocated zeros."""
    return BareWriter(directory, count)


class BareSftp:
    """WRITE, fsync and FSTAT sent together to an SSH server, and their three answers: one round trip."""

    _INIT, _OPEN, _WRITE, _FSTAT, _EXTENDED = 1, 3, 6, 8, 200

    def __init__(self, ssh: Sequence[str], path: str) -> None:
        self.latencies: list[float] = []
        self._process = subprocess.Popen([*ssh, "sftp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._out, self._in = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._send(struct.pack(">IBI", 5, self._INIT, 3))
        self._answer()
        # Read, write, create, truncate; no attributes.
        self._send(self._packet(self._OPEN, _string(path.encode()) + struct.pack(">II", 0x1B, 0)))
        answer = self._answer()
        self._handle = answer[9 : 9 + int.from_bytes(answer[5:9], "big")]

    def write(self) -> None:
        """Write the next bytes and sync."""
        offset = SIZE * len(self.latencies)
        handle = _string(self._handle)
        began = time.perf_counter()
        self._send(
            self._packet(self._WRITE, handle + struct.pack(">Q", offset) + _string(secrets.token_bytes(SIZE)))
            + self._packet(self._EXTENDED, _string(b"fsync@openssh.com") + handle)
            + self._packet(self._FSTAT, handle)
        )
        for _ in range(3):
            self._answer()
        self.latencies.append(time.perf_counter() - began)

    def close(self) -> None:
        """End the connection."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _packet(self, kind: int, rest: bytes) -> bytes:
        return struct.pack(">IBI", 5 + len(rest), kind, 1) + rest

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def _answer(self) -> bytes:
        length = int.from_bytes(self._read(4), "big")
        return self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = os.read(self._in, length - len(data))
            if not more:
                raise RuntimeError("the SSH server has ended the connection")
            data += more
        return data


class BareBucket:
    """One conditional PUT through obstore."""

    def __init__(self, bucket: str, endpoint: str, key_id: str, secret: str) -> None:
        self.latencies: list[float] = []
        self._store = S3Store(
            bucket,
            endpoint=endpoint,
            region="us-east-1",
            access_key_id=key_id,
            secret_access_key=secret,
            client_options={"allow_http": True},
        )
        self._prefix = f"bare-{secrets.token_hex(4)}"

    def write(self) -> None:
        """Make the next object."""
        began = time.perf_counter()
        key = f"{self._prefix}/{len(self.latencies):012}"
        obstore.put(self._store, key, secrets.token_bytes(SIZE), mode="create", use_multipart=False)
        self.latencies.append(time.perf_counter() - began)

    def close(self) -> None:
        """Nothing is open."""


class BareTable:
    """One prepared INSERT and COMMIT through psycopg."""

    def __init__(self, conninfo: str, schema: str) -> None:
        self.latencies: list[float] = []
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self._table = f"{schema}.bare_{secrets.token_hex(4)}"
        self._connection.execute(f"CREATE TABLE {self._table} (key text PRIMARY KEY, data bytea NOT NULL)".encode())
        self._insert = f"INSERT INTO {self._table} VALUES (%s, %s) ON CONFLICT DO NOTHING".encode()

    def write(self) -> None:
        """Insert the next row."""
        began = time.perf_counter()
        row = (f"{len(self.latencies):012}", secrets.token_bytes(SIZE))
        self._connection.execute(self._insert, row, prepare=True)
        self.latencies.append(time.perf_counter() - began)

    def close(self) -> None:
        """Drop the table and disconnect."""
        self._connection.execute(f"DROP TABLE {self._table}".encode())
        self._connection.close()


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
