"""Servers that hang, die and come back under a running node: it waits, then continues or stops; it never freezes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.end_to_end.world import command, said_at, spawned
from tests.fake_lightningd import History, Node, Refused

pytestmark = pytest.mark.slow

SHORT = 5
"""The shortest timeout, in seconds, that a URL may ask for."""

Hang = tuple[Callable[[], None], Callable[[], None]]


@pytest.fixture(params=["nfs3", "nfs41", "sshfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def hanging(places: Places, kind: str, seconds: float) -> Iterator[None]:
    """Freeze the server, or the process that serves the mount, for `seconds` or until the end of the block."""
    server = places.sshfs if kind == "sshfs" else places.ganesha
    timer = threading.Timer(seconds, server.go_on)
    server.hang()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        server.go_on()


def with_timeout(url: str, seconds: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}timeout={seconds}"


def test_server_that_hangs_for_half_a_minute_delays_the_commit(
    places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("nfs41")).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        with hanging(places, "nfs41", 30):
            waited = node.db_write(history.note())
        assert 29 < waited < 40
        node.play(history.notes(3))
        lines = [line for line in said_at(node, "unusual") if "waiting for" in line]
        assert len(lines) == 3, node.logs
        assert "127.0.0.1" in lines[0]
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_server_that_hangs_beyond_commit_timeout_stops_the_node(
    kind: str, places: Places, world_at: WorldAt, history: History
) -> None:
    """Also when the writing thread is in a call that nothing can interrupt, as on a mounted share."""
    world = world_at(with_timeout(places.url(kind), SHORT)).init()
    with pytest.raises(Refused, match="not answered") as caught, world.node() as node:
        node.play([history.first(), *history.notes(3)])
        began, call = time.monotonic(), history.note()
        with hanging(places, kind, SHORT + 4):
            node.db_write(call)
    assert time.monotonic() - began < SHORT + 15
    assert "is safe" in str(caught.value)
    # The server may have done the write without answering; then the next start brings the database forward by itself.
    with world.node() as node:
        node.play([*([call] if world.version < call.data_version else []), *history.notes(3)])
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_server_that_hangs_before_first_commit_stops_the_node(
    kind: str, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(with_timeout(places.url(kind), SHORT)).init()
    first = history.first()
    with (
        pytest.raises(Refused, match=r"not answered|cannot be"),
        world.node() as node,
        hanging(places, kind, SHORT + 4),
    ):
        node.play([first])
    world.run([first])
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("version", ["nfs3", "nfs41"])
def test_nfs_server_killed_and_restarted_delays_the_commit(
    version: str, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url(version)).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        for _ in range(2):
            places.ganesha.kill()
            starting = threading.Timer(0.5, places.ganesha.start)
            starting.start()
            node.db_write(history.note())
            starting.join()
            node.play(history.notes(3))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_share_unmounted_under_running_node_stops_it(places: Places, world_at: WorldAt, history: History) -> None:
    """sshfs gives up at once; the node stops, and continues when the share is back."""
    world = world_at(places.url("sshfs")).init()
    try:
        with pytest.raises(Refused, match=str(places.sshfs.point)), world.node() as node:
            node.play([history.first(), *history.notes(3)])
            places.sshfs.unmount()
            play_until_refused(node, history)
    finally:
        places.sshfs.start()
    history.version -= 1  # the refused one was not committed
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


def test_sshfs_reconnect_stops_the_node_and_next_start_continues(
    places: Places, world_at: WorldAt, history: History
) -> None:
    """As docs/nfs.md says of `-o reconnect`: files opened before stay dead. The next start continues."""
    url = places.url("sshfs")
    places.sshfs.unmount()
    places.sshfs.start("reconnect")
    world = world_at(url).init()
    with pytest.raises(Refused, match="Input/output error"), world.node() as node:
        node.play([history.first(), *history.notes(3)])
        places.sshfs.drop_connection()
        play_until_refused(node, history)
    history.version -= 1  # the refused one was not committed
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("words", [("status",), ("verify",), ("init",), ("check-config",), ("resync",), ("drill",)])
def test_command_does_not_hang_with_its_destination(
    words: tuple[str, ...], places: Places, world_at: WorldAt, history: History
) -> None:
    """Whoever examines a broken share must not be left with a silent terminal that Ctrl-C does not end."""
    world = world_at(with_timeout(places.url("sshfs"), SHORT)).init()
    world.run([history.first()])
    (name,) = words
    url = {"init": [world.url.replace(".bkp", "-2.bkp")], "drill": [f"nfs://{places.sshfs.point}?timeout={SHORT}"]}
    own_directory = [] if name in ("status", "verify", "drill") else ["--lightning-dir", world.directory]
    arguments = [name, *own_directory, *url.get(name, [] if own_directory else [world.url])]
    began = time.monotonic()
    with hanging(places, "sshfs", 30):
        said = spawned(*command(*arguments))
    assert time.monotonic() - began < 20
    assert said.code == 1
    assert "waiting for nfs://" in said.err
    assert "has not answered for 5 seconds. What was saved there is safe" in said.text
    assert "Traceback" not in said.text


def test_hanging_mount_does_not_hide_the_other_destinations(places: Places, world_at: WorldAt) -> None:
    stick, world = places.stick("ext4"), world_at(places.url("sshfs"))
    with hanging(places, "sshfs", 30):
        said = spawned(*command("destinations", "--lightning-dir", world.directory))
    assert said.code == 0
    assert stick.url() in said.out
    assert f"Left out, because it does not answer: {places.sshfs.source}" in said.err


def play_until_refused(node: Node, history: History) -> NoReturn:
    """Make calls until the plugin refuses: it may notice at a write or during maintenance."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        node.db_write(history.note())
        time.sleep(0.1)
    pytest.fail("the plugin went on")
