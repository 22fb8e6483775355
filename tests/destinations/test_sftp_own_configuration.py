"""What a person has in ~/.ssh/config for their own log-ins does not get in the way of the backup, nor use its key."""

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends import place_at
from tests.destinations.sftp_servers import OpenSsh, running

SFTP_SERVER = "/usr/lib/openssh/sftp-server"

_RELAY = Path(__file__).with_name("sftp_relay.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenSsh]:
    """A server of this test's own, which notes what each session has in its environment."""
    session = tmp_path / "session"
    session.write_text(f"#!/bin/sh\nenv > {tmp_path}/session_environment\nexec {SFTP_SERVER}\n")
    session.chmod(0o700)
    with running(OpenSsh(tmp_path, subsystem=str(session))) as server:
        yield server


def test_backup_does_nothing_else_that_a_person_wants_from_each_log_in(
    server: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket()) as taken, closing(socket.socket(socket.AF_UNIX)) as agent:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        wanted = [
            "ForwardAgent yes",
            "IdentityAgent none",
            "RemoteCommand echo logged in",
            "RequestTTY force",
            "PermitLocalCommand yes",
            f"LocalCommand touch {tmp_path}/local_command",
            f"LocalForward 127.0.0.1:{taken.getsockname()[1]} 127.0.0.1:1",
            "ExitOnForwardFailure yes",
        ]
        server.configure("\n    ".join(wanted))
        assert "fsync@openssh.com" in " ".join(place_at(server.url("lightning.bkp", timeout="10")).about())
    assert not (tmp_path / "local_command").exists()
    assert "SSH_AUTH_SOCK" not in (tmp_path / "session_environment").read_text()


def test_programs_that_ssh_starts_open_no_window_to_ask_for_a_passphrase(
    server: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump host is reached by another `ssh`, which does not get the options of the first one."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    environment = tmp_path / "proxy_environment"
    relay = f"{sys.executable} {_RELAY} {server.port} 0"
    server.configure(f"ProxyCommand sh -c 'env > {environment}; exec {relay}'")
    assert place_at(server.url("lightning.bkp", timeout="10")).about()
    lines = environment.read_text().splitlines()
    assert "SSH_ASKPASS_REQUIRE=never" in lines
    assert not any(line.startswith(("DISPLAY=", "WAYLAND_DISPLAY=")) for line in lines)
