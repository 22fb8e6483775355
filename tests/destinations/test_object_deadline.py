"""What only makes a message better is given up early at every object store, however long a commit may wait there."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from backends.errors import Fenced
from backends.log.writer.fence import fenced_by
from backends.storage import deadline
from backends.storage.deadline import for_a_message, not_after
from backends.storage.objects.storage import ObjectStorage
from backends.storage.objects.store import ObjectStore
from tests.destinations.buckets import Proxied, store_at
from tests.destinations.fault_proxy import Treatment
from tests.destinations.pg_proxy import PgProxy
from tests.destinations.postgres_fixtures import LONG, cluster, proxy, store_of, through

__all__ = ["cluster", "proxy", "store_of", "through"]

SOON = 2.6
"""Seconds for a message in these tests: S3 takes no attempt that could not last two."""

KEYS = [f"data/{number}" for number in range(9)]


def requests_of(store: ObjectStore, version: str) -> Mapping[str, Callable[[], object]]:
    """One request of each kind; `version` is that of the first of KEYS."""
    return {
        "create": lambda: store.create("new", b"new"),
        "replace": lambda: store.replace(KEYS[0], b"new", version),
        "get": lambda: store.get(KEYS[0]),
        "read": lambda: store.read(KEYS[0], 0, 2),
        "read many": lambda: list(store.read_many(KEYS)),
        "prefixes": lambda: store.prefixes(""),
        "list": lambda: list(store.list("data/")),
        "delete": lambda: store.delete([KEYS[0]]),
        "whole file": partial(_whole_file, store),
    }


def _whole_file(store: ObjectStore) -> None:
    ObjectStorage(store).read_small("manifest")


def seconds_until_given_up(request: Callable[[], object]) -> float:
    began = time.monotonic()
    with pytest.raises(TimeoutError), for_a_message():
        request()
    return time.monotonic() - began


def check_that_messages_are_not_waited_for(store: ObjectStore, version: str, hang: Callable[[], None]) -> None:
    """The store hangs, and all requests are made at once, so that this takes SOON."""
    requests = requests_of(store, version)
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        list(pool.map(lambda _: store.get(KEYS[1]), range(2)))  # both connections that a store keeps are made
        hang()
        began = time.monotonic()
        seconds = {name: pool.submit(seconds_until_given_up, request) for name, request in requests.items()}
        fenced = fenced_by(ObjectStorage(store))
        took = time.monotonic() - began
    assert isinstance(fenced, Fenced)
    assert "another process has taken over the backup" in str(fenced)
    assert took < SOON + 1
    late = {name: after.result() for name, after in seconds.items() if after.result() > SOON + 1}
    assert not late


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "FOR_A_MESSAGE", SOON)


def test_bucket_that_hangs_is_not_waited_for_by_a_message(bucket: Proxied) -> None:
    version, *_ = (bucket.behind.create(key, b"data") for key in KEYS)
    store = store_at(bucket.at(bucket.proxy.endpoint, f"&timeout={LONG}"))
    check_that_messages_are_not_waited_for(store, version, lambda: bucket.always(Treatment(times=0, hang=2 * SOON)))


def test_bucket_is_not_asked_without_time_for_an_answer(bucket: Proxied) -> None:
    bucket.store.create("it", b"data")
    bucket.asked()
    with pytest.raises(TimeoutError, match="there was no time left to ask the store"), not_after(time.monotonic() + 1):
        bucket.store.get("it")
    assert not bucket.asked()
    assert bucket.store.get("it").data == b"data"


def test_postgresql_that_hangs_is_not_waited_for_by_a_message(proxy: PgProxy, through: ObjectStore) -> None:
    version, *_ = (through.create(key, b"data") for key in KEYS)

    def hang() -> None:
        proxy.delay = 2 * SOON

    check_that_messages_are_not_waited_for(through, version, hang)


def test_connection_to_postgresql_is_kept_when_there_is_no_time_for_an_answer(
    proxy: PgProxy, through: ObjectStore
) -> None:
    """It would be closed while its answer is on the way."""
    made = proxy.connections
    with pytest.raises(TimeoutError, match="there was no time left to ask the server"), not_after(time.monotonic()):
        through.get("backup")
    assert through.get("backup").data == b"made"
    assert proxy.connections == made
