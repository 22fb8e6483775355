"""Stores in buckets of the real S3 server, directly and through a proxy that does what networks and stores do."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backends.storage.s3.bucket import bucket_of
from backends.storage.s3.store import S3Store
from backends.urls import parse_url
from tests.destinations.fault_proxy import PASS, Asked, FaultProxy, Treatment
from tests.destinations.places import Places

SHORT = 5
"""The shortest timeout, in seconds, that a URL may ask for."""


def store_at(url: str) -> S3Store:
    """The store at this URL, as another process would see it."""
    return S3Store(bucket_of(parse_url(url)))


class Proxied:
    """A fresh prefix in a bucket, reached through a proxy, and directly."""

    def __init__(self, places: Places) -> None:
        self.server = places.radosgw
        self.proxy = FaultProxy(self.server.port)
        self._bucket, self._prefix = places.bucket, f"node-{secrets.token_hex(4)}/lightning.bkp"
        self.url = self.at(self.proxy.endpoint)
        self.store = store_at(self.url)
        self.behind = store_at(self.at(self.server.endpoint))
        """The same objects, without the proxy."""

    def at(self, endpoint: str, options: str = f"&timeout={SHORT}") -> str:
        """The URL through this endpoint."""
        return self.server.url(self._bucket, self._prefix, options, endpoint)

    def treat(self, method: str, *treatments: Treatment, part: str = "") -> None:
        """The next requests of this method, whose path contains `part`, are treated like this, one after another."""
        left = list(treatments)

        def next_one(asked: Asked) -> Treatment:
            return left.pop(0) if left and asked.method == method and part in asked.path else PASS

        self.proxy.treat = next_one

    def always(self, treatment: Treatment, method: str = "") -> None:
        """Every request, of this method if one is named, is treated like this."""
        self.proxy.treat = lambda asked: treatment if method in ("", asked.method) else PASS

    def asked(self) -> Sequence[Asked]:
        """What was asked for since the last call of this."""
        asked, self.proxy.seen.asked = self.proxy.seen.asked, []
        return asked


@contextmanager
def proxied(places: Places) -> Iterator[Proxied]:
    """A fresh prefix, reached through a proxy."""
    made = Proxied(places)
    try:
        yield made
    finally:
        made.proxy.close()
