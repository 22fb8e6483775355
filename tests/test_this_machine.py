"""Which servers are this machine: for a warning about the way there, and for one about where the backup is."""

import socket

import pytest

from backends.near_miss import of_a_file_with_host
from backends.this_machine import is_this_machine, stays_here
from backends.urls import parse_url


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.8.9.1",
        "::1",
        "[::1]",
        "0:0:0:0:0:0:0:1",
        "[::ffff:127.0.0.1]",
        "/run/postgresql",
    ],
)
def test_loopback_and_socket_are_this_machine_and_nobody_is_on_the_way(host: str) -> None:
    assert stays_here(host)
    assert is_this_machine(host)


def test_own_name_is_this_machine_but_a_name_server_says_which_way_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Node1.example.org")
    for own in ("node1.example.org", "NODE1"):
        assert is_this_machine(own)
        assert not stays_here(own)


@pytest.mark.parametrize(
    "host",
    ["", "nas", "127.example.org", "localhost.example.org", "10.127.0.1", "[fd00::1]", "::ffff:10.0.0.1", "0.0.0.0"],
)
def test_name_that_only_looks_like_the_loopback_is_another_machine(host: str) -> None:
    assert not stays_here(host)
    assert not is_this_machine(host)


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("file:///mnt/x.bkp", "/mnt/x.bkp"),
        ("file://localhost/mnt/x.bkp", "/mnt/x.bkp"),
        ("nfs:///mnt/x.bkp", "/mnt/x.bkp"),
        ("nfs://localhost/mnt/x.bkp", None),  # an export of the server that runs here
        ("nfs://nas/mnt/x.bkp", None),
        ("usb://STICK/x.bkp", None),
        ("sftp://localhost/x.bkp", None),
        ("s3://bucket/x.bkp", None),
    ],
)
def test_url_names_a_directory_of_this_machine_or_none(url: str, directory: str | None) -> None:
    found = parse_url(url).directory
    assert (None if found is None else str(found)) == directory
    assert parse_url(url).is_mounted == (directory is not None or url.startswith("usb"))


def test_file_url_with_this_machine_as_its_host_is_proposed_without_it() -> None:
    for host in (socket.gethostname().upper(), "127.0.0.1", "127.0.1.1", "[::1]", "."):
        assert of_a_file_with_host(host, "/mnt/x.bkp") == "file:///mnt/x.bkp"
    assert of_a_file_with_host("mnt", "/x.bkp") == "file:///mnt/x.bkp"
