"""Commits that wait for their standby: nothing is confirmed, and nothing believed, before it has them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from backends.storage.objects.store import Exists
from backends.storage.postgres.errors import Disconnected, Lost
from backends.storage.postgres.store import PostgresStore
from tests.destinations.postgres import DATABASE, ROLE, SCHEMA, PostgresCluster, Server
from tests.destinations.postgres_fixtures import SHORT, Attempt, StoreMaker, believed, cluster, store, store_of, waiting
from tests.destinations.tools import wait_until

__all__ = ["cluster", "store", "store_of"]


def visible(server: Server, store: PostgresStore, key: str) -> bool:
    """Whether everybody sees that row on this server now."""
    path = f"{name_of(store)}/{key}"
    return server.sql(f"SELECT count(*) FROM {SCHEMA}.objects WHERE key = '{path}'", DATABASE) == "1"


def name_of(store: PostgresStore) -> str:
    """The name of the backup in the URL."""
    return store.describe().rpartition("/")[2]


def commit_without_standby(cluster: PostgresCluster, store: PostgresStore) -> tuple[Attempt, str]:
    """Stop the standby and create a row, which waits for it; the attempt, and the server's process that waits."""
    cluster.standby.stop()
    attempt = Attempt(lambda: store.create("data/1", b"one"))
    return attempt, waiting(cluster)


def wait_for_row(cluster: PostgresCluster, store: PostgresStore) -> None:
    """Wait until everybody sees that row on the primary."""
    wait_until(lambda: visible(cluster.primary, store, "data/1"), "the row")


def assert_waits(attempt: Attempt) -> None:
    assert attempt.is_alive(), "it was confirmed without a standby"


def assert_confirmed_with_standby(cluster: PostgresCluster, store: PostgresStore, attempt: Attempt) -> None:
    """Start the standby: now the attempt ends, and the row is its own."""
    cluster.standby.start()
    assert attempt.outcome() == store.get("data/1").version


def test_commit_without_standby_waits_and_then_names_what_is_missing(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    store = store_of(SHORT)
    store.create("backup", b"made")
    cluster.standby.stop()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no standby is connected to it, and a commit waits for one"):
        store.create("data/1", b"one")
    assert SHORT - 1.5 < time.monotonic() - began < SHORT + 1
    assert not visible(cluster.primary, store, "data/1")
    cluster.standby.start()
    assert Attempt(lambda: store_of().create("data/2", b"two")).outcome()


def test_commit_whose_standby_hangs_is_given_up_in_time(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    """Whether the other server has taken over is asked meanwhile, and it does not answer that either."""
    store = store_of(4.5)
    store.create("backup", b"made")
    cluster.standby.hang()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        store.create("data/1", b"one")
    assert time.monotonic() - began < 5
    cluster.standby.go_on()


def test_standby_that_comes_back_ends_the_wait(cluster: PostgresCluster, store: PostgresStore) -> None:
    attempt, _ = commit_without_standby(cluster, store)
    cluster.standby.start()
    version = attempt.outcome()
    assert store.get("data/1").version == version


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_wait_cut_off_by_administrator_is_neither_confirmed_nor_believed(
    how: str, cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    """The server then counts it as committed, and shows it to everybody, though it is on one server only."""
    # What an administrator may have set for the role must not hide the warning, nor weaken the commit.
    for setting in ("client_min_messages = error", "synchronous_commit = off", "statement_timeout = '100ms'"):
        cluster.primary.sql(f"ALTER ROLE {ROLE} SET {setting}")
    store = store_of()
    store.get("backup")
    attempt, process = commit_without_standby(cluster, store)
    cluster.primary.sql(f"SELECT pg_{how}_backend({process})")
    wait_for_row(cluster, store)
    time.sleep(0.3)
    assert_waits(attempt)
    assert not believed(store_of(SHORT), "data/1")
    with pytest.raises(TimeoutError):
        list(store_of(SHORT).list("data/"))
    assert_waits(attempt)
    assert_confirmed_with_standby(cluster, store, attempt)


def test_wait_that_ends_because_the_standbys_are_unconfigured_is_not_confirmed(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    """Whoever empties synchronous_standby_names, as Patroni does by itself, ends all waits without any warning."""
    attempt, _ = commit_without_standby(cluster, store)
    cluster.primary.set("synchronous_standby_names", "")
    wait_for_row(cluster, store)
    time.sleep(1)
    assert_waits(attempt)
    cluster.primary.set("synchronous_standby_names", cluster.standby.name)
    time.sleep(0.5)
    assert_waits(attempt)
    assert_confirmed_with_standby(cluster, store, attempt)


def test_standbys_unconfigured_and_configured_again_within_one_commit_is_not_confirmed(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    """The session is frozen meanwhile: when it looks, the names are as before, and only the time tells."""
    attempt, process = commit_without_standby(cluster, store)
    os.kill(int(process), signal.SIGSTOP)
    cluster.primary.set("synchronous_standby_names", "")
    time.sleep(0.3)  # the checkpointer lets the waiting go
    cluster.primary.set("synchronous_standby_names", cluster.standby.name)
    os.kill(int(process), signal.SIGCONT)
    wait_for_row(cluster, store)
    time.sleep(0.5)
    assert_waits(attempt)
    assert_confirmed_with_standby(cluster, store, attempt)


def test_primary_killed_and_restarted_alone_is_not_believed(
    cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    """After its recovery everybody sees the row whose commit was still waiting."""
    attempt, _ = commit_without_standby(cluster, store)
    cluster.primary.kill()
    cluster.primary.start()
    wait_for_row(cluster, store)
    assert not believed(store_of(SHORT), "data/1")
    assert_waits(attempt)
    assert_confirmed_with_standby(cluster, store, attempt)


def test_row_that_only_the_dead_primary_had_is_written_again_on_the_new_one(
    cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    attempt, process = commit_without_standby(cluster, store)
    cluster.primary.sql(f"SELECT pg_cancel_backend({process})")
    wait_for_row(cluster, store)
    cluster.primary.kill()
    cluster.standby.start()
    cluster.fail_over()
    time.sleep(0.5)
    assert_waits(attempt)
    cluster.join()
    version = attempt.outcome()
    assert store_of().get("data/1").version == version


def test_ctrl_c_does_not_cancel_the_commit_that_waits(cluster: PostgresCluster, store: PostgresStore) -> None:
    script = (
        "import sys; from backends.urls import parse_url; from backends.storage.postgres.address import address_of; "
        "from backends.storage.postgres.store import PostgresStore; "
        "PostgresStore(address_of(parse_url(sys.argv[1]))).create('data/1', b'one')"
    )
    cluster.standby.stop()
    url = cluster.url(name_of(store))
    with subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.DEVNULL) as process:
        waiting(cluster)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0
    time.sleep(0.5)
    assert cluster.primary.waiting()
    assert not visible(cluster.primary, store, "data/1")
    cluster.standby.start()
    wait_for_row(cluster, store)


# Another server takes over


def test_old_primary_that_comes_back_is_refused(
    cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    cluster.primary.kill()
    cluster.fail_over()
    old = cluster.standby
    store_there = Attempt(lambda: store.create("data/1", b"on the new one"))
    old.start()
    time.sleep(1)
    assert store_there.is_alive(), "it was confirmed, but no standby follows the new primary yet"
    # Nobody who starts now, and knows of no timeline, believes the old primary; the first of the two in its URL.
    assert not believed(store_of(SHORT), "backup")
    cluster.join()
    store_there.outcome()
    assert store_of().get("data/1").data == b"on the new one"


def test_primary_that_hangs_is_left_when_the_standby_took_over(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    """Its connections stay as they are; only silence tells, and a look at the other server."""
    store = store_of(options="?single-server")
    store.create("backup", b"made")
    cluster.primary.hang()
    attempt = Attempt(lambda: store.create("data/1", b"one"))
    time.sleep(0.3)
    cluster.fail_over()
    cluster.primary.set("synchronous_standby_names", "")
    version = attempt.outcome(15)
    assert store.get("data/1").version == version


def test_old_primary_that_would_confirm_everything_is_not_used_after_the_new_one(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    """The new one is away for a while, and somebody starts the old one and tells it to do without a standby."""
    cluster.primary.set("synchronous_standby_names", "")
    store = store_of(SHORT, options="?single-server")
    store.create("backup", b"made")
    wait_until(lambda: visible(cluster.standby, store, "backup"), "a copy")
    cluster.primary.kill()
    cluster.fail_over()
    cluster.primary.set("synchronous_standby_names", "")
    store.create("data/1", b"on the new one")
    cluster.primary.kill()
    cluster.standby.start()
    with pytest.raises(TimeoutError, match="another server took over from it"):
        store.create("data/2", b"on the old one")
    cluster.primary.start()
    assert Attempt(lambda: store.create("data/3", b"on the new one")).outcome()


def test_server_that_took_over_without_the_last_change_is_refused(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    """With `single-server`, or with the wrong one of several standbys promoted, that can happen."""
    cluster.primary.set("synchronous_standby_names", "")
    store = store_of(options="?single-server")
    store.create("backup", b"made")
    wait_until(lambda: visible(cluster.standby, store, "backup"), "a copy")
    cluster.standby.stop()
    store.create("data/1", b"on one server only")
    cluster.primary.kill()
    cluster.standby.start()
    cluster.fail_over()
    cluster.primary.set("synchronous_standby_names", "")
    with pytest.raises(Lost, match="lacks what that server had confirmed"):
        Attempt(lambda: store.create("data/2", b"after a gap")).outcome()


def test_single_server_old_primary_is_not_used_beside_the_new_one(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    """It comes first in the URL, and would confirm everything."""
    cluster.primary.set("synchronous_standby_names", "")
    store = store_of(options="?single-server")
    store.create("backup", b"made")
    wait_until(lambda: visible(cluster.standby, store, "backup"), "a copy")
    cluster.primary.kill()
    cluster.fail_over()
    cluster.primary.set("synchronous_standby_names", "")
    cluster.standby.start()
    Attempt(lambda: store_of(options="?single-server").create("data/1", b"one")).outcome()
    assert visible(cluster.primary, store, "data/1")


# Fencing


def test_fence_made_while_the_old_writers_row_waits_is_decided_by_the_row(
    cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    """A taker's row of the same key waits for the outcome of the other; only one of the two is ever there."""
    cluster.standby.stop()
    old = Attempt(lambda: store.create("data/1", b"the old writer's"))
    waiting(cluster)
    taker = store_of()
    fence = Attempt(lambda: taker.create("data/1", b""))
    time.sleep(0.5)
    assert fence.is_alive()
    cluster.standby.start()
    old.outcome()
    with pytest.raises(Exists):
        fence.outcome()


def test_old_writer_whose_row_died_with_the_primary_finds_the_fence(
    cluster: PostgresCluster, store: PostgresStore, store_of: StoreMaker
) -> None:
    cluster.standby.stop()
    old = Attempt(lambda: store.create("data/1", b"the old writer's"))
    waiting(cluster)
    cluster.primary.hang()
    cluster.standby.start()
    cluster.fail_over()
    frozen = cluster.standby
    frozen.kill()
    taker = Attempt(lambda: store_of().create("data/1", b""))
    wait_until(lambda: bool(cluster.primary.waiting()), "the fence that waits for its standby")
    cluster.join()
    taker.outcome()
    with pytest.raises(Exists):
        old.outcome()
    assert store.get("data/1").data == b""


def test_disconnected_is_an_error_of_the_system() -> None:
    """The log knows OSError only."""
    assert issubclass(Disconnected, OSError)
