"""Whether two URLs name the same place, and what one failure would take from both; for servers, by the URLs alone."""

import socket
from pathlib import Path

import pytest

from backends.members.where import local_path, mount_point, place_warnings, same_place, share_a_fate
from backends.places.base import Place
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

S3 = "s3://vault/node"
AT = "?endpoint=https%3A%2F%2Fs3.example"

SAME = [
    ("sftp://nas/b.bkp", "sftp://nas/b.bkp"),
    ("sftp://nas/b.bkp", "sftp://NAS:22/b.bkp?timeout=9"),
    ("sftp://me@nas/b.bkp", "sftp://nas/b.bkp"),
    ("sftp://me@nas/b.bkp", "sftp://you@nas/b.bkp"),  # unless both are shut into directories of their own
    ("sftp://me@nas/~/b.bkp", "sftp://nas/~/b.bkp"),
    ("sftp://[fd00::1]:22/b.bkp", "sftp://[fd00::1]/b.bkp"),
    (S3, S3),
    (S3, "s3://vault/node/lightning.bkp"),  # its objects would be among the other's
    ("s3://vault/node/lightning.bkp", S3),
    (S3, "s3://vault/node?region=eu-1&profile=x"),
    (f"{S3}{AT}", f"{S3}?endpoint=https://S3.example:443/"),
    ("gs://vault/node", "gs://vault/node/"),
    ("postgres://db1,db2/lightning", "postgres://db2:5432,db1/lightning"),
    ("postgres://me@db1/lightning", "postgres://you@db1,db3/lightning"),
    ("postgres://db1/lightning?schema=a", "postgres://db1/lightning?timeout=9&schema=a"),
    ("postgres://db1/lightning", "postgres://db1/lightning?schema=lightning_backup&single-server"),
]

DIFFERENT = [
    ("sftp://nas/b.bkp", "sftp://nas/c.bkp"),
    ("sftp://nas/b.bkp", "sftp://nas2/b.bkp"),
    ("sftp://nas:22/b.bkp", "sftp://nas:2222/b.bkp"),
    ("sftp://me@nas/~/b.bkp", "sftp://you@nas/~/b.bkp"),
    ("sftp://nas/b.bkp", "nfs://nas/b.bkp"),
    (S3, "s3://vault/node2"),
    (S3, "s3://other/node"),
    (S3, f"{S3}{AT}"),
    (S3, "gs://vault/node"),
    ("az://vault/node?account=me", "az://vault/node?account=other"),
    ("postgres://db1/lightning", "postgres://db1/lightning2"),
    ("postgres://db1/lightning", "postgres://db1/lightning/second"),
    ("postgres://db1/lightning", "postgres://db1/lightning?schema=b"),
    ("postgres://db1/lightning", "postgres://db1:6432/lightning"),
    ("postgres://db1/lightning", "postgres://db2/lightning"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_urls_of_one_place_elsewhere_are_the_same(one: str, other: str) -> None:
    assert same_place(one, other)
    assert same_place(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_urls_of_two_places_elsewhere_are_different(one: str, other: str) -> None:
    assert not same_place(one, other)
    assert not same_place(other, one)


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("sftp://me@nas:2222/a.bkp", "sftp://you@NAS/b.bkp", "server nas"),
        ("nfs://nas.local/export/a.bkp", "sftp://me@nas.local/b.bkp", "server nas.local"),
        ("postgres://db1,nas/x", "sftp://nas/b.bkp", "server nas"),
        ("postgres://db1,db2/x", "postgres://db3,db2/y", "server db2"),
        (S3, "s3://vault/other", "bucket vault"),
        (f"{S3}{AT}", f"s3://other/node{AT}", "server s3.example"),
        (f"{S3}{AT}", "sftp://s3.example/b.bkp", "server s3.example"),
        ("usb://STICK/a.bkp", "usb://stick/b.bkp", "server stick"),
        (S3, "s3://other/node", None),
        (S3, f"{S3}{AT}", None),
        ("gs://vault/node", S3, None),
        ("az://vault/node?account=me", "az://vault/x?account=me", "bucket vault"),
        ("az://vault/node?account=me", "az://vault/x?account=other", None),
        ("sftp://nas/a.bkp", "sftp://friend/a.bkp", None),
        ("sftp://nas/a.bkp", "file:///nas/a.bkp", None),
        ("file:///nas/a.bkp", "s3://vault/node", None),
        ("postgres://db1/x", "s3://db1/node", None),  # a bucket's name is no server's
    ],
)
def test_what_two_places_elsewhere_have_in_common_is_named(one: str, other: str, what: str | None) -> None:
    assert share_a_fate(one, other) == what
    assert share_a_fate(other, one) == what


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("sftp://me@localhost/b.bkp", True),
        ("sftp://me@127.0.0.1:2222/b.bkp", True),
        ("sftp://[::1]/b.bkp", True),
        (f"sftp://{socket.gethostname().upper()}/b.bkp", True),
        ("nfs://127.0.0.1/export/b.bkp", True),
        ("postgres://127.0.0.1:5433,localhost/lightning", True),
        ("postgres://%2Frun%2Fpostgresql/lightning", True),
        (f"{S3}?endpoint=http://127.0.0.1:9000", True),
        (f"{S3}?endpoint=http://[::1]:9000", True),
        ("postgres://127.0.0.1:5433,db2/lightning", False),  # a server of the cluster is elsewhere
        ("sftp://nas/b.bkp", False),
        (S3, False),
        ("s3://localhost/node", False),  # a bucket's name
        ("usb://localhost/b.bkp", False),
    ],
)
def test_server_on_the_nodes_own_machine_is_warned_of(url: str, here: bool) -> None:
    found = place_warnings(url, Silent(), Path("/"))
    assert len(found) == here
    assert not here or "is reached at this machine's own address" in found[0]


class Silent(Place):
    """A place that has nothing to say of its own."""

    @property
    def storage(self) -> SimulatedStorage:
        return SimulatedStorage(SimulatedDisk())


@pytest.mark.parametrize("url", ["sftp://nas/b.bkp", S3, "gs://v/n", "az://c/n", "postgres://db1/x", "nfs://nas/e/b"])
def test_places_elsewhere_have_no_path_and_no_mount_here(url: str) -> None:
    assert local_path(url) is None
    assert mount_point(url) is None


def test_directories_of_this_machine_are_the_same_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    one, other = (tmp_path / "a" / "b.bkp").as_uri(), (tmp_path / "link" / "b.bkp").as_uri()
    assert same_place(one, other)
    assert not same_place(one, other + "2")
