"""An object store in memory, and the accidents that happen between a client and a real one.

`ObjectWorld` is the bucket; `SimulatedObjects` is one process's connection to it. A `Fault` is decided for each
request: its answer may be lost, with or without the request being done, the same request may be done again at any
later time, and the process may be killed at any request.
"""

import errno
import random
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count

from backends.storage.objects.store import Changed, Content, Exists, Listed, ObjectStore

PAGE = 1000
PARALLEL = 32
_SETTLE = 5


class Killed(BaseException):
    """The process was killed at this request."""


class Fault(Enum):
    """What happens to a request."""

    NONE = auto()
    LOST_REQUEST = auto()
    """It is not done, and there is no answer."""
    LOST_ANSWER = auto()
    """It is done, and there is no answer."""
    LATE = auto()
    """There is no answer, and it is done much later."""
    TWICE = auto()
    """It is done and answered, and done again much later."""
    KILLED_BEFORE = auto()
    KILLED_AFTER = auto()


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    version: str
    modified: float


@dataclass
class ObjectWorld:
    """The bucket, seen alike by all processes. `late` are requests that are still on their way."""

    objects: dict[str, _Object] = field(default_factory=dict)
    late: list[Callable[[], object]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    now: float = 1_700_000_000.0
    versions: Iterator[int] = field(default_factory=lambda: count(1))

    def put(self, key: str, data: bytes, version: str | None) -> str:
        """What the server does with a conditional request; it knows nothing of who sends it."""
        with self.lock:
            there = self.objects.get(key)
            if version is None and there is not None:
                raise Exists(key)
            if version is not None and (there is None or there.version != version):
                raise Changed(key)
            new = _Object(bytes(data), f"{next(self.versions)}", self.now)
            self.objects[key] = new
            return new.version

    def deliver(self, rng: random.Random | None = None) -> None:
        """Do the requests that are on their way, or each with a probability of one half."""
        with self.lock:
            now, self.late = self.late, []
            for request in now:
                if rng is not None and rng.random() < 0.5:
                    self.late.append(request)
                    continue
                with suppress(OSError):
                    request()


class SimulatedObjects(ObjectStore):
    """One process's connection: `latency` seconds a request, `fault` decides what happens to each."""

    def __init__(
        self,
        world: ObjectWorld,
        prefix: str = "",
        *,
        latency: float = 0.0,
        fault: Callable[[str, str], Fault] = lambda kind, key: Fault.NONE,
    ) -> None:
        self.world, self.latency, self.fault = world, latency, fault
        self._prefix = prefix
        self.requests: Counter[str] = Counter()
        """How many requests there were of each kind."""
        self.log: list[tuple[str, str]] = []
        """Kind and key of every request."""
        self.most_at_once = 0
        self._at_once = 0
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(PARALLEL) if latency else None
        self._dead = False
        self.ends = float("inf")
        """When a call would be given up."""

    def describe(self) -> str:
        return "a simulated object store"

    def about(self) -> list[str]:
        return ["a dictionary"]

    def would_end(self) -> float:
        return self.ends

    @contextmanager
    def _request(self, kind: str, key: str) -> Iterator[None]:
        with self._counting:
            if self._dead:
                raise Killed
            self.requests[kind] += 1
            self.log.append((kind, key))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.latency:
                time.sleep(self.latency)
            yield
        finally:
            with self._counting:
                self._at_once -= 1

    def _kill(self) -> None:
        self._dead = True
        raise Killed

    def _change(self, kind: str, key: str, request: Callable[[], str]) -> str:
        """One attempt. Raises TimeoutError for an answer that was lost."""
        with self._request(kind, key):
            fault = self.fault(kind, key)
            if fault is Fault.KILLED_BEFORE:
                self._kill()
            if fault is Fault.LATE:
                self.world.late.append(request)
            if fault in (Fault.LATE, Fault.LOST_REQUEST):
                raise TimeoutError(errno.ETIMEDOUT, "no answer", key)
            try:
                return request()
            finally:
                if fault is Fault.TWICE:
                    self.world.late.append(request)
                if fault is Fault.KILLED_AFTER:
                    self._kill()
                if fault is Fault.LOST_ANSWER:
                    raise TimeoutError(errno.ETIMEDOUT, "no answer", key)

    def _settled(self, kind: str, key: str, data: bytes, request: Callable[[], str]) -> str:
        """As a real client: try again after a lost answer, and compare if the store then refuses."""
        key, doubt = self._prefix + key, False
        for _ in range(_SETTLE):
            try:
                return self._change(kind, key, request)
            except TimeoutError:
                doubt = True
            except (Exists, Changed):
                there = self.world.objects.get(key)
                if doubt and there is not None and there.data == data and data:
                    return there.version
                raise
        raise TimeoutError(errno.ETIMEDOUT, "no answer", key)

    def create(self, key: str, data: bytes) -> str:
        return self._settled("create", key, data, lambda: self.world.put(self._prefix + key, data, None))

    def replace(self, key: str, data: bytes, version: str) -> str:
        return self._settled("replace", key, data, lambda: self.world.put(self._prefix + key, data, version))

    def get(self, key: str) -> Content:
        there = self._get("get", key)
        return Content(there.data, there.version)

    def _get(self, kind: str, key: str) -> _Object:
        with self._request(kind, key):
            if self.fault(kind, key) in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
                self._kill()
            with self.world.lock:
                there = self.world.objects.get(self._prefix + key)
            if there is None:
                raise FileNotFoundError(errno.ENOENT, "no such object", key)
            return there

    def read(self, key: str, offset: int, length: int) -> bytes:
        return self._get("read", key).data[offset : offset + length]

    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        if self._pool is None:
            yield from (self._get("read", key).data for key in keys)
            return
        for start in range(0, len(keys), 4 * PARALLEL):
            reads = [self._pool.submit(self._get, "read", key) for key in keys[start : start + 4 * PARALLEL]]
            for read in reads:
                yield read.result().data

    def prefixes(self, prefix: str) -> list[str]:
        whole = self._prefix + prefix
        with self._request("list", prefix), self.world.lock:
            rest = [key.removeprefix(whole) for key in self.world.objects if key.startswith(whole)]
            return sorted({each.split("/")[0] for each in rest if "/" in each})

    def _page(self, prefix: str, after: str) -> list[Listed]:
        with self.world.lock:
            length = len(self._prefix)
            keys = sorted(key[length:] for key in self.world.objects if key.startswith(self._prefix + prefix))
            chosen = keys[bisect_right(keys, after) :][: PAGE + 1]
            objects = [self.world.objects[self._prefix + key] for key in chosen]
        return [Listed(key, len(each.data), each.modified) for key, each in zip(chosen, objects, strict=True)]

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        while True:
            with self._request("list", prefix):
                if self.fault("list", prefix) in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
                    self._kill()
                page = self._page(prefix, after)
            yield from page[:PAGE]
            if len(page) <= PAGE:
                return
            after = page[PAGE - 1].key

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), PAGE):
            page = [self._prefix + key for key in keys[start : start + PAGE]]

            def request(page: Sequence[str] = page) -> str:
                with self.world.lock:
                    for key in page:
                        self.world.objects.pop(key, None)
                return ""

            for attempt in range(_SETTLE):
                try:
                    self._change("delete", keys[start], request)
                    break
                except TimeoutError:
                    if attempt == _SETTLE - 1:
                        raise

    def close(self) -> None:
        self._dead = True
