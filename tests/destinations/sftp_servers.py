"""Real SFTP servers on the loopback, each with an account for this user: OpenSSH's, and ProFTPD's mod_sftp."""

import grp
import os
import pwd
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import pytest

from backends import place_at
from backends.storage.sftp.storage import SftpStorage
from tests.destinations.tools import free_ports, need, run, start, wait_until

_SSHD = "/usr/sbin/sshd"  # it must be called by its full path

_CLIENT = """
Host *
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    {more}
"""


class SftpServer(ABC):
    """A server for one directory, and a configuration of ssh with which this user may log in there."""

    def __init__(self, directory: Path) -> None:
        self.directory, (self.port,) = directory, free_ports(1)
        self.served = directory / "served"
        self.served.mkdir(exist_ok=True)
        self.user = _own_name()
        self.key, self.known, self.config = directory / "user", directory / "known_hosts", directory / "ssh_config"
        for key in ("user", "host"):
            if not (directory / key).exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key)
        self.know_host()
        self.configure()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _start(self) -> "subprocess.Popen[bytes]":
        """Start the server's program."""

    @abstractmethod
    def _serving(self, process: psutil.Process) -> bool:
        """Whether this process carries out the requests of a session."""

    def know_host(self) -> None:
        """Tell the client the server's host key, as it is now."""
        name, key = f"[127.0.0.1]:{self.port}", (self.directory / "host.pub").read_text()
        self.known.write_text(f"{name} {key}")

    def configure(self, more: str = "") -> None:
        """Write the client's configuration, with more lines."""
        self.config.write_text(_CLIENT.format(key=self.key, known=self.known, more=more))

    def url(self, path: str, **options: str) -> str:
        """The URL of a path below the served directory."""
        options = {"config": str(self.config), **options}
        query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.served}/{path}?{query}"

    def typed(self) -> list[str]:
        """What a person types to log in."""
        return ["ssh", "-F", str(self.config), "-p", str(self.port), f"{self.user}@127.0.0.1"]

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        process = self._process = self._start()

        def listening() -> bool:
            assert process.poll() is None, f"the SFTP server ended at once: {self.log()}"
            return any(each.laddr.port == self.port for each in _connections_of(process.pid))

        wait_until(listening, f"SFTP server on port {self.port}")

    def log(self) -> str:
        """What the server has written to its log."""
        with suppress(FileNotFoundError):
            return (self.directory / "server.log").read_text(errors="replace")
        return ""

    def everything(self) -> list[psutil.Process]:
        """All processes of the server."""
        if self._process is None:
            return []
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    def sessions(self) -> list[psutil.Process]:
        """The processes that carry out the requests of a session, oldest first."""
        found: list[tuple[float, int, psutil.Process]] = []
        for each in self.everything()[1:]:
            with suppress(psutil.NoSuchProcess):  # it ends just now
                if _alive(each) and self._serving(each):
                    found.append((each.create_time(), each.pid, each))
        return [each for _, _, each in sorted(found, key=lambda entry: entry[:2])]

    def session_that_serves(self, ask: Callable[[], object]) -> psutil.Process:
        """The process that carries out what `ask` asks for: the one that it wakes up.

        Its connection would say so as well, but only to root.
        """
        before = {each: _wakings(each) for each in self.sessions()}
        for _ in range(_MOST_ASKED):
            ask()
            woken = sorted((_wakings(each) - count, each.pid) for each, count in before.items())
            if woken[-1][0] - sum(count for count, _ in woken[:-1]) >= _WOKEN:
                return psutil.Process(woken[-1][1])
        raise AssertionError(f"no session wakes up: {woken}")

    def drop_sessions(self) -> None:
        """Kill every session; the server itself goes on."""
        for each in reversed(self.everything()[1:]):
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def kill(self) -> None:
        """Kill it and all sessions, as a power cut would."""
        every = self.everything()
        for each in every:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None
        psutil.wait_procs(every, timeout=10)


_Server = TypeVar("_Server", bound=SftpServer)


@contextmanager
def running(server: _Server) -> Iterator[_Server]:
    """Start a server, and kill it after the block."""
    server.start()
    try:
        yield server
    finally:
        server.kill()


def storage_at(url: str) -> SftpStorage:
    """The place at an sftp:// URL, without a backup that uses it."""
    storage = place_at(url).storage
    assert isinstance(storage, SftpStorage)
    return storage


def _connections_of(pid: int) -> list[Any]:
    """The process's connections; those of all processes if it hides its own, as ProFTPD does from an ordinary user."""
    try:
        return list(psutil.Process(pid).net_connections("tcp"))
    except psutil.AccessDenied:
        return list(psutil.net_connections("tcp"))


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wakings(process: psutil.Process) -> int:
    """How often the process has waited for something."""
    try:
        return int(process.num_ctx_switches().voluntary)
    except psutil.NoSuchProcess:
        return 0


_WOKEN, _MOST_ASKED = 10, 1000


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Freeze these processes while the block runs; after it, they go on with what they were sent."""
    try:
        for each in processes:
            each.send_signal(signal.SIGSTOP)
        wait_until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in processes), "a stop of the server")
        yield
    finally:
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)


class OpenSsh(SftpServer):
    """OpenSSH's own server. With `internal=False` another program carries out the requests, through a shell."""

    def __init__(self, directory: Path, *, subsystem: str = "internal-sftp", more: str = "") -> None:
        need("sshd", "ssh-keygen", "ssh", root=False)
        super().__init__(directory)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        line = f"Subsystem sftp {subsystem}\n" if subsystem else ""
        (directory / "sshd.conf").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {directory}/user.pub\nPermitRootLogin yes\nUsePAM no\nMaxStartups 100\n{line}{more}\n"
        )

    def _start(self) -> "subprocess.Popen[bytes]":
        return start(_SSHD, "-D", "-f", self.directory / "sshd.conf", "-E", self.directory / "server.log")

    def _serving(self, process: psutil.Process) -> bool:
        return not process.children()


_PROFTPD = """
ServerType standalone
ServerName "test"
Port {port}
DefaultAddress 127.0.0.1
UseIPv6 off
UseReverseDNS off
WtmpLog off
TransferLog none
User {user}
Group {group}
PidFile {directory}/proftpd.pid
ScoreboardFile {directory}/scoreboard
DelayEngine off
ModulePath /usr/lib/proftpd
LoadModule mod_sftp.c
AuthOrder mod_auth_file.c
AuthUserFile {directory}/passwd
AuthGroupFile {directory}/group
AuthPAM off
RequireValidShell on
RootLogin on
UseFtpUsers off
SystemLog {directory}/server.log
Umask 077
AllowOverwrite on
AllowStoreRestart on
TimesGMT on
MaxInstances 100
TimeoutLogin 60
SFTPEngine on
SFTPLog {directory}/sftp.log
SFTPHostKey {directory}/host
SFTPAuthMethods publickey
SFTPAuthorizedUserKeys file:{directory}/user.rfc4716
{more}
"""


class Proftpd(SftpServer):
    """ProFTPD with mod_sftp."""

    def __init__(self, directory: Path, *, more: str = "") -> None:
        need("proftpd", "ssh-keygen", "ssh", root=False)
        super().__init__(directory)
        key = run("ssh-keygen", "-e", "-f", directory / "user.pub")
        (directory / "user.rfc4716").write_text(f"{key}\n")
        uid, gid = os.geteuid(), os.getegid()
        (directory / "passwd").write_text(f"{self.user}:x:{uid}:{gid}:test:{directory}:/bin/sh\n")
        group = grp.getgrgid(gid).gr_name
        (directory / "group").write_text(f"{group}:x:{gid}:{self.user}\n")
        for name in ("passwd", "group"):
            (directory / name).chmod(0o600)
        (directory / "proftpd.conf").write_text(
            _PROFTPD.format(port=self.port, directory=directory, user=self.user, group=group, more=more)
        )

    def _start(self) -> "subprocess.Popen[bytes]":
        return start("/usr/sbin/proftpd", "-n", "-q", "-c", self.directory / "proftpd.conf")

    def _serving(self, process: psutil.Process) -> bool:
        return True


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        pytest.skip("sshd lets nobody in whose user has no name")
