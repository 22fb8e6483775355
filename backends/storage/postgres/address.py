"""What a postgres:// URL names: servers, a database, a schema, and the path of one backup in it."""

import os
import re
from dataclasses import dataclass

from backends.commit_timeout import commit_timeout_of
from backends.storage.postgres.unix_socket import MAX_PATH, socket_path
from backends.text import printable
from backends.this_machine import stays_here
from backends.urls import BadURL, Destination, is_port

DEFAULT_SCHEMA = "lightning_backup"

_PORT = 5432
_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_SINGLE = "single-server"
_OPTIONS = ("schema", _SINGLE, "timeout", *_TLS)

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")

_EXAMPLE = "postgres://backup@db1.local,db2.local/lightning"


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name or address and a port, or the directory of a Unix socket."""

    name: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return shown if self.port == _PORT else f"{shown}:{self.port}"

    @property
    def is_socket(self) -> bool:
        """Whether this is a Unix socket, and so on this machine."""
        return self.name.startswith("/")

    @property
    def is_here(self) -> bool:
        """Whether nobody else can read or change what goes to this server: it is on this machine."""
        return stays_here(self.name)


@dataclass(frozen=True, slots=True)
class Address:
    """Everything that a URL says. `user` is empty if libpq shall choose it; `backup` is empty or ends in "/"."""

    hosts: tuple[Host, ...]
    user: str
    database: str
    schema: str
    backup: str
    single_server: bool
    tls: tuple[tuple[str, str], ...]
    commit_timeout: float

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        schema = "" if self.schema == DEFAULT_SCHEMA else f"?schema={self.schema}"
        path = f"{self.database}/{self.backup}".rstrip("/")
        return f"postgres://{user}{','.join(map(str, self.hosts))}/{path}{schema}"

    @property
    def checks_server(self) -> bool:
        """Whether TLS makes sure that the server is the one that is meant."""
        return dict(self.tls).get("sslmode") == "verify-full"

    def connection_string(self, host: Host, addresses: tuple[str, ...] = ()) -> bytes:
        """What libpq needs to connect to one of the hosts. The password is not in it: libpq looks into ~/.pgpass.

        It tries the addresses one by one, and asks for that host's password and certificate at each. It resolves the
        name itself if there are none.
        """
        words = {
            "host": ",".join([host.name] * max(1, len(addresses))),
            "port": str(host.port),
            "dbname": self.database,
            "application_name": "lightningd-backup",
            "client_encoding": "UTF8",
            # A machine that died is noticed by the kernel, while a server that hangs keeps its connections.
            "tcp_user_timeout": "15000",
            "keepalives_idle": "5",
            "keepalives_interval": "5",
            "keepalives_count": "2",
            **dict(self.tls),
        }
        if addresses:
            words["hostaddr"] = ",".join(addresses)
        if self.user:
            words["user"] = self.user
        return " ".join(f"{key}={_quoted(value)}" for key, value in words.items()).encode(errors="surrogateescape")


def address_of(destination: Destination) -> Address:
    """The address in a URL. Raises BadURL."""
    user, hosts = _user_and_hosts(destination)  # first, because it refuses a password without repeating the URL
    destination.allow_options(*_OPTIONS)
    parts = destination.path.parts[1:]
    if not 1 <= len(parts) <= 2:
        raise BadURL(
            f"{destination.shown} names no database; write it like {_EXAMPLE}, or {_EXAMPLE}/NAME for one of several"
        )
    database, backup = parts[0], (f"{parts[1]}/" if len(parts) == 2 else "")
    if backup and _NAME.fullmatch(parts[1]) is None:
        raise BadURL(f"{destination.shown}: a backup's name consists of lower-case letters, digits, '.', '-' and '_'")
    schema = destination.option("schema", DEFAULT_SCHEMA)
    if _SCHEMA.fullmatch(schema) is None:
        raise BadURL(f"{destination.shown}: a schema's name consists of lower-case letters, digits and '_'")
    single = destination.option(_SINGLE, "false")
    if single not in ("", "true", "false"):
        raise BadURL(f"{destination.shown}: {_SINGLE} has no value; write &{_SINGLE}, or leave it out")
    return Address(
        hosts,
        user,
        database,
        schema,
        backup,
        single != "false",
        tuple((name, value) for name, value in destination.options if name in _TLS),
        commit_timeout_of(destination),
    )


def _user_and_hosts(destination: Destination) -> tuple[str, tuple[Host, ...]]:
    user, at, hosts = destination.host.rpartition("@")
    if ":" in user:
        raise BadURL(
            "a postgres:// URL must not hold a password: it is kept in backup.lock and shown in messages. Leave it out "
            "of the URL, write it into the file ~/.pgpass of the user that runs lightningd, on a line "
            "HOST:PORT:DATABASE:USER:PASSWORD, and type: chmod 0600 ~/.pgpass"
        )
    if (at and not user) or not hosts or "\0" in destination.host:
        raise BadURL(f"{destination.shown} names no server; write it like {_EXAMPLE}")
    return user, tuple(_host(destination, text) for text in hosts.split(","))


def _host(destination: Destination, text: str) -> Host:
    if text.startswith("/"):
        return _socket(destination, *text.partition(":")[::2])
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or _PORT) < 65536:
        raise BadURL(
            f"{destination.shown}: {text!r} cannot be a server's name; write it like {_EXAMPLE}, and an IPv6 address "
            "in brackets, like postgres://[fd00::1]:5432/lightning"
        )
    return Host(found["ipv6"] or found["name"], int(found["port"] or _PORT))


def _socket(destination: Destination, directory: str, port: str) -> Host:
    if port and not is_port(port):
        raise BadURL(
            f"{destination.shown}: {printable(port)!r} after the socket's directory {printable(directory)} cannot be a "
            "server's port, a number from 1 to 65535; write it like postgres://%2Frun%2Fpostgresql:5433/lightning"
        )
    host = Host(directory, int(port or _PORT))
    if len(os.fsencode(socket_path(host.name, host.port))) > MAX_PATH:
        raise BadURL(
            f"{destination.shown}: the path of a Unix socket may have {MAX_PATH} bytes, and "
            f"{socket_path(host.name, host.port)} has more; use a shorter link to its directory, or localhost"
        )
    return host


def _quoted(value: str) -> str:
    """A value for libpq's connection string."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
