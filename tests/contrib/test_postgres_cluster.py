"""contrib/postgres-cluster: two servers are set up, one dies, the other takes over, and the dead one comes back."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.destinations.conftest import Elsewhere
from tests.destinations.postgres import becoming, in_memory, programs
from tests.destinations.tools import free_ports, need, run, wait_until
from tests.end_to_end.world import said_at
from tests.fake_lightningd import History

SCRIPT = Path(__file__).parents[2] / "contrib" / "postgres-cluster" / "setup.sh"


class Machines:
    """Two machines as far as the script knows: two servers of one machine, with directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.version = programs().parent.name
        self.ports = dict(zip(("one", "two"), free_ports(2), strict=True))
        self._environment = {
            **os.environ,
            "PG_CLUSTER_CONF_ROOT": str(directory / "etc"),
            "_SYSTEMCTL_SKIP_REDIRECT": "1",
        }
        run(*becoming(), "mkdir", directory / "etc", directory / "data")

    def setup(self, command: str, name: str = "", *options: object) -> subprocess.CompletedProcess[str]:
        """Run the script on that machine."""
        machine = ("--version", self.version, "--cluster", name, "--port", self.ports[name])
        new = ["--", "-d", self.directory / "data" / name, "-s", self.directory, "-l", self.directory / f"{name}.log"]
        new += ["-u", "nobody"] if os.geteuid() == 0 else []
        words = [SCRIPT, command, *machine, *options, *new]
        return subprocess.run(
            list(map(str, words)), env=self._environment, capture_output=True, text=True, timeout=120, check=False
        )

    def must(self, command: str, name: str, *options: object) -> str:
        """What the script said; AssertionError if it failed."""
        done = self.setup(command, name, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def configuration(self, name: str) -> Path:
        """The directory of a server's configuration."""
        return self.directory / "etc" / self.version / name

    def control(self, name: str, *words: str) -> None:
        """Start or stop a server."""
        command = [*becoming(), "pg_ctlcluster", self.version, name, *words]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=60)

    def address(self, name: str) -> str:
        """Where a server is, as the other one names it."""
        return f"127.0.0.1:{self.ports[name]}"


@pytest.fixture
def machines() -> Iterator[Machines]:
    need("pg_createcluster", "pg_ctlcluster", "openssl", root=False)
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-cluster-", dir=in_memory()) as name:
        directory = Path(name)
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody")
        directory.chmod(0o755)
        machines = Machines(directory)
        yield machines
        for each in machines.ports:
            if machines.configuration(each).exists():
                stop = [*becoming(), "pg_ctlcluster", machines.version, each, "stop", "-m", "immediate"]
                subprocess.run(stop, env=machines._environment, capture_output=True, timeout=60, check=False)


def test_two_servers_are_set_up_and_take_over_from_each_other(
    machines: Machines, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("--address", "127.0.0.1")
    said = machines.must("primary", "one", *here)
    password = next(line for line in said.splitlines() if line.startswith("*:*:lightning:lightning_backup:"))
    follow = ("standby", "two", *here, "--primary", machines.address("one"), "--passwords", tmp_path / "replication")
    (tmp_path / "replication").write_text(f"{password}\n")
    refused = machines.setup(*follow)
    assert refused.returncode == 1
    assert "does not hold the line" in refused.stderr
    line = next(line for line in said.splitlines() if line.startswith("*:*:*:lightning_replication:"))
    (tmp_path / "replication").write_text(f"{line}\n")
    machines.must(*follow)
    wait_until(lambda: machines.must("status", "one") == "the primary; 1 synchronous standby\n", "a standby")
    assert machines.must("status", "two") == "a standby, streaming\n"

    # The node, which checks the servers' certificates.
    (tmp_path / "pgpass").write_text(f"{password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    trusted = tmp_path / "servers.crt"
    trusted.write_text("".join((machines.configuration(name) / "server.crt").read_text() for name in machines.ports))
    world = Elsewhere(tmp_path)
    hosts = ",".join(map(machines.address, machines.ports))
    world.place = f"postgres://lightning_backup@{hosts}/lightning?sslmode=verify-full&sslrootcert={trusted}"
    world.init()
    with world.node() as node:
        node.play([history.first(), *history.notes(5)])
        refused = machines.setup("promote", "two")
        assert refused.returncode == 1
        assert "the primary is alive" in refused.stderr
        machines.control("one", "stop", "-m", "immediate")
        assert "is the primary now" in machines.must("promote", "two")
        assert "follows" in machines.must("rejoin", "one", *here, "--primary", machines.address("two"))
        node.play(history.notes(5))
        assert machines.must("status", "one") == "a standby, streaming\n"
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()
    assert (machines.directory / "data" / "one.old").exists()


def test_server_is_closed_without_tls_and_password(machines: Machines) -> None:
    """Nobody gets in without TLS and a password, and nobody but the role gets into the database."""
    machines.must("primary", "one", "--address", "127.0.0.1")
    port = str(machines.ports["one"])
    for user, words in (("lightning_backup", "sslmode=disable"), ("lightning_backup", ""), ("postgres", "")):
        where = f"host=127.0.0.1 port={port} user={user} dbname=lightning {words}"
        tried = subprocess.run(
            [programs() / "psql", "-w", "-c", "SELECT 1", "-d", where],
            env={**os.environ, "PGPASSFILE": "/dev/null"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert tried.returncode != 0
        assert "no pg_hba.conf entry" in tried.stderr or "no password supplied" in tried.stderr


@pytest.mark.parametrize("words", [("primary",), ("standby", "--address", "a"), ("primary", "--speed", "9"), ()])
def test_incomplete_command_is_refused_and_changes_nothing(words: tuple[str, ...]) -> None:
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "needs --" in done.stderr or "no option" in done.stderr or "setup.sh primary" in done.stdout


def test_script_passes_shellcheck() -> None:
    need("shellcheck", root=False)
    subprocess.run(["shellcheck", SCRIPT], check=True, timeout=60)
