"""The store over a bucket of a real S3 server, through a network that loses, repeats and delays."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.storage.objects.store import Changed, Exists
from backends.storage.s3 import store as module
from tests.destinations.buckets import SHORT, Proxied, store_at
from tests.destinations.conftest import WorldAt
from tests.destinations.fault_proxy import Treatment, status
from tests.destinations.places import Places
from tests.destinations.tools import free_ports
from tests.end_to_end.world import said_at
from tests.fake_lightningd import History

ONE, TWO = b"one" * 40, b"two" * 40

LOST = Treatment(silent=True)
TWICE = Treatment(times=2)
HALF = Treatment(cut_request=True)
CUT = Treatment(cut_after=60)


def answered(number: int, code: str, *, done: bool = False) -> Treatment:
    """The store seems to answer this; it did what was asked, or never heard of it."""
    return Treatment(times=int(done), answer=status(number, code))


BEFORE = {
    "500": answered(500, "InternalError"),
    "503": answered(503, "SlowDown"),
    "429": answered(429, "TooManyRequests"),
    "409": answered(409, "ConditionalRequestConflict"),
    "400 of a slow client": answered(400, "RequestTimeout"),
    "cut in the request": HALF,
}
"""What goes wrong before the store has done anything."""

AFTER = {
    "answer lost": LOST,
    "answer cut": CUT,
    "request repeated by a proxy": TWICE,
    "500 although done": answered(500, "InternalError", done=True),
    "502 although done": answered(502, "", done=True),
}
"""What goes wrong when the store has done it."""

faults = pytest.mark.parametrize("fault", [*BEFORE.values(), *AFTER.values()], ids=[*BEFORE, *AFTER])
lost = pytest.mark.parametrize("fault", AFTER.values(), ids=[*AFTER])


@faults
def test_object_is_created_once_whatever_happens_to_the_request(bucket: Proxied, fault: Treatment) -> None:
    bucket.treat("PUT", fault, fault)
    version = bucket.store.create("it", ONE)
    found = bucket.behind.get("it")
    assert (found.data, found.version) == (ONE, version)


@faults
def test_object_is_replaced_once_whatever_happens_to_the_request(bucket: Proxied, fault: Treatment) -> None:
    version = known_to_replace(bucket)
    bucket.treat("PUT", fault, fault)
    version = bucket.store.replace("it", TWO, version)
    found = bucket.behind.get("it")
    assert (found.data, found.version) == (TWO, version)
    bucket.store.replace("it", ONE, version)


def known_to_replace(bucket: Proxied) -> str:
    """Make the object, and replace it once: from then on it is known how this store wants an ETag. Its version."""
    return bucket.store.replace("it", ONE, bucket.store.create("it", b"zero"))


@lost
def test_lost_answer_hides_no_object_of_another_writer(bucket: Proxied, fault: Treatment) -> None:
    bucket.behind.create("it", TWO)
    bucket.treat("PUT", fault)
    with pytest.raises(Exists):
        bucket.store.create("it", ONE)
    assert bucket.behind.get("it").data == TWO


@lost
def test_lost_answer_hides_no_replacement_by_another_writer(bucket: Proxied, fault: Treatment) -> None:
    version = known_to_replace(bucket)
    bucket.behind.replace("it", TWO, version)
    bucket.treat("PUT", fault)
    with pytest.raises(Changed):
        bucket.store.replace("it", ONE * 2, version)
    assert bucket.behind.get("it").data == TWO


def test_empty_object_after_a_lost_answer_exists_no_matter_whose_it_is(bucket: Proxied) -> None:
    bucket.treat("PUT", LOST)
    with pytest.raises(Exists):
        bucket.store.create("fence", b"")


def test_request_that_arrives_after_the_caller_gave_up_replaces_nothing(bucket: Proxied) -> None:
    """The first request is held up somewhere; meanwhile the same writer succeeds, and another one goes on."""
    first = known_to_replace(bucket)
    bucket.treat("PUT", Treatment(late=1.0))
    second = bucket.store.replace("it", TWO, first)
    third = bucket.behind.replace("it", ONE * 3, second)
    bucket.treat("PUT", Treatment(late=1.0))
    bucket.store.create("new", ONE)
    bucket.behind.delete(["new"])
    bucket.behind.create("new", TWO)
    time.sleep(1.5)
    assert bucket.behind.get("it").version == third
    assert bucket.behind.get("new").data == TWO


@pytest.mark.parametrize("fault", [*BEFORE.values(), LOST, CUT], ids=[*BEFORE, "answer lost", "answer cut"])
def test_everything_else_is_asked_again(bucket: Proxied, fault: Treatment) -> None:
    for number in range(3):
        bucket.behind.create(f"data/x/{number}", ONE)
    bucket.treat("GET", fault, fault)
    assert bucket.store.get("data/x/1").data == ONE
    bucket.treat("GET", fault, fault)
    assert bucket.store.read("data/x/1", 5, 20) == ONE[5:25]
    bucket.treat("GET", fault, fault)
    assert [each.key for each in bucket.store.list("data/x/")] == [f"data/x/{number}" for number in range(3)]
    bucket.treat("GET", fault, fault)
    assert bucket.store.prefixes("data/") == ["x"]
    bucket.treat("POST", fault, fault)
    bucket.store.delete([f"data/x/{number}" for number in range(3)])
    assert list(bucket.behind.list("")) == []


def test_store_that_freezes_is_given_up_in_time(bucket: Proxied) -> None:
    version = known_to_replace(bucket)
    bucket.always(Treatment(hang=3 * SHORT))
    requests = (
        lambda: bucket.store.get("it"),
        lambda: bucket.store.create("new", TWO),
        lambda: bucket.store.replace("it", TWO, version),
        lambda: bucket.store.delete(["it"]),
        lambda: next(bucket.store.list("")),
    )
    with ThreadPoolExecutor() as pool:
        for seconds, error in pool.map(given_up, requests):
            assert SHORT - 3 < seconds < SHORT + 1
            assert "it did not answer in time, and nobody knows whether it did" in error


def given_up(request: Callable[[], object]) -> tuple[float, str]:
    """After how many seconds a request ended, and with which error."""
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        request()
    return time.monotonic() - began, str(caught.value)


def test_store_that_freezes_once_delays_a_commit(bucket: Proxied) -> None:
    bucket.store.create("it", ONE)
    bucket.treat("PUT", Treatment(hang=SHORT))
    bucket.store.create("other", ONE)
    assert bucket.behind.get("other").data == ONE


def test_store_that_always_fails_is_given_up_in_time(bucket: Proxied) -> None:
    bucket.store.create("it", ONE)
    bucket.always(answered(503, "SlowDown"))
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="it answered 503 SlowDown, and nobody knows"):
        bucket.store.create("other", ONE)
    assert time.monotonic() - began < SHORT
    assert len(bucket.asked()) > 4


def test_store_that_never_answered_is_given_up_soon(bucket: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_CONTACT", 2.5)
    (nobody,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="cannot be reached: the connection was refused"):
        store_at(bucket.at(f"http://127.0.0.1:{nobody}", "&timeout=60")).get("it")
    assert 0.3 < time.monotonic() - began < 3


def test_replaced_version_is_known_by_the_version_that_the_store_names(bucket: Proxied) -> None:
    """radosgw takes an ETag only without the quotes that HTTP has it in; that is found out once, by reading."""
    version = bucket.store.create("it", ONE)
    bucket.asked()
    version = bucket.store.replace("it", TWO, version)
    first = len(bucket.asked())
    bucket.store.replace("it", ONE, version)
    assert (first, len(bucket.asked())) == (3, 1)
    for stale in (version, '"0123"', "0123"):
        with pytest.raises(Changed):
            bucket.store.replace("it", TWO, stale)
    with pytest.raises(Changed):
        bucket.store.replace("none", TWO, version)


def test_listing_of_several_pages_is_fetched_as_it_is_read(bucket: Proxied) -> None:
    keys = [f"data/x/{number:06}" for number in range(1100)]
    made = [threading.Thread(target=_create_all, args=(bucket, keys[first::8])) for first in range(8)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()
    bucket.behind.create("data/y", ONE)
    listing = bucket.store.list("data/x/")
    next(listing)
    assert len(bucket.asked()) == 1
    assert [keys[0], *(each.key for each in listing)] == keys
    assert len(bucket.asked()) == 1
    assert [each.key for each in bucket.store.list("data/x/", keys[1050])] == keys[1051:]
    assert [each.key for each in bucket.store.list("data/x/00105")] == keys[1050:1060]
    assert len(bucket.asked()) == 2
    bucket.treat("GET", Treatment(), LOST, answered(500, "InternalError"))
    assert [each.key for each in bucket.store.list("data/")] == [*keys, "data/y"]
    bucket.store.delete([*keys, "data/never"])
    assert [each.key for each in bucket.behind.list("")] == ["data/y"]


def _create_all(bucket: Proxied, keys: list[str]) -> None:
    for key in keys:
        bucket.behind.create(key, b"x")


def test_many_small_objects_are_read_in_order_in_parallel_and_not_all_at_once(bucket: Proxied) -> None:
    keys = [f"data/x/{number:06}" for number in range(200)]
    for number, key in enumerate(keys):
        bucket.behind.create(key, b"%d" % number)
    bucket.always(Treatment(delay=0.02))
    began = time.monotonic()
    assert list(bucket.store.read_many(keys)) == [b"%d" % number for number in range(200)]
    assert time.monotonic() - began < 200 * 0.02
    assert 8 < bucket.proxy.seen.at_once <= module.PARALLEL
    bucket.asked()
    reading = bucket.store.read_many(keys)
    next(reading)
    time.sleep(0.3)
    assert len(bucket.asked()) <= 3 * module.PARALLEL, "memory is bounded: no more is fetched than will be read soon"
    reading.close()
    bucket.behind.delete(keys[150:151])
    with pytest.raises(FileNotFoundError):
        list(bucket.store.read_many(keys))


def test_few_small_objects_are_read_without_threads(bucket: Proxied) -> None:
    """As merging reads them for hours beside a node: what each thread leaves behind is memory that the node lacks."""
    keys = [f"data/x/{number:06}" for number in range(4)]
    for key in keys:
        bucket.behind.create(key, ONE)
    before = set(threading.enumerate())
    for _ in bucket.store.read_many(keys):
        new = [each.name for each in threading.enumerate() if each not in before]
        assert [name for name in new if "(_serve)" not in name] == [], "the proxy has one for each connection"


def test_part_beyond_the_end_of_an_object_is_short(bucket: Proxied) -> None:
    bucket.store.create("it", ONE)
    bucket.store.create("empty", b"")
    assert bucket.store.read("it", 100, 50) == ONE[100:]
    assert bucket.store.read("it", 120, 50) == b""
    assert bucket.store.read("it", 500, 50) == b""
    assert bucket.store.read("empty", 0, 5) == b""
    assert bucket.store.get("empty").data == b""


def test_closed_store_asks_for_nothing(bucket: Proxied) -> None:
    bucket.store.close()
    with pytest.raises(OSError, match="closed"):
        bucket.store.get("it")
    assert bucket.asked() == []


# The last test: for half a minute after it, Ceph waits for the killed gateway whenever a bucket is made.


def test_gateway_killed_and_restarted_under_a_stream_delays_the_commit(
    places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("s3")).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        places.radosgw.kill_gateway()
        starting = threading.Timer(1.0, places.radosgw.start_gateway)
        starting.start()
        assert node.db_write(history.note()) > 0.5
        starting.join()
        node.play(history.notes(3))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()
