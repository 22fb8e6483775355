"""Real PostgreSQL servers on the loopback: a primary and its synchronous standbys."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from tests.destinations.tools import free_ports, need, run, wait_until

_USER = "nobody"
"""Who the servers run as when root runs the tests: they refuse to run as root."""

ROLE = "backup"
DATABASE = "backups"
SCHEMA = "lightning_backup"

_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{directory}'
shared_buffers = 8MB
max_connections = 200
max_wal_senders = 4
wal_keep_size = 64MB
wal_sender_timeout = 3s
wal_receiver_timeout = 3s
wal_retrieve_retry_interval = 100ms
synchronous_standby_names = '{standbys}'
# Weaker than a backup needs: what each session asks for must count.
synchronous_commit = local
port = {port}
"""


def programs() -> Path:
    """The directory of the newest server that is installed; they are on nobody's PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        need("initdb", root=False)
    return found[-1].parent


def in_memory() -> str | None:
    """A directory in memory, if there is one with enough space: what is tested here needs no disk."""
    memory = "/dev/shm"
    with suppress(OSError):
        if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30:
            return memory
    return None


class Server:
    """One server, which may be started and stopped many times. Its name is that of its directory."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.directory.name

    def start(self) -> "Server":
        """Start it, and return when it answers."""
        with (self.directory.parent / f"{self.name}.log").open("ab") as log:
            command = [*becoming(), str(programs() / "postgres"), "-D", str(self.directory)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, f"PostgreSQL ({self.directory}.log)")
        return self

    def stop(self) -> None:
        """Stop it in an orderly way; clients are cut off."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill all of its processes, as a power cut would."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._end(signal.SIGKILL)

    def hang(self) -> None:
        """Freeze it: it answers nothing, and its connections stay."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def go_on(self) -> None:
        """The end of `hang`."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Its processes, the parent first; none if it does not run."""
        if self._process is None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def sql(self, statement: str, database: str = "postgres", user: str = "admin") -> str:
        """Run SQL as the administrator. Returns what it prints; several rows on several lines."""
        where = ("-h", "127.0.0.1", "-p", self.port, "-U", user, "-d", database)
        return run(programs() / "psql", "-XAtq", *where, "-c", statement)

    def script(self, text: str) -> None:
        """Run a script of psql as the administrator."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "admin", "-d", "postgres")
        psql = [str(programs() / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", *where]
        subprocess.run(psql, input=text, text=True, check=True, capture_output=True, timeout=60)

    def set(self, name: str, value: str) -> None:
        """Change its configuration while it runs, as an administrator does."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        wait_until(lambda: self.sql(f"SHOW {name}") == value, f"{name} = {value}")

    def waiting(self) -> str:
        """The process that waits for a standby to confirm its commit; empty if none does."""
        waiting = f"wait_event = 'SyncRep' AND usename = '{ROLE}'"
        return self.sql(f"SELECT min(pid) FROM pg_stat_activity WHERE {waiting}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (
            f"it ended at once: {(self.directory.parent / f'{self.name}.log').read_text()}"
        )
        ready = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


class PostgresCluster:
    """Two servers: a primary and its synchronous standby, with a role that may use one schema and nothing else."""

    def __init__(self) -> None:
        programs()
        self.directory = Path(tempfile.mkdtemp(prefix="lightningd-backup-postgres-", dir=in_memory()))
        self.directory.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(self.directory, _USER)
        self.servers = [
            Server(self.directory / name, port) for name, port in zip(("one", "two"), free_ports(2), strict=True)
        ]
        self.primary, self.standby = self.servers

    def start(self) -> "PostgresCluster":
        """Make and start both servers."""
        new = ("-U", "admin", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        as_user("initdb", "-D", self.primary.directory, *new)
        self._configure(self.primary, "")
        self.primary.start()
        self.primary.sql(f"CREATE ROLE {ROLE} LOGIN")
        self.primary.sql(f"CREATE DATABASE {DATABASE}")
        self.primary.sql(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {ROLE}", DATABASE)
        self.join()
        self._configure(self.primary, self.standby.name)
        self.primary.sql("SELECT pg_reload_conf()")
        self.synchronous()
        return self

    def join(self) -> None:
        """Make the standby anew, as a copy of the primary, and start it."""
        self.standby.kill()
        shutil.rmtree(self.standby.directory, ignore_errors=True)
        source = f"host=127.0.0.1 port={self.primary.port} user=admin application_name={self.standby.name}"
        as_user("pg_basebackup", "-D", self.standby.directory, "-d", source, "-c", "fast", "-R", "--no-sync")
        (self.standby.directory / "postgresql.auto.conf").write_text(f"primary_conninfo = '{source}'\n")
        self._configure(self.standby, self.primary.name)
        self.standby.start()

    def fail_over(self) -> None:
        """Make the standby the primary. The other one is left as it is."""
        assert self.standby.sql("SELECT pg_promote(true, 20)") == "t"
        self.primary, self.standby = self.standby, self.primary

    def synchronous(self) -> None:
        """Wait until commits on the primary wait for the standby, and the standby confirms them."""
        state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: self.primary.sql(state) == "sync", "synchronous standby")

    def heal(self) -> None:
        """Make it a primary with a synchronous standby again, whatever was done to it."""
        for server in self.servers:
            server.go_on()
            if not server.runs:
                server.start()
        self.primary.sql("ALTER SYSTEM RESET ALL")
        self.primary.sql("SELECT pg_reload_conf()")
        self.primary.sql(f"ALTER ROLE {ROLE} RESET ALL")
        if self.standby.sql("SELECT pg_is_in_recovery()") == "f":
            self.join()
        self.synchronous()

    def url(self, backup: str = "", options: str = "") -> str:
        """The URL of a backup, with all servers in it."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"postgres://{ROLE}@{hosts}/{DATABASE}{'/' if backup else ''}{backup}{options}"

    def discard(self) -> None:
        """Kill all servers and delete them."""
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _configure(self, server: Server, standbys: str) -> None:
        settings = _SETTINGS.format(directory=self.directory, port=server.port, standbys=standbys)
        sample = server.directory / "postgresql.conf"
        text = sample.read_text().split("\n# Tests\n")[0]
        sample.write_text(f"{text}\n# Tests\n{settings}")


def as_user(program: str, *words: object) -> str:
    """Run one of PostgreSQL's programs as the user that the servers run as."""
    return run(*becoming(), programs() / program, *words)


def becoming() -> list[str]:
    """What to put before a command so that the servers' user runs it."""
    if os.geteuid() != 0:
        return []
    need("setpriv", root=False)
    return ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", "env", "--chdir=/"]
