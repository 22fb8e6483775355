"""S3 gateways that accept conditions and do not keep them, in the ways in which real ones do not; and rclone's."""

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from tests.destinations.radosgw import KEYS
from tests.destinations.signed import signed
from tests.destinations.tools import free_ports, wait_until


class Sloppy(Enum):
    """What a gateway does wrong."""

    NOTHING = auto()
    IGNORES_IF_NONE_MATCH = auto()
    IGNORES_IF_MATCH = auto()
    LOOKS_THEN_WRITES = auto()
    """It looks whether the object exists, and writes a moment later: of two at once both are told "done"."""

    LOOKS_THEN_REPLACES = auto()
    REFUSES_AND_WRITES = auto()
    LISTS_LATE = auto()
    LISTS_THE_DELETED = auto()
    RETURNS_OLD = auto()
    """It keeps answering with the first version of an object, as a cache does."""


class Gateway:
    """Objects in memory, and no check of who asks.

    If it is `versioned`, it keeps what was deleted or replaced, and conditions are about the current version, as
    Amazon documents it.
    """

    def __init__(self, sloppy: Sloppy, *, versioned: bool = False) -> None:
        self.sloppy, self.versioned = sloppy, versioned
        self.past: list[tuple[str, bytes | None]] = []
        """Each version that there ever was; None is a delete marker."""
        self.objects: dict[str, bytes] = {}
        self.first: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gateway": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def met(self, key: str, headers: Any) -> bool:
        """Whether the conditions of a put are met."""
        there = self.objects.get(key)
        if headers["if-none-match"] is not None and self.sloppy is not Sloppy.IGNORES_IF_NONE_MATCH:
            return there is None
        if headers["if-match"] is not None and self.sloppy is not Sloppy.IGNORES_IF_MATCH:
            return there is not None and headers["if-match"] == etag(there)
        return True

    def put(self, key: str, data: bytes, headers: Any) -> bool:
        """Put an object; returns whether the conditions were met."""
        slow = Sloppy.LOOKS_THEN_WRITES if headers["if-match"] is None else Sloppy.LOOKS_THEN_REPLACES
        if self.sloppy is slow:
            met = self.met(key, headers)
            time.sleep(0.1)
            with self.lock:
                if met:
                    self.objects[key] = data
            return met
        with self.lock:
            met = self.met(key, headers)
            if met or self.sloppy is Sloppy.REFUSES_AND_WRITES:
                self.objects[key] = data
                self.past.append((key, data))
                self.first.setdefault(key, data)
            return met

    def delete(self, key: str) -> None:
        """Delete an object; in a versioned bucket, that only puts a marker on top of it."""
        with self.lock:
            self.objects.pop(key, None)
            self.deleted.add(key)
            self.past.append((key, None))

    def undelete(self) -> None:
        """Remove the delete markers: each object is then what it was last."""
        with self.lock:
            self.past = [(key, data) for key, data in self.past if data is not None]
            self.objects = {key: data for key, data in self.past if data is not None}

    def listed(self) -> list[str]:
        """The keys that a listing shows."""
        if self.sloppy is Sloppy.LISTS_LATE:
            return []
        return sorted({*self.objects, *(self.deleted if self.sloppy is Sloppy.LISTS_THE_DELETED else ())})


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gateway: Gateway

    def do_PUT(self) -> None:
        data = self._body()
        if self.gateway.put(self._key(), data, self.headers):
            self._answer(200, tag=etag(data))
        else:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
            return
        data = self.gateway.objects.get(self._key())
        if self.gateway.sloppy is Sloppy.RETURNS_OLD:
            data = self.gateway.first.get(self._key())
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, data, etag(self.gateway.objects.get(self._key(), data)))

    def do_POST(self) -> None:
        keys = [part.partition("</Key>")[0] for part in self._body().decode().split("<Key>")[1:]]
        for key in keys:
            self.gateway.delete(key)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, prefix: str) -> None:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<Size>{len(self.gateway.objects.get(key, b''))}</Size><ETag>x</ETag></Contents>"
            for key in self.gateway.listed()
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        self._answer(200, body.encode())

    def _key(self) -> str:
        return urlsplit(self.path).path.split("/", 2)[2]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"] or 0))

    def _answer(self, code: int, body: bytes = b"", tag: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if tag:
            self.send_header("ETag", tag)
        if tag and self.gateway.versioned:
            self.send_header("x-amz-version-id", f"v{len(self.gateway.past)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def gateway(sloppy: Sloppy, *, versioned: bool = False) -> Iterator[Gateway]:
    """A gateway that does this wrong."""
    made = Gateway(sloppy, versioned=versioned)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def rclone(directory: Path) -> Iterator[str]:
    """rclone's own S3 server, with the bucket `bucket`; its endpoint."""
    program = Path(sys.executable).with_name("rclone")
    (directory / "bucket").mkdir(parents=True)
    (port,) = free_ports(1)
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEYS.key_id},{KEYS.secret}", "--config", "/dev/null"]
    process = subprocess.Popen(
        [program, "serve", "s3", *options, "--no-checksum", directory], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, "rclone ended at once"
        with suppress(OSError):
            return signed(port, KEYS, "GET", "/", {}, b"", {}).status > 0
        return False

    try:
        wait_until(answers, "rclone serve s3")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
