"""A node whose backup is on an SFTP server: it is killed, the server is killed and cut off, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from backends import backup_at, place_at
from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.destinations.second_writer import SMALL_SEGMENTS, created, disturb, opener
from tests.destinations.sftp_servers import OpenSsh, SftpServer, frozen, running
from tests.destinations.tools import wait_until
from tests.end_to_end.crash import Death, Life
from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History, Moment, Refused, Victim
from tests.log.histories import noise
from tests.members.elsewhere import MembersElsewhere, Stream
from tests.members.world import eventually

CAMPAIGN = bool(os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN"))
ROUNDS, SECONDS = (200, 60) if CAMPAIGN else (3, 3)
LONG = pytest.mark.parametrize("kind", ["openssh", "proftpd"] if CAMPAIGN else ["openssh"])
"""For tests in which the two servers do the same."""


@pytest.fixture(params=["openssh", "proftpd"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenSsh]:
    """A server of this test's own."""
    with running(OpenSsh(tmp_path)) as server:
        yield server


@LONG
def test_node_killed_in_calls_and_between_them_is_restored_equal(
    kind: str, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url(kind)).init()
    life = Life(world)
    life.play([history.first(), *history.notes(5)], kill_every=3)
    for death in (Death(Moment.IN_HOOK, Victim.PLUGIN, 0.01), Death(Moment.BEFORE_COMMIT, Victim.NODE)):
        life.die(history.note(), death)
    life.play(history.notes(3))
    life.stop()
    world.assert_restored_equals_the_nodes()


def test_processes_of_ssh_end_with_the_plugin_that_is_killed_although_the_server_is_frozen(
    places: Places, world_at: WorldAt, history: History
) -> None:
    """Left alone, `ssh` waits until the server has answered that the session is over."""
    world, server = world_at(places.url("openssh")).init(), places.sftp("openssh")
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        mine = [each for each in psutil.Process(node.pid).children(recursive=True) if each.name() == "ssh"]
        assert len(mine) == 2
        with frozen(server.everything()):
            node.die()
            _, alive = psutil.wait_procs(mine, timeout=10)
            assert alive == []


def test_process_that_carries_a_connection_to_the_server_ends_with_it(server: OpenSsh) -> None:
    """A ProxyCommand is killed together with the `ssh` that started it: it might hang as well."""
    server.configure(f"ProxyCommand sh -c '{sys.executable} {_RELAY} {server.port} 0; sleep 60'")
    channel = place_at(server.url("lightning.bkp")).storage._rest  # type: ignore[attr-defined]
    connection = channel.do(lambda session: session.connection)
    every = psutil.Process(connection._ssh._process.pid).children(recursive=True)
    assert every
    connection.close()
    _, alive = psutil.wait_procs(every, timeout=10)
    assert alive == []


def test_connection_is_not_one_that_a_person_shares_and_that_hangs(server: OpenSsh, tmp_path: Path) -> None:
    """Each attempt through a shared connection (ControlMaster) would hang in the same way until somebody ends it."""
    socket = tmp_path / "shared"
    server.configure(f"ControlMaster auto\n    ControlPath {socket}")
    person = [*server.typed(), "-N"]
    with subprocess.Popen(person, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as shared:
        try:
            wait_until(socket.exists, "the shared connection")
            os.kill(shared.pid, signal.SIGSTOP)
            assert "OpenSSH" in " ".join(place_at(server.url("lightning.bkp", timeout="5")).about())
        finally:
            shared.kill()


def test_connection_needs_no_directory_for_the_socket_of_a_shared_one(server: OpenSsh, tmp_path: Path) -> None:
    """Under systemd (ProtectHome=read-only) nothing can be made in ~/.ssh, and `ssh` would end with an error."""
    server.configure(f"ControlMaster auto\n    ControlPath {tmp_path}/missing/shared")
    assert "OpenSSH" in " ".join(place_at(server.url("lightning.bkp", timeout="5")).about())


def test_connections_cut_under_a_stream_are_made_again_and_nothing_is_lost(
    kind: str, places: Places, world_at: WorldAt, history: History
) -> None:
    """They are cut anywhere: between two requests, and in the middle of a packet."""
    world, server, chance = world_at(places.url(kind)).init(), places.sftp(kind), random.Random(17)
    until = 0.0

    def cut() -> None:
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.1, 0.6))
            server.drop_sessions()

    thread = threading.Thread(target=cut)
    with world.node() as node:
        node.play([history.first()])
        until = time.monotonic() + SECONDS
        thread.start()
        while time.monotonic() < until:
            node.db_write(history.note(noise(chance.choice((10, 1000, 300_000)), chance.randrange(1 << 30))))
        thread.join()
        node.play(history.notes(3))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_server_killed_and_started_again_within_the_timeout_delays_a_commit(
    server: OpenSsh, world_at: WorldAt, history: History
) -> None:
    world = world_at(server.url("lightning.bkp")).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        server.kill()
        timer = threading.Timer(2, server.start)
        timer.start()
        assert node.db_write(history.note()) > 1.5
        timer.join()
        node.play(history.notes(3))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_server_frozen_beyond_the_timeout_stops_the_node_and_the_next_start_goes_on(
    server: OpenSsh, world_at: WorldAt, history: History
) -> None:
    world = world_at(server.url("lightning.bkp", timeout="5")).init()
    call = None
    with pytest.raises(Refused, match="not answered in time") as caught, world.node() as node:
        node.play([history.first(), *history.notes(3)])
        call = history.note()
        with frozen(server.everything()):
            node.db_write(call)
    assert "is safe" in str(caught.value)
    assert call is not None
    with world.node() as node:  # the write may have been done late: then the database is brought forward
        node.play([*([call] if world.version < call.data_version else []), *history.notes(3)])
    world.assert_restored_equals_the_nodes()


def test_plugin_whose_server_does_not_answer_ends_without_a_second_timeout(
    server: OpenSsh, world_at: WorldAt, history: History
) -> None:
    """lightningd aborts when the commit is refused. Then the plugin may wait 5 seconds for its maintenance thread."""
    timeout = 10
    world = world_at(server.url("lightning.bkp", timeout=str(timeout))).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        plugin = node.wire.process
        with frozen(server.everything()):
            began = time.monotonic()
            with pytest.raises(Refused, match="not answered in time"):
                node.db_write(history.note())
            assert plugin.poll() is not None
            assert timeout - 1 < time.monotonic() - began < timeout + 8


@LONG
def test_two_nodes_over_sftp_lose_nothing_acknowledged(kind: str, places: Places, tmp_path: Path) -> None:
    url = places.url(kind)
    count = 0

    def machine() -> str:
        """The URL as one more machine would have it: in this process it gets connections of its own."""
        nonlocal count
        count += 1
        return f"{url}&timeout={60 + count % 8}"

    open_ = created(lambda: opener(machine(), SMALL_SEGMENTS)())
    tally = disturb(open_, tmp_path, ROUNDS, 5)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert len(tally.refused) < max(1, ROUNDS // 3), str(
        tally
    )  # files may disappear while it scans; then it has done no harm


# Beside a local member


@pytest.mark.parametrize("trailing", [(), ("far",)], ids=["in sync", "trailing"])
def test_member_over_sftp_is_left_out_while_its_server_is_down_and_joins_again(
    trailing: tuple[str, ...], server: OpenSsh, tmp_path: Path
) -> None:
    world = MembersElsewhere(tmp_path, {"far": server.url("lightning.bkp", timeout="5")}, trailing=trailing).init()
    history = History()
    with world.node() as node:
        node.play([history.first(), *history.notes(10)])
        stream = Stream(node, history)
        server.kill()
        stream.changes(20)
        server.start()
        before = world.version
        if trailing:
            stream.until(lambda: _version(server) >= before, "the trailing member has caught up", 40)
        else:
            stream.until(lambda: "far" in world.note.in_sync, "the member has joined again", 40)
        stream.changes(5)
        if trailing:
            eventually(lambda: _version(server) == world.version)
    world.assert_member_equals_the_node("far")


def _version(server: SftpServer) -> int:
    return backup_at(server.url("lightning.bkp")).end().data_version


# A server that is far away

_RELAY = Path(__file__).with_name("sftp_relay.py")


@contextmanager
def far_away(server: OpenSsh, milliseconds: float) -> Iterator[None]:
    """Everything to and from the server takes half of this time each way."""
    server.configure(f"ProxyCommand {sys.executable} {_RELAY} {server.port} {milliseconds}")
    try:
        yield
    finally:
        server.configure()


def test_commit_to_far_server_takes_one_round_trip(server: OpenSsh) -> None:
    milliseconds = 20
    storage = place_at(server.url("lightning.bkp")).storage
    with far_away(server, milliseconds):
        storage.make()
        handle = storage.create("a.tmp")
        handle.extend(0, 1 << 16)
        storage.rename_new("a.tmp", "segment-1")
        took = []
        for number in range(25):
            began = time.monotonic()
            handle.write_durably(number * 600, b"x" * 600)
            took.append(time.monotonic() - began)
    median = sorted(took)[len(took) // 2] * 1000
    assert milliseconds <= median < 2 * milliseconds, f"{median} ms"


def test_init_says_server_extensions_and_latency(server: OpenSsh, world_at: WorldAt) -> None:
    world = world_at(server.url("lightning.bkp"))
    with far_away(server, 20):
        said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 0, said
    for expected in ("OpenSSH_", "fsync@openssh.com", "answers in 2"):
        assert expected in said.text, said
