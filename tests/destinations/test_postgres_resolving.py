"""Names of servers: a name server that does not answer, and names with several addresses."""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.storage.postgres import cluster as cluster_module
from backends.storage.postgres import resolving
from backends.storage.postgres.address import address_of
from backends.storage.postgres.errors import NotNow
from backends.storage.postgres.resolving import addresses_of
from backends.urls import parse_url
from tests.destinations.postgres import DATABASE, ROLE, PostgresCluster
from tests.destinations.postgres_fixtures import StoreMaker, cluster, store_of

__all__ = ["cluster", "store_of"]

SILENT = "silent.example"
SEVERAL = "several.example"


class NameServer:
    """Answers for the system: never for SILENT until `answer` is set, and two addresses for SEVERAL."""

    def __init__(self, real: Callable[..., list[Any]]) -> None:
        self._real = real
        self.answer = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: bytes | str, port: object, *rest: Any, **named: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (SILENT, SEVERAL) or named.get("flags", 0) & socket.AI_NUMERICHOST:
            return self._real(host, port, *rest, **named)
        self.asked.append(name)
        if name == SILENT:
            self.answer.wait(60)
        addresses = ("127.0.0.1",) if name == SILENT else ("127.0.0.77", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    monkeypatch.setattr(resolving, "_lookups", {})
    yield server
    server.answer.set()


def test_silent_name_server_holds_nobody_beyond_the_deadline_and_only_one_thread(names: NameServer) -> None:
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(NotNow, match=r"has not resolved the name silent\.example in time"):
            addresses_of(SILENT, time.monotonic() + 0.1)
    assert time.monotonic() - began < 5
    assert names.asked == [SILENT]
    names.answer.set()
    assert addresses_of(SILENT, time.monotonic() + 10) == ("127.0.0.1",)
    assert names.asked == [SILENT], "the answer that came late was thrown away"
    assert addresses_of(SILENT, time.monotonic() + 10) == ("127.0.0.1",)
    assert names.asked == [SILENT, SILENT], "an answer must not be used for ever"


def test_address_is_not_looked_up_and_unknown_name_is_said(names: NameServer) -> None:
    assert addresses_of("127.0.0.1", 0.0) == ("127.0.0.1",)
    assert addresses_of("::1", 0.0) == ("::1",)
    with pytest.raises(NotNow, match=r"the name nothing\.invalid cannot be resolved"):
        addresses_of("nothing.invalid", time.monotonic() + 30)


def test_libpq_gets_addresses_beside_the_name_that_a_certificate_must_have() -> None:
    address = address_of(parse_url("postgres://me@db1.local:5433/lightning?sslmode=verify-full"))
    said = address.connection_string(address.hosts[0], ("10.0.0.1", "fd00::1")).decode()
    assert "host='db1.local,db1.local'" in said
    assert "hostaddr='10.0.0.1,fd00::1'" in said
    assert "port='5433'" in said


def test_server_whose_name_has_a_dead_address_first_is_reached(
    names: NameServer, cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    store = store_of(url=url(f"{SEVERAL}:{cluster.primary.port}"))
    store.create("backup", b"made")
    assert store.get("backup").data == b"made"
    assert SEVERAL in names.asked


def test_other_server_is_used_while_the_first_ones_name_is_not_resolved(
    names: NameServer, cluster: PostgresCluster, store_of: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_TO_RESOLVE", 0.3)
    store = store_of(url=url(f"{SILENT}:{cluster.primary.port},127.0.0.1:{cluster.primary.port}"))
    began = time.monotonic()
    store.create("backup", b"made")
    assert time.monotonic() - began < 10
    assert names.asked == [SILENT]


def test_start_with_a_silent_name_server_is_refused_within_the_timeout(names: NameServer, store_of: StoreMaker) -> None:
    store, began = store_of(url=url(SILENT)), time.monotonic()
    with pytest.raises(OSError, match=r"silent\.example in time: does its name server answer"):
        store.get("backup")
    assert time.monotonic() - began < 10


def url(servers: str) -> str:
    return f"postgres://{ROLE}@{servers}/{DATABASE}/node-{secrets.token_hex(4)}?timeout=10"
