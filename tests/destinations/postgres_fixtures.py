"""A PostgreSQL cluster whose servers a test may stop, kill and promote; healed for the next test."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest

from backends.storage.postgres.address import address_of
from backends.storage.postgres.store import PostgresStore
from backends.urls import parse_url
from tests.destinations.pg_proxy import PgProxy
from tests.destinations.places import Places
from tests.destinations.postgres import DATABASE, ROLE, PostgresCluster
from tests.destinations.tools import wait_until

SHORT = 2.5
"""A timeout, in seconds, for what is to end without an answer; less than a URL may ask for."""

LONG = 40
"""A timeout, in seconds, that no test reaches."""


class Attempt(threading.Thread):
    """A call in a thread of its own: it may wait for a standby for as long as the test wants."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    def outcome(self, seconds: float = LONG + 5) -> Any:
        """What the call returned; raises what it raised."""
        self.join(seconds)
        assert not self.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def cluster(places: Places) -> Iterator[PostgresCluster]:
    """Healed after the test."""
    cluster = places.postgres
    yield cluster
    cluster.heal()


StoreMaker = Callable[..., PostgresStore]


@pytest.fixture
def store_of(cluster: PostgresCluster) -> Iterator[StoreMaker]:
    """Makes stores for the backup of this test, each as another process would; with a commit timeout in seconds."""
    name, made = f"node-{secrets.token_hex(4)}", list[PostgresStore]()

    def make(timeout: float = LONG, options: str = "", url: str = "") -> PostgresStore:
        address = address_of(parse_url(url or cluster.url(name, options)))
        store = PostgresStore(replace(address, commit_timeout=timeout))
        made.append(store)
        return store

    yield make
    for store in made:
        with suppress(OSError):
            store.close()


@pytest.fixture
def store(store_of: StoreMaker) -> PostgresStore:
    """A store with a patient timeout, and its first object made."""
    store = store_of()
    store.create("backup", b"made")
    return store


def waiting(cluster: PostgresCluster) -> str:
    """The server's process that waits for the standby, once there is one."""
    wait_until(lambda: bool(cluster.primary.waiting()), "a commit that waits for its standby")
    return cluster.primary.waiting()


def believed(store: PostgresStore, key: str) -> bool:
    """Whether this store returns the object at all, before its timeout is over."""
    with closing(store):
        try:
            store.get(key)
        except TimeoutError:
            return False
    return True


@pytest.fixture
def proxy(cluster: PostgresCluster) -> Iterator[PgProxy]:
    """In front of the primary."""
    proxy = PgProxy(cluster.primary.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy: PgProxy, store_of: StoreMaker) -> PostgresStore:
    """A store that waits LONG for a commit, and reaches the primary through the proxy."""
    store = store_of(url=f"postgres://{ROLE}@127.0.0.1:{proxy.port}/{DATABASE}/node-{secrets.token_hex(4)}")
    store.create("backup", b"made")
    return store
