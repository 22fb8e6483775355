"""A bucket as what a backup needs of an object store: nothing is overwritten blindly, doubt is settled."""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count, repeat
from typing import TypeVar

from backends.storage.deadline import carried, limited
from backends.storage.objects.store import Changed, Content, Exists, Listed, ObjectStore
from backends.storage.s3.bucket import Bucket
from backends.storage.s3.client import SHORTEST, Client, Clients
from backends.storage.s3.faults import PASSING, STALE_CREDENTIALS, Answer, Fault, Kind, error_of

_Result = TypeVar("_Result")

FIRST_CONTACT = 10.0
"""Seconds to try a store that has never answered: the URL is probably wrong, or the network is not there."""

_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts; the last is repeated. The first is none: a server may close a connection at any moment."""

PARALLEL = 32
"""Requests at a time while many small objects are read."""

_FEW = 4
"""So many objects are read one after the other: threads would cost a node more memory than they save it time."""

_AHEAD = 2 * PARALLEL
"""Objects that are fetched before they are wanted, at most."""

_BATCH = 1000
"""Keys in one request to delete."""


class S3Store(ObjectStore):
    """One backup's objects in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._clients = bucket, Clients(bucket)
        self._answered = self._closed = False
        self._quoted = True
        """Whether this store wants an ETag in quotes, as HTTP has it. Ceph's gateway does not."""
        self._count = threading.Lock()

    def describe(self) -> str:
        return self._bucket.describe()

    def about(self) -> list[str]:
        bucket, credentials = self._clients.reach
        where = (
            bucket.endpoint
            or {"s3": "Amazon S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}[bucket.scheme]
        )
        region = f", region {bucket.region}" if bucket.region else ""
        style = f", the bucket's name in the {bucket.style}" if bucket.style else ""
        return [f"bucket {bucket.name} at {where}{region}{style}", f"used by {credentials.describe()}"]

    @property
    def reached_by(self) -> Bucket:
        """The bucket with the endpoint, the region and the style that are used. Raises BackupError."""
        return self._clients.reach[0]

    def would_end(self) -> float:
        return time.monotonic() + self._bucket.timeout

    def create(self, key: str, data: bytes) -> str:
        began = time.monotonic()
        try:
            return self._do(lambda client: client.create(key, data), len(data), began)
        except _Condition:
            # Also without a lost answer: something between here and the store may have sent the request twice.
            ours = self._found(key, began) if data else None
            if ours is not None and ours.data == data:
                return ours.version
            raise Exists(key) from None

    def replace(self, key: str, data: bytes, version: str) -> str:
        began = time.monotonic()
        for quoted in (self._quoted, not self._quoted):
            try:
                done = self._replace(key, data, version, began, quoted=quoted)
            except _Condition:
                found = self._found(key, began)
                if found is not None and found.data == data:
                    return found.version
                if found is None or not _same(found.version, version):
                    raise Changed(key) from None
            except FileNotFoundError:
                raise Changed(key) from None
            else:
                self._quoted = quoted
                return done
        raise OSError(errno.EIO, "the store refuses to replace an object by the version that it names itself")

    def _replace(self, key: str, data: bytes, version: str, began: float, *, quoted: bool) -> str:
        return self._do(lambda client: client.replace(key, data, version, quoted=quoted), len(data), began)

    def get(self, key: str) -> Content:
        return self._do(lambda client: client.get(key))

    def read(self, key: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        try:
            return self._do(lambda client: client.read(key, offset, length), length)
        except _PastTheEnd:
            return b""

    def read_many(self, keys: Sequence[str]) -> Generator[bytes, None, None]:
        if len(keys) <= _FEW:
            yield from (self.get(key).data for key in keys)
            return
        pool = ThreadPoolExecutor(min(PARALLEL, len(keys)), "s3-read")
        waiting: deque[Future[Content]] = deque()
        try:
            for key in keys:
                waiting.append(pool.submit(carried(self.get), key))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result().data
            while waiting:
                yield waiting.popleft().result().data
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def prefixes(self, prefix: str) -> list[str]:
        found = self._do(lambda client: client.prefixes(prefix.rstrip("/")))
        return sorted(each.rstrip("/").removeprefix(prefix) for each in found)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        # What comes before all keys with this prefix is not asked for: other files of this directory may be many.
        pages = _Pages(prefix.rpartition("/")[0], max(after, prefix[:-1]))
        while page := self._do(pages.next):
            for each in page:
                if each.key <= pages.last:
                    if each.key > after and each.key.startswith(prefix):
                        raise OSError(errno.EIO, f"the store does not list in order: {each.key} is after {pages.last}")
                    continue  # the store has ignored from where on it was asked
                pages.last = each.key
                if each.key.startswith(prefix):
                    yield each
                elif each.key > prefix:
                    return

    def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _BATCH):
            batch = keys[first : first + _BATCH]
            try:
                self._delete(batch)
            except FileNotFoundError:  # Google and Azure: one of many was not there
                for key in batch:
                    self._delete([key])

    def _delete(self, keys: Sequence[str]) -> None:
        self._do(lambda client: client.delete(keys))

    def close(self) -> None:
        self._closed = True
        self._clients.close()

    def _found(self, key: str, began: float) -> Content | None:
        """The object, to settle what came of a request. Whoever waits for that has waited since `began`."""
        try:
            return self._do(lambda client: client.get(key), began=began)
        except FileNotFoundError:
            return None

    def _do(self, request: Callable[[Client], _Result], size: int = 0, began: float | None = None) -> _Result:
        """Make a request, again and again if that may help, until the commit timeout is over. Raises OSError.

        `began` is when the call that needs it began, if this is not its first request: all of them share the time. A
        thread that has less time (`deadline.not_after`) gives up earlier.
        """
        if self._closed:
            raise OSError(errno.EBADF, "this store was closed")
        asked_before = began is not None
        began = time.monotonic() if began is None else began
        if time.monotonic() + SHORTEST > self._until(began):
            late = "the store answered so late that no time was left to find out the rest"
            raise TimeoutError(errno.ETIMEDOUT, late if asked_before else "there was no time left to ask the store")
        renewed = False
        for nth, pause in zip(count(), chain(_PAUSES, repeat(_PAUSES[-1]))):
            client = self._clients.attempt(nth, size, self._until(began) - time.monotonic())
            try:
                result = request(client)
            except Fault as fault:
                self._answered = self._answered or bool(fault.answer.status)
                if fault.answer.code in STALE_CREDENTIALS and not renewed and self._clients.renew():
                    renewed = True
                    continue
                now = time.monotonic()
                if fault.kind not in PASSING or now + pause + SHORTEST > self._until(began):
                    raise self._error(fault.answer, now - began) from fault
            else:
                self._answered = True
                return result
            time.sleep(pause)
        raise AssertionError

    def _until(self, began: float) -> float:
        """When a call of this thread that began then is given up (time.monotonic)."""
        allowed = self._bucket.timeout if self._answered else min(FIRST_CONTACT, self._bucket.timeout)
        return limited(began + allowed)

    def _error(self, answer: Answer, tried: float) -> OSError:
        if answer.kind is Kind.CONDITION:
            return _Condition(errno.EEXIST, answer.detail)
        if answer.status == 416:
            return _PastTheEnd(errno.EINVAL, answer.detail)
        bucket, credentials = self._clients.reach
        return error_of(answer, bucket, credentials.describe(), tried)


class _Pages:
    """The pages of a listing. One that fails is asked for again, from the last key on."""

    def __init__(self, directory: str, after: str) -> None:
        self._directory, self.last = directory, after
        self._stream: Iterator[Sequence[Listed]] | None = None
        self._limit = 0.0
        """Seconds that the stream's client waits for a page."""

    def next(self, client: Client) -> Sequence[Listed]:
        """The next page; empty at the end."""
        if self._stream is None or time.monotonic() + self._limit > limited(float("inf")):
            self._stream, self._limit = client.pages(self._directory, self.last), client.limit
        try:
            return next(self._stream, ())
        except Fault:
            self._stream = None
            raise


class _Condition(OSError):
    """A condition of a request was not met."""


class _PastTheEnd(OSError):
    """There is nothing at this offset."""


def _same(one: str, other: str) -> bool:
    """Whether two versions are of the same content: by the ETag where there is one, else by the number."""
    tags = [each.partition("\n")[0].strip('"') for each in (one, other)]
    return tags[0] == tags[1] and (bool(tags[0]) or one == other)
