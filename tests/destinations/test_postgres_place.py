"""What a postgres:// URL may say, and what a person is told about it."""

import re
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import pytest

from backends import backup_at, place_at
from backends.errors import Unreachable
from backends.members.urls import new_name
from backends.sqlite.copy import nothing
from backends.storage.postgres.address import Host, address_of
from backends.urls import BadURL, parse_url
from backup_cli.commands import drill
from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.destinations.postgres import ROLE
from tests.end_to_end.world import backup_cli
from tests.log.histories import CAMPAIGN

BASE = "postgres://me@db1.local,db2.local:5433/lightning"


def test_url_names_servers_database_schema_and_backup() -> None:
    address = address_of(parse_url(f"{BASE}/node1.bkp?schema=backups&single-server&sslmode=verify-full&timeout=60"))
    assert address.hosts == (Host("db1.local", 5432), Host("db2.local", 5433))
    assert (address.user, address.database, address.schema, address.backup) == (
        "me",
        "lightning",
        "backups",
        "node1.bkp/",
    )
    assert (address.single_server, address.checks_server, address.commit_timeout) == (True, True, 60.0)
    assert str(address) == f"{BASE}/node1.bkp?schema=backups"
    plain = address_of(parse_url("postgres://[fd00::1]:7000/lightning"))
    assert (plain.user, plain.schema, plain.backup, plain.single_server) == ("", "lightning_backup", "", False)
    assert str(plain) == "postgres://[fd00::1]:7000/lightning"
    (here,) = address_of(parse_url("postgres://%2Frun%2Fpostgresql/lightning")).hosts
    assert (here.is_socket, here.is_here, str(here)) == (True, True, "/run/postgresql")
    (other,) = address_of(parse_url("postgres://%2Frun%2Fpostgresql:5433/lightning")).hosts
    assert (other.port, str(other)) == (5433, "/run/postgresql:5433")


def test_url_with_single_server_is_shown_as_it_was_typed() -> None:
    """backup.lock keeps it, and the next release reads it."""
    url = f"{BASE}?single-server&timeout=60"
    assert str(parse_url(url)) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgres:///lightning", "names no server"),
        ("postgres://@db1.local/lightning", "names no server"),
        ("postgres://db1.local/", "names no database"),
        ("postgres://db1.local/a/b/c", "names no database"),
        ("postgres://db1.local/lightning/Node", "lower-case letters"),
        ("postgres://db1.local:70000/lightning", "cannot be a server's name"),
        ("postgres://db1 local/lightning", "cannot be a server's name"),
        ("postgres://db1.local,/lightning", "cannot be a server's name"),
        ("postgres://%2Frun%2Fpostgresql:0/lightning", "'0' after the socket's directory /run/postgresql cannot be"),
        ("postgres://%2Frun%2Fpostgresql:65536/lightning", "a number from 1 to 65535"),
        ("postgres://%2Frun%2Fpostgresql:00000999999/lightning", "a number from 1 to 65535"),
        ("postgres://%2Frun%2Fpostgresql:sock/lightning", "'sock' after the socket's directory"),
        (f"postgres://%2F{'d' * 100}/lightning", "may have 107 bytes"),
        (f"{BASE}?schema=a-b", "a schema's name"),
        (f"{BASE}?single-server=no", "has no value"),
        (f"{BASE}?sslmod=require", "there is no option 'sslmod'"),
        (f"{BASE}?timeout=1", "not between"),
    ],
)
def test_url_that_names_no_place_is_refused(url: str, why: str) -> None:
    with pytest.raises(BadURL, match=why):
        place_at(url)


def test_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadURL, match=r"~/\.pgpass") as caught:
        place_at("postgres://me:hunter2@db1.local/lightning")
    assert "hunter2" not in str(caught.value)


def test_postgresql_scheme_is_told_how_it_is_written_here() -> None:
    with pytest.raises(BadURL, match="Write this one as: postgres://db1"):
        place_at("postgresql://db1.local/lightning")


def test_what_is_in_a_url_stays_within_its_value_for_libpq() -> None:
    address = address_of(parse_url(f"{BASE}?sslrootcert=/a%27%20host%3Devil%5C"))
    said = address.connection_string(address.hosts[0]).decode()
    assert r"sslrootcert='/a\' host=evil\\'" in said
    assert "connect_timeout" not in said and "password" not in said


def test_member_is_named_after_the_first_of_its_servers() -> None:
    assert new_name(BASE, []) == "db1-local"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (BASE, ["pretend to be the server"]),
        (f"{BASE}?sslmode=require", ["pretend to be the server"]),
        (f"{BASE}?sslmode=verify-full", []),
        (f"{BASE}?sslmode=verify-full&single-server", ["one server only", "single-server"]),
        ("postgres://localhost/lightning", []),
    ],
)
def test_warnings_say_what_a_url_gives_up(url: str, words: list[str], tmp_path: Path) -> None:
    said = " ".join(place_at(url).warnings(tmp_path))
    assert bool(said) == bool(words)
    assert all(word in said for word in words[:1] if "single" not in url)
    assert all(word in said for word in ["single-server"] if "single" in url)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        (
            'connection to server at "nas" (::1), port 5432 failed: Connection refused\n\tIs the server running on '
            'that host and accepting TCP/IP connections?\nconnection to server at "nas" (10.0.0.2), port 5432 failed: '
            "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n",
            "Connection refused",
        ),
        (
            'connection to server at "127.0.0.1", port 1 failed: FATAL:  role "node" does not exist\n',
            'FATAL: role "node" does not exist',
        ),
        (
            'connection to server on socket "/run/.s.PGSQL.5432" failed: Connection refused\n\tIs the server running '
            "locally and accepting connections on that socket?\n",
            "Connection refused",
        ),
        ('could not translate host name "nas" to address: Name or service not known\n', None),
    ],
)
def test_what_libpq_says_of_a_connection_is_cut_down_to_its_reasons(text: str, reasons: str | None) -> None:
    """It names the server again for each address, and asks back, in each of the two sentences of a status."""
    from backends.storage.postgres.connection import why_not_connected

    assert why_not_connected(text) == (reasons or text.strip())


@pytest.mark.parametrize(
    ("directory", "port", "why"),
    [
        ("nowhere", 5432, r"there is no directory .*/nowhere on this machine; .* often /run/postgresql"),
        ("empty", 5432, r"no server's socket in .*/empty \(\.s\.PGSQL\.5432\): is the server running"),
        ("run", 5433, r"no socket for port 5433 in .*/run, but one for 5432\. "),
        ("run", 5434, r"\.s\.PGSQL\.5434 is not a socket"),
        ("run/.s.PGSQL.5432", 5432, r"the directory of the socket, not the socket itself: .*/run\. "),
        ("run", 5432, r": Connection refused\. "),
    ],
)
def test_wrong_socket_is_a_sentence_at_once(directory: str, port: int, why: str) -> None:
    with TemporaryDirectory(prefix="pg-", dir="/var/tmp") as top:  # a socket's path must be short
        for name in ("empty", "run"):
            Path(top, name).mkdir()
        Path(top, "run", ".s.PGSQL.5434").write_text("")
        with closing(socket.socket(socket.AF_UNIX)) as nobody:
            nobody.bind(str(Path(top, "run", ".s.PGSQL.5432")))
            place = place_at(f"postgres://{quote(str(Path(top, directory)), safe='')}:{port}/lightning")
            with pytest.raises(Unreachable, match=why):
                place.why_unwritable()


def test_missing_psycopg_is_a_sentence_with_the_command_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from backends import place_at\nfrom backends.errors import BackupError\n"
        "try:\n    place_at('postgres://db1.local/lightning')\nexcept BackupError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install --require-hashes --only-binary :all: -r requirements-postgres.lock" in done.stdout


@pytest.mark.parametrize("entered", [True, False], ids=["alone", "as-usual"])
def test_libpq_is_loaded_without_the_rest_of_psycopg_or_as_usual(entered: bool) -> None:
    """A release of psycopg may need its `__init__`: then nothing is lost but memory."""
    script = (
        "import sys, importlib\nreal = importlib.import_module\n"
        "def refuse(name):\n"
        "    package = sys.modules.get('psycopg')\n"
        "    if name == 'psycopg.pq' and package and not hasattr(package, 'connect'):\n"
        "        raise AttributeError(name)\n"
        "    return real(name)\n"
        f"importlib.import_module = real if {entered} else refuse\n"
        "from backends.storage.postgres.libpq import pq, Error\n"
        "assert pq.version() > 0 and issubclass(Error, Exception)\n"
        "large = ('asyncio', 'importlib.metadata', 'typing_extensions')\n"
        f"assert not {entered} or not [name for name in large if name in sys.modules]\n"
        "print('psycopg.connection' in sys.modules)\n"
        "import asyncio, importlib.metadata, typing_extensions\n"
        "assert asyncio.run and importlib.metadata.version('click') and typing_extensions.TypedDict, 'the real ones'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{not entered}\n"


def test_nothing_of_postgresql_is_imported_for_other_urls() -> None:
    script = (
        "import sys, plugin.main, backup_cli.main\nfrom backends import place_at\nplace_at('file:///mnt/x')\n"
        "print([name for name in sys.modules if name.startswith(('psycopg', 'backends.storage.postgres'))])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# Commands


def test_commands_say_what_they_found_in_postgresql(places: Places, world_at: WorldAt) -> None:
    world = world_at(places.url("postgres"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 0, said
    assert "PostgreSQL 1" in said.text
    assert re.search("synchronous standby: (one|two)", said.text)
    assert backup_cli("verify", *world.key_options, world.url).code == 0
    again = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert again.code == 1


def test_init_in_a_closed_schema_says_what_the_databases_administrator_types(places: Places, world_at: WorldAt) -> None:
    world = world_at(f"{places.url('postgres')}?schema=closed_to_the_role")
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert f'CREATE SCHEMA closed_to_the_role AUTHORIZATION "{ROLE}"' in said.err
    assert "have root create" not in said.err


def test_backups_beside_each_other_are_listed_and_removed_alone(places: Places) -> None:
    first, second = places.url("postgres"), places.url("postgres")
    for url in (first, second):
        backup_at(url).storage.make()
        backup_at(url).storage.publish("manifest", b"a manifest")
    above, names = first.rpartition("/")[0], [url.rpartition("/")[2] for url in (first, second)]
    assert set(names) <= set(backup_at(above).list_backups())
    backup_at(first).storage.unmake()
    assert not backup_at(first).storage.exists()
    assert backup_at(second).storage.read_small("manifest") == b"a manifest"


def test_backup_of_the_whole_schema_is_removed_without_those_below_it(places: Places) -> None:
    below = places.url("postgres")
    above = below.rpartition("/")[0]
    backup_at(below).storage.make()
    backup_at(above).storage.make()
    backup_at(above).storage.unmake()
    assert backup_at(below).storage.exists()


def test_init_where_another_one_was_killed_speaks_of_no_directory(places: Places, world_at: WorldAt) -> None:
    world = world_at(places.url("postgres"))
    storage = backup_at(world.url).storage
    storage.make()
    for name, said in (("notes", "it is no backup"), ("session", "is not a whole backup")):
        storage.publish(name, b"what is left")
        again = backup_cli("init", "--lightning-dir", world.directory, world.url)
        assert (again.code, said in again.err, "hoose another name" in again.err) == (1, True, True), again
        assert "director" not in again.err


def test_drill_with_the_url_of_a_backup_works_beside_it(places: Places) -> None:
    backup = places.url("postgres")
    with drill._destination(backup) as (place, made):
        made.create(nothing())
        assert place.rpartition("/")[0] == backup.rpartition("/")[0]
    assert place.rpartition("/")[2] not in backup_at(backup.rpartition("/")[0]).list_backups()


@pytest.mark.skipif(CAMPAIGN == 1, reason="docs/postgres.md rehearses it, too")
def test_drill_works_in_postgresql_and_leaves_nothing(places: Places) -> None:
    place = places.url("postgres").rpartition("/")[0]
    said = backup_cli("drill", place)
    assert said.code == 0, said
    assert "commit latency" in said.text
    assert [name for name in backup_at(place).list_backups() if "drill" in name] == []
