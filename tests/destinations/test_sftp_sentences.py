"""What a person is told when an SFTP server cannot be used: what happened, and what to type."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends import place_at
from backends.errors import BackupError
from backends.storage.base import WriteHandle
from backends.storage.sftp.storage import SftpStorage
from backends.urls import BadURL
from tests.destinations.conftest import WorldAt
from tests.destinations.sftp_servers import OpenSsh, Proftpd, SftpServer, storage_at
from tests.destinations.tools import run
from tests.end_to_end.world import backup_cli, spawned
from tests.fake_lightningd import History, Refused
from tests.other_user import NAMELESS, as_user, only_root
from tests.small_disk import needs_small_disks, small_disk

SFTP_SERVER = "/usr/lib/openssh/sftp-server"

Make = Callable[..., SftpServer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes and starts a server of this test's own."""
    made: list[SftpServer] = []

    def start(what: type[SftpServer] = OpenSsh, **options: str) -> SftpServer:
        server = what(tmp_path, **options)
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.kill()


def said_by(url: str) -> str:
    """What `status` of a place that cannot be used says to a person."""
    with pytest.raises(BackupError) as caught:
        place_at(url).about()
    assert "Nothing that was saved is lost" in str(caught.value)
    assert str(caught.value).isascii()
    return str(caught.value)


# Logging in


def test_unknown_host_key_is_refused_with_what_to_type(make: Make) -> None:
    server = make()
    server.known.write_text("")
    said = said_by(server.url("lightning.bkp"))
    assert "is not known to this user" in said
    assert f"ssh -F {server.config} -p {server.port} {server.user}@127.0.0.1" in said


def test_unknown_host_key_is_never_asked_about(make: Make) -> None:
    server = make()
    server.known.write_text("")
    server.config.write_text(server.config.read_text().replace("Checking yes", "Checking ask"))
    assert "is not known to this user" in said_by(server.url("lightning.bkp"))


def test_changed_host_key_is_refused_with_a_warning(make: Make, tmp_path: Path) -> None:
    server = make()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    server.known.write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'other.pub').read_text()}")
    said = said_by(server.url("lightning.bkp"))
    assert "another host key than before" in said
    assert "only if the new key is right" in said


def test_refused_key_says_how_to_tell_the_server(make: Make, tmp_path: Path) -> None:
    server = make()
    (tmp_path / "user.pub").write_text("")
    said = said_by(server.url("lightning.bkp"))
    assert "accepts no key of this user" in said
    assert "ssh-copy-id -F" in said


def test_key_with_passphrase_is_not_asked_for(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make()
    run("ssh-keygen", "-q", "-p", "-N", "secret", "-f", tmp_path / "user")
    asked = tmp_path / "asked"
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n")
    ask.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    said = said_by(server.url("lightning.bkp"))
    assert "would accept the key" in said
    assert "passphrase" in said
    assert not asked.exists()


def test_key_that_is_known_but_not_let_in_blames_the_account(make: Make) -> None:
    server = make(Proftpd)
    accounts = server.directory / "passwd"
    accounts.write_text(accounts.read_text().replace("/bin/sh", "/nonexistent"))
    said = said_by(server.url("lightning.bkp"))
    assert "does not let this account in" in said, said


def test_server_without_sftp_says_which_line_it_needs(make: Make) -> None:
    assert "Subsystem sftp internal-sftp" in said_by(make(subsystem="").url("lightning.bkp"))


def test_shell_that_prints_text_is_blamed(make: Make) -> None:
    said = said_by(make(subsystem="echo This account is not available.").url("lightning.bkp"))
    assert "(This account is not available.)" in said
    assert "no shell" in said


def test_nobody_listening_is_told_from_no_answer(make: Make) -> None:
    server = make()
    server.kill()
    said = said_by(server.url("lightning.bkp"))
    assert "nothing accepts SSH connections at 127.0.0.1" in said
    assert said.count("ssh:") == 1


def test_silent_server_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make()
    server.kill()
    with closing(socket.create_server(("127.0.0.1", server.port))):
        said = said_by(server.url("lightning.bkp", timeout="5"))
    assert "not answered in time" in said or "does not answer" in said


def test_name_that_does_not_resolve_is_named() -> None:
    said = said_by("sftp://no-such-host.invalid/srv/lightning.bkp")
    assert "the name of the server no-such-host.invalid cannot be resolved" in said
    assert said.count("ssh:") == 1


def test_missing_ssh_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "apt-get install openssh-client" in said_by("sftp://nowhere.invalid/srv/lightning.bkp")


def test_what_to_type_can_be_pasted_into_a_shell() -> None:
    address = storage_at("sftp://me@nas:2222/srv/l.bkp?config=/home/me/my%20keys/config")._address
    assert address.typed() == "ssh -F '/home/me/my keys/config' -p 2222 me@nas"


@only_root
def test_user_without_a_name_is_told_that_ssh_needs_one() -> None:
    """As in many containers. What could be typed by hand fails in the same way."""
    status = "from backup_cli.main import main; main(['status', 'sftp://127.0.0.1:1/srv/lightning.bkp?timeout=10'])"
    said = spawned(*as_user(NAMELESS), sys.executable, "-c", status)
    assert said.code == 1, said
    assert f"ssh works only for a user who has a name on this machine, and {NAMELESS} has none" in said.err
    assert "by hand" not in said.err


def test_broken_configuration_of_ssh_is_blamed(make: Make) -> None:
    server = make()
    server.config.write_text("Nonsense yes\n")
    assert "refuses its own configuration" in said_by(server.url("lightning.bkp"))


def test_what_a_server_prints_cannot_deceive_a_terminal(make: Make, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nprintf '\\033[2J\\033[1mall is well'\n")
    script.chmod(0o755)
    said = said_by(make(subsystem=str(script)).url("lightning.bkp"))
    assert "\x1b" not in said
    assert "\\x1b" in said


# What the server lacks


@pytest.mark.parametrize(
    ("what", "options"),
    [
        (OpenSsh, {"subsystem": "internal-sftp -P fsync"}),
        (Proftpd, {"more": "SFTPExtensions -fsync"}),
    ],
    ids=["openssh", "proftpd"],
)
def test_server_without_fsync_is_refused_and_nothing_is_written(
    what: type[SftpServer], options: dict[str, str], make: Make, world_at: WorldAt
) -> None:
    server = make(what, **options)
    world = world_at(server.url("lightning.bkp"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "lacks fsync@openssh.com" in said.text
    assert "OpenSSH has it since version 6.5" in said.text
    assert list(server.served.iterdir()) == []
    with pytest.raises(OSError, match="lacks fsync"):
        storage_at(world.url).make()


def test_server_without_posix_rename_is_refused(make: Make) -> None:
    server = make(subsystem="internal-sftp -P posix-rename")
    with pytest.raises(BackupError, match="lacks posix-rename@openssh"):
        place_at(server.url("lightning.bkp")).check_writable()


def writer_on(server: SftpServer) -> tuple[SftpStorage, WriteHandle]:
    storage = storage_at(server.url("lightning.bkp"))
    storage.make()
    handle = storage.create("a.tmp")
    handle.extend(0, 4096)
    return storage, handle


@pytest.mark.parametrize(
    ("what", "options"),
    [
        (OpenSsh, {"subsystem": "internal-sftp -P hardlink"}),
        (Proftpd, {"more": "SFTPExtensions -hardlink"}),
    ],
    ids=["openssh", "proftpd"],
)
def test_server_without_hard_links_works_until_a_connection_breaks(
    what: type[SftpServer], options: dict[str, str], make: Make, tmp_path: Path
) -> None:
    server = make(what, **options)
    storage, handle = writer_on(server)
    assert "no hard links" in " ".join(place_at(server.url("lightning.bkp")).warnings(tmp_path))
    storage.rename_new("a.tmp", "segment-1")
    storage.create("b.tmp").close()
    with pytest.raises(FileExistsError):
        storage.rename_new("b.tmp", "segment-1")
    handle.write_durably(0, b"one")
    handle.write_durably(3, b"two")
    server.drop_sessions()
    with pytest.raises(OSError, match="no hard links"):
        handle.write_durably(6, b"three")
    assert storage.read_small("segment-1").rstrip(b"\0") == b"onetwo"


@needs_small_disks
def test_full_disk_of_the_server_is_named(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    with small_disk(place, 4 << 20):
        server = OpenSsh(place)
        server.start()
        try:
            storage, handle = writer_on(server)
            with pytest.raises(OSError, match="the server's disk is full"):
                handle.extend(4096, 8 << 20)
            with pytest.raises(OSError, match="the server's disk is full"):
                storage.create("c.tmp").write(0, bytes(8 << 20))
        finally:
            server.kill()


def test_account_without_permission_is_named_not_this_machines_user(make: Make) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    server = make()
    server.served.chmod(0o500)
    with pytest.raises(OSError, match=r"the account on 127\.0\.0\.1"):
        storage_at(server.url("lightning.bkp")).make()


def test_init_without_permission_names_the_account_not_this_machines_user(make: Make, world_at: WorldAt) -> None:
    server = make(subsystem="internal-sftp -P mkdir")
    world = world_at(server.url("lightning.bkp"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "the account on 127.0.0.1" in said.err and "has no permission there" in said.err
    assert "have root create" not in said.err


# A node


def test_node_whose_key_is_refused_is_told_in_its_log(make: Make, world_at: WorldAt, history: History) -> None:
    server = make()
    world = world_at(server.url("lightning.bkp")).init()
    (server.directory / "user.pub").write_text("")
    with pytest.raises(Refused, match="accepts no key of this user"), world.node() as node:
        node.db_write(history.first())


def test_external_sftp_server_behind_a_shell_serves_as_well(make: Make) -> None:
    storage = storage_at(make(subsystem=SFTP_SERVER).url("lightning.bkp"))
    storage.make()
    storage.publish("manifest", b"all")
    assert storage.read_small("manifest") == b"all"


# URLs


def test_relative_path_begins_at_the_login_directory(make: Make, tmp_path: Path) -> None:
    home = tmp_path / "served"
    server = make(subsystem=f"internal-sftp -d {home}")
    storage = storage_at(server.url("x").replace(f"{home}/x", "/~/lightning.bkp"))
    storage.make()
    storage.publish("manifest", b"all")
    assert (home / "lightning.bkp" / "manifest").read_bytes() == b"all"
    assert storage.describe().endswith("/~/lightning.bkp")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://me:secret@host/srv/lightning.bkp?colour=red", "a password in the URL"),
        ("sftp://me:secret@host/srv/lightning.bkp", "a password in the URL"),
        ("sftp:///srv/lightning.bkp", "cannot be an account"),
        ("sftp://-oProxyCommand=evil/srv/lightning.bkp", "cannot be an account"),
        ("sftp://-l@host/srv/lightning.bkp", "cannot be an account"),
        ("sftp://a%20b@host/srv/lightning.bkp", "cannot be an account"),
        ("sftp://host:99999/srv/lightning.bkp", "is no port"),
        ("sftp://host/", "names no directory"),
        ("sftp://host/srv/../etc/lightning.bkp", "names no directory"),
        ("sftp://host/srv/lightning.bkp?port=22", "there is no option"),
        ("sftp://host/srv/lightning.bkp?config=ssh_config", "the whole path"),
        ("sftp://host/srv/lightning.bkp?timeout=1", "between 5 and 3600"),
    ],
)
def test_url_that_cannot_name_an_account_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadURL, match=said):
        place_at(url)


def test_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(BadURL) as caught:
        place_at("sftp://me:secret@host/srv/lightning.bkp?colour=red")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("sftp://nas/srv/l.bkp", ["--", "nas"]),
        ("sftp://me@[fd00::1]:2222/srv/l.bkp", ["-p", "2222", "-l", "me", "--", "fd00::1"]),
        ("sftp://nas/srv/l.bkp?config=/etc/x", ["-F", "/etc/x", "--", "nas"]),
    ],
)
def test_account_of_a_url_is_given_to_ssh(url: str, arguments: list[str]) -> None:
    storage = storage_at(url)
    assert storage._address.arguments() == arguments
    assert storage.describe() == url.partition("?")[0]
