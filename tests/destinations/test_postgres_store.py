"""Objects in PostgreSQL: lost answers, broken connections, servers that hang, and servers that are refused."""

import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backends.storage.objects.store import Changed, Exists
from backends.storage.postgres.errors import Unsafe
from backends.storage.postgres.store import PostgresStore
from tests.destinations.pg_proxy import PgProxy
from tests.destinations.postgres import DATABASE, ROLE, SCHEMA, PostgresCluster, becoming
from tests.destinations.postgres_fixtures import (
    LONG,
    SHORT,
    Attempt,
    StoreMaker,
    cluster,
    proxy,
    store,
    store_of,
    through,
)
from tests.destinations.tools import free_ports, need, start, wait_until
from tests.log.histories import CAMPAIGN

__all__ = ["cluster", "proxy", "store", "store_of", "through"]


def rows(cluster: PostgresCluster, store: PostgresStore) -> str:
    """How many objects the backup has on the primary."""
    name = store.describe().rpartition("/")[2]
    return cluster.primary.sql(f"SELECT count(*) FROM {SCHEMA}.objects WHERE key LIKE '{name}/%'", DATABASE)


# Conditions


def test_of_many_writers_of_one_key_exactly_one_wins(store: PostgresStore) -> None:
    for number in range(10):
        key, ready = f"data/{number}", threading.Barrier(4)

        def race(text: bytes, key: str = key, ready: threading.Barrier = ready) -> str:
            ready.wait()
            return store.create(key, text)

        attempts = [Attempt(partial(race, text)) for text in (b"a", b"b", b"c", b"")]
        for each in attempts:
            each.join(20)
        won = [each for each in attempts if each.error is None]
        assert len(won) == 1
        assert all(isinstance(each.error, Exists) for each in attempts if each is not won[0])
        assert store.get(key).version == won[0].result


def test_replacement_of_another_version_is_refused(store: PostgresStore) -> None:
    first = store.create("names/a", b"1")
    second = store.replace("names/a", b"2", first)
    with pytest.raises(Changed):
        store.replace("names/a", b"3", first)
    store.delete(["names/a"])
    with pytest.raises(Changed):
        store.replace("names/a", b"3", second)
    assert store.create("names/a", b"1") not in (first, second), "a version would mean two contents"


# Answers that are lost


@pytest.mark.parametrize("data", [b"full", b""])
def test_lost_answer_of_creation_is_settled_by_looking(
    data: bytes, cluster: PostgresCluster, proxy: PgProxy, through: PostgresStore
) -> None:
    """An empty object, too: each has a version that only its writer knows."""
    proxy.lose_answers = 1
    version = through.create("data/1", data)
    assert proxy.lost == 1
    assert through.get("data/1").version == version
    assert rows(cluster, through) == "2"


def test_lost_answer_of_replacement_is_settled_by_looking(proxy: PgProxy, through: PostgresStore) -> None:
    first = through.create("names/a", b"1")
    proxy.lose_answers = 1
    second = through.replace("names/a", b"2", first)
    assert proxy.lost == 1
    assert (through.get("names/a").data, through.get("names/a").version) == (b"2", second)


def test_lost_answer_of_creation_that_was_refused_is_refused_again(proxy: PgProxy, through: PostgresStore) -> None:
    through.create("data/1", b"somebody's")
    proxy.lose_answers = 1
    with pytest.raises(Exists):
        through.create("data/1", b"somebody's")
    assert proxy.lost == 1


def test_request_cut_in_two_is_sent_again(cluster: PostgresCluster, proxy: PgProxy, through: PostgresStore) -> None:
    for number in range(3):
        proxy.cut_requests = 1
        through.create(f"data/{number}", secrets.token_bytes(3000))
    assert proxy.lost == 3
    assert rows(cluster, through) == "4"


def test_listing_and_reading_go_on_after_broken_connections(proxy: PgProxy, through: PostgresStore) -> None:
    through.create("data/1", b"one")
    calls: list[tuple[Callable[[], Any], Any]] = [
        (lambda: [each.key for each in through.list("data/")], ["data/1"]),
        (lambda: through.read("data/1", 1, 5), b"ne"),
        (lambda: list(through.read_many(["data/1"])), [b"one"]),
        (lambda: through.prefixes(""), ["data"]),
    ]
    for call, expected in calls:
        proxy.lose_answers = 1
        assert call() == expected
    assert proxy.lost == 4


def test_changes_are_read_within_their_budget_at_20_ms(
    cluster: PostgresCluster, proxy: PgProxy, through: PostgresStore
) -> None:
    """20,000 changes in 30 s, with half of that left for replaying them."""
    changes = 20_000 if CAMPAIGN > 1 else 4_000
    name = through.describe().rpartition("/")[2]
    cluster.primary.sql(
        f"INSERT INTO {SCHEMA}.objects SELECT '{name}/data/' || lpad(n::text, 12, '0'), convert_to(repeat('x', 1500), "
        f"'UTF8'), 'v' FROM generate_series(1, {changes}) n",
        DATABASE,
    )
    proxy.delay = 0.02
    began = time.monotonic()
    keys = [each.key for each in through.list("data/")]
    assert len(keys) == changes
    assert sum(map(len, through.read_many(keys))) == changes * 1500
    assert time.monotonic() - began < 15 * changes / 20_000


# Servers that do not answer


def test_server_that_hangs_is_given_up_by_our_own_clock_and_may_have_done_it(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    store = store_of(SHORT)
    store.create("backup", b"made")
    cluster.primary.hang()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        store.create("data/1", b"late")
    assert time.monotonic() - began < SHORT + 0.5
    cluster.primary.go_on()
    # The request was in the server's buffers: it is carried out now. The same key is never given to something else.
    wait_until(lambda: rows(cluster, store) == "2", "the late row")
    with pytest.raises(Exists):
        store_of().create("data/1", b"another")


def test_server_that_hangs_for_a_while_delays_the_commit(cluster: PostgresCluster, store: PostgresStore) -> None:
    cluster.primary.hang()
    attempt = Attempt(lambda: store.create("data/1", b"one"))
    time.sleep(1)
    cluster.primary.go_on()
    assert attempt.outcome() == store.get("data/1").version


def test_server_killed_and_restarted_delays_the_commit(cluster: PostgresCluster, store: PostgresStore) -> None:
    for number in range(2):
        cluster.primary.kill()
        attempt = Attempt(partial(store.create, f"data/{number}", b"one"))
        time.sleep(0.3)
        assert attempt.is_alive()
        cluster.primary.start()
        version = attempt.outcome()
        assert store.get(f"data/{number}").version == version


def test_server_that_never_answered_is_refused_at_once(store_of: StoreMaker) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"127\.0\.0\.1:{port}: .*refused"):
        store_of(url=f"postgres://127.0.0.1:{port}/{DATABASE}").get("backup")
    assert time.monotonic() - began < 3


def test_closed_store_refuses(store: PostgresStore) -> None:
    store.close()
    with pytest.raises(OSError, match="closed"):
        store.get("backup")


# Servers that are refused


def test_server_without_synchronous_standby_is_refused(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    cluster.primary.set("synchronous_standby_names", "")
    with pytest.raises(TimeoutError, match=r"waits for no synchronous standby.*add single-server"):
        store_of().create("backup", b"made")
    store_of(options="?single-server").create("backup", b"made")


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_server_that_does_not_sync_its_disk_is_refused(
    name: str, cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    cluster.primary.set(name, "off")
    with pytest.raises(Unsafe, match=f"{name} = off: it would lose in a power cut"):
        store_of().get("backup")


def test_standby_alone_is_refused(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    with pytest.raises(TimeoutError, match="it is a standby"):
        store_of(url=f"postgres://{ROLE}@127.0.0.1:{cluster.standby.port}/{DATABASE}").get("backup")


def test_missing_database_and_unknown_role_are_named(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    server = f"127.0.0.1:{cluster.primary.port}"
    with pytest.raises(TimeoutError, match='database "nowhere" does not exist'):
        store_of(url=f"postgres://{ROLE}@{server}/nowhere").get("backup")
    with pytest.raises(TimeoutError, match='role "nobody-here" does not exist'):
        store_of(url=f"postgres://nobody-here@{server}/{DATABASE}").get("backup")


def test_password_comes_from_pgpass_and_its_lack_is_named(
    cluster: PostgresCluster, store_of: StoreMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rules, server = cluster.primary.directory / "pg_hba.conf", f"127.0.0.1:{cluster.primary.port}"
    before = rules.read_text()
    rules.write_text(f"host all demanding all scram-sha-256\nhost all barred all reject\n{before}")
    for role in ("demanding", "barred"):
        cluster.primary.sql(f"DROP ROLE IF EXISTS {role}")
    cluster.primary.sql("CREATE ROLE demanding LOGIN PASSWORD 'right'")
    cluster.primary.sql("CREATE ROLE barred LOGIN")
    cluster.primary.sql("SELECT pg_reload_conf()")
    pgpass = tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(pgpass))
    url = f"postgres://demanding@{server}/{DATABASE}"
    try:
        with pytest.raises(TimeoutError, match=r"asks for a password, and ~/.pgpass of this user has none"):
            store_of(url=url).get("backup")
        pgpass.write_text("*:*:*:*:wrong\n")
        pgpass.chmod(0o600)
        with pytest.raises(TimeoutError, match=r"password authentication failed.*comes from ~/.pgpass"):
            store_of(url=url).get("backup")
        pgpass.write_text("*:*:*:*:right\n")
        with pytest.raises(PermissionError, match="permission denied"):
            store_of(url=url).get("backup")
        with pytest.raises(TimeoutError, match=r"pg_hba\.conf"):
            store_of(url=f"postgres://barred@{server}/{DATABASE}").get("backup")
    finally:
        rules.write_text(before)
        cluster.primary.sql("SELECT pg_reload_conf()")


def test_role_without_rights_is_told_what_its_administrator_types(
    cluster: PostgresCluster, store_of: StoreMaker
) -> None:
    name = f"closed_{secrets.token_hex(4)}"
    store = store_of(options=f"?schema={name}")
    with pytest.raises(PermissionError, match=f'CREATE SCHEMA {name} AUTHORIZATION "{ROLE}"'):
        store.create("backup", b"made")
    cluster.primary.sql(f"CREATE SCHEMA {name}", DATABASE)
    assert f'GRANT USAGE, CREATE ON SCHEMA {name} TO "{ROLE}"' in str(store.why_unwritable())
    cluster.primary.sql(f"GRANT USAGE, CREATE ON SCHEMA {name} TO {ROLE}", DATABASE)
    assert store.why_unwritable() is None
    store.create("backup", b"made")
    assert store.why_unwritable() is None
    cluster.primary.sql(f"REVOKE INSERT ON {name}.objects FROM {ROLE}", DATABASE)
    assert store.why_unwritable() is not None
    cluster.primary.sql(f"DROP SCHEMA {name} CASCADE", DATABASE)


def test_schema_is_made_where_the_role_may_make_it(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    name = f"made_{secrets.token_hex(4)}"
    cluster.primary.sql(f"GRANT CREATE ON DATABASE {DATABASE} TO {ROLE}")
    try:
        store_of(options=f"?schema={name}").create("backup", b"made")
        storage = "SELECT attstorage FROM pg_attribute WHERE attname = 'data' AND attrelid = "
        assert cluster.primary.sql(f"{storage}'{name}.objects'::regclass", DATABASE) == "e"
    finally:
        cluster.primary.sql(f"REVOKE CREATE ON DATABASE {DATABASE} FROM {ROLE}")


def test_table_dropped_under_a_writer_is_not_made_again(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    name = f"dropped_{secrets.token_hex(4)}"
    cluster.primary.sql(f"CREATE SCHEMA {name} AUTHORIZATION {ROLE}", DATABASE)
    store = store_of(options=f"?schema={name}")
    store.create("backup", b"made")
    cluster.primary.sql(f"DROP TABLE {name}.objects", DATABASE)
    with pytest.raises(FileNotFoundError):
        store.create("data/1", b"one")


def test_connection_pooler_is_refused(cluster: PostgresCluster, store_of: StoreMaker) -> None:
    """In its usual mode pgbouncer gives each transaction another session, in which nothing of ours is set."""
    need("pgbouncer", root=False)
    (port,) = free_ports(1)
    users, settings = cluster.directory / "users.txt", cluster.directory / "pgbouncer.ini"
    users.write_text(f'"{ROLE}" ""\n')
    target = f"host=127.0.0.1 port={cluster.primary.port}"
    settings.write_text(
        f"[databases]\n{DATABASE} = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\nunix_socket_dir =\n"
    )
    pooler = start(*becoming(), "/usr/sbin/pgbouncer", settings)
    try:
        with pytest.raises(Unsafe, match="there is a connection pooler"):
            _when_it_listens(store_of(url=f"postgres://{ROLE}@127.0.0.1:{port}/{DATABASE}"))
    finally:
        pooler.kill()
        pooler.wait()


def _when_it_listens(store: PostgresStore) -> None:
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        try:
            store.get("backup")
        except TimeoutError:
            time.sleep(0.1)
