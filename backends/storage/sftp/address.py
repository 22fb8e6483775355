"""The account on a server that a URL names, as `ssh` is told about it."""

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from backends.commit_timeout import commit_timeout_of
from backends.text import shell_line
from backends.urls import BadURL, Destination, is_port, quote

_OPTIONS = ("timeout", "config")
_HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[^\s\"'`$\\;&<>|(){}@:/-][^\s\"'`$\\;&<>|(){}@:/]*")
_EXAMPLE = "sftp://user@server.example/srv/backup/lightning.bkp"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to log in. What is None is left to the person's own configuration of ssh."""

    host: str
    user: str | None
    port: int | None
    config: str | None
    """Another configuration file for ssh."""
    commit_timeout: float
    parent: str
    """The path of the directory that contains the backup's directory; a relative one begins at the login directory."""
    name: str

    @property
    def shown(self) -> str:
        """The server, for a message."""
        port = "" if self.port is None else f" (port {self.port})"
        return f"{self.host}{port}"

    @property
    def url(self) -> str:
        """The place as a URL, without options."""
        user = "" if self.user is None else f"{self.user}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        parent = self.parent if self.parent.startswith("/") else f"/~/{self.parent}".removesuffix("/.")
        return f"sftp://{user}{host}{port}{quote(parent.rstrip('/'))}/{quote(self.name)}"

    def arguments(self) -> list[str]:
        """What to give to `ssh` so that it logs in here: options, then the host."""
        words = [] if self.config is None else ["-F", self.config]
        words += [] if self.port is None else ["-p", str(self.port)]
        words += [] if self.user is None else ["-l", self.user]
        return [*words, "--", self.host]

    def typed(self, *more: str) -> str:
        """The command line with which a person logs in here."""
        words = ["ssh", *more]
        words += [] if self.config is None else ["-F", self.config]
        words += [] if self.port is None else ["-p", str(self.port)]
        return shell_line(*words, self.host if self.user is None else f"{self.user}@{self.host}")


def address_of(destination: Destination) -> Address:
    """The account and directory that a URL names. Raises BadURL."""
    user, at, where = destination.host.rpartition("@")
    if at and ":" in user:
        raise BadURL(
            f"a password in the URL would lie in backup.lock for everyone to read; write sftp://"
            f"{user.partition(':')[0]}@{where}{destination.path} and let ssh log in with a key: ssh-keygen makes one, "
            "and ssh-copy-id tells the server"
        )
    destination.allow_options(*_OPTIONS)  # only now: it repeats the URL
    host, port = _host_and_port(destination, where)
    if (at and not _USER.fullmatch(user)) or not _HOST.fullmatch(host):
        raise BadURL(
            f"{destination.shown}: {destination.shown_host!r} cannot be an account on a server; write it like "
            f"{_EXAMPLE}, and an IPv6 address in brackets, like sftp://user@[fd00::1]/srv/backup/lightning.bkp"
        )
    parent, name = _directory(destination)
    config = destination.option("config", "") or None
    if config is not None and not config.startswith("/"):
        raise BadURL(f"{destination.shown}: config={config} must be the whole path of a file, beginning with /")
    return Address(host, user or None, port, config, commit_timeout_of(destination), parent, name)


def _directory(destination: Destination) -> tuple[str, str]:
    """The directory above the backup's, and the backup's name. Below `/~/` it begins at the login directory."""
    path = destination.path
    if len(path.parts) > 1 and path.parts[1] == "~":
        path = PurePosixPath(*path.parts[2:])
    if not path.name or ".." in path.parts:
        raise BadURL(f"{destination.shown} names no directory for the backup; write it like {_EXAMPLE}")
    return os.fspath(path.parent), path.name


def _host_and_port(destination: Destination, where: str) -> tuple[str, int | None]:
    """Host and port of `server`, `server:port`, `[::1]` or `[::1]:port`."""
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = where.partition(":")
    if port and not is_port(port):
        raise BadURL(
            f"{destination.shown}: {port!r} is no port; write it like sftp://user@server.example:2222/srv/lightning.bkp"
        )
    return host, int(port) if port else None
