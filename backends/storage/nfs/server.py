"""The NFS server that a URL names, and connections to it."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from backends.commit_timeout import commit_timeout_of
from backends.storage.nfs.protocol import Protocol
from backends.storage.nfs.rpc import Identity, Refused
from backends.storage.nfs.version3 import Ports, Version3
from backends.storage.nfs.version41 import Version41
from backends.urls import BadURL, Destination, is_port

_PORT = 2049
_OPTIONS = ("version", "nfsport", "mountport", "uid", "gid", "noresvport", "timeout")
_VERSIONS = {"3": "3", "4": "4.1", "4.1": "4.1", "4.2": "4.1"}  # a 4.2 server speaks 4.1, too


@dataclass(slots=True)
class Server:
    """Where an NFS server is and how to talk to it. `version` is None until it is known which version works."""

    host: str
    ports: Ports
    version: str | None
    identity: Identity
    reserved: bool
    commit_timeout: float
    directory: list[str]
    """The path of the directory that contains the backup's directory."""

    def connect(self, until: float) -> Protocol:
        """Make a new connection; give up at `until` (time.monotonic).

        Raises Disconnected, or OSError if the server refuses.
        """
        if self.version is not None:
            return self._speak(self.version, until)
        refusals: list[OSError] = []
        for version in ("4.1", "3"):
            try:
                protocol = self._speak(version, until)
                protocol.root(self.directory)
            except (Refused, FileNotFoundError, PermissionError, NotADirectoryError) as error:
                refusals.append(error)
            else:
                self.version = version
                return protocol
        raise next((error for error in refusals if not isinstance(error, Refused)), refusals[0])

    def wants(self) -> str:
        """How the server must be configured, as a clause for the error message of a refused user."""
        return (
            f"/{'/'.join(self.directory)} must be exported to this machine, writable and for ports above 1023 "
            f"(`insecure`), and user {self.identity.uid} must be allowed to write there (?uid= names another)"
        )

    def _speak(self, version: str, until: float) -> Protocol:
        if version == "3":
            return Version3(self.host, self.ports, self.identity, self.reserved, until)
        return Version41(self.host, self.ports.nfs or _PORT, self.identity, self.reserved, until)


def server_of(destination: Destination) -> Server:
    """The server that a URL names. Raises BadURL."""
    destination.allow_options(*_OPTIONS)
    version = destination.option("version", "")
    if version and version not in _VERSIONS:
        raise BadURL(f"{destination.shown}: NFS version {version} is not supported; write version=3 or version=4.1")
    host, port = _host_and_port(destination)
    return Server(
        host,
        Ports(_number(destination, "nfsport", 65535) or port, _number(destination, "mountport", 65535)),
        _VERSIONS[version] if version else None,
        Identity(_number(destination, "uid", (1 << 32) - 1), _number(destination, "gid", (1 << 32) - 1)),
        destination.option("noresvport", "false") != "true",
        commit_timeout_of(destination),
        list(PurePosixPath(destination.path).parent.parts[1:]),
    )


def _number(destination: Destination, name: str, most: int) -> int | None:
    value = destination.option(name, "")
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= most):
        raise BadURL(f"{destination.shown}: {name}={value} is not a number up to {most}")
    return int(value)


def _host_and_port(destination: Destination) -> tuple[str, int | None]:
    """Host and port of a URL with `server`, `server:port`, `[::1]` or `[::1]:port`."""
    host = destination.host
    if host.startswith("["):
        inside, bracket, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        inside, _, port = host.partition(":")
        bracket = "]"
    if not _may_be_a_host(inside) or not bracket or (port and not is_port(port)):
        raise BadURL(
            f"{destination.shown}: {destination.shown_host!r} cannot be a server's name; write it like "
            "nfs://nas.local/export/lightning.bkp, and an IPv6 address in brackets, like nfs://[fd00::1]/export/lightning.bkp"
        )
    return inside, int(port) if port else None


def _may_be_a_host(name: str) -> bool:
    """Whether the name can be given to the resolver; it raises no OSError for an empty label or one of 64 letters."""
    try:
        return bool(name.encode("idna")) and name.isprintable() and " " not in name
    except UnicodeError:
        return False
