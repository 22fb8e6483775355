"""The names that members get from their URLs, and the mark `trailing`."""

import pytest

from backends.log.format.members import MAX_MEMBERS, Member
from backends.members.urls import MAX_NAME, is_name, named, new_name, split_trailing
from backends.urls import BadURL, parse_url


@pytest.mark.parametrize(
    ("url", "without", "trails"),
    [
        ("file:///a/b.bkp", "file:///a/b.bkp", False),
        ("file:///a/b.bkp?trailing", "file:///a/b.bkp", True),
        ("file:///a/b.bkp?timeout=30", "file:///a/b.bkp?timeout=30", False),
        ("file:///a/b.bkp?timeout=30&trailing", "file:///a/b.bkp?timeout=30", True),
        ("file:///a/b.bkp?trailing&timeout=30", "file:///a/b.bkp?timeout=30", True),
        ("nfs://nas/export/b.bkp?uid=7&trailing&gid=8", "nfs://nas/export/b.bkp?uid=7&gid=8", True),
        ("file:///a/b.bkp?trailing&trailing", "file:///a/b.bkp", True),
        ("file:///a/trailing", "file:///a/trailing", False),
        ("file:///a/b.bkp?nottrailing", "file:///a/b.bkp?nottrailing", False),
        ("usb://STICK/trailing.bkp?trailing", "usb://STICK/trailing.bkp", True),
        ("", "", False),
    ],
)
def test_mark_trailing_is_split_from_the_url_and_nothing_else_changes(url: str, without: str, trails: bool) -> None:
    assert split_trailing(url) == (without, trails)


@pytest.mark.parametrize("value", ["no", "yes", "0", ""])
def test_mark_trailing_with_a_value_is_refused(value: str) -> None:
    with pytest.raises(BadURL, match="trailing has no value"):
        split_trailing(f"file:///a/b.bkp?timeout=30&trailing={value}")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file:///mnt/nas/lightning.bkp", "nas"),
        ("nfs:///mnt/nas/lightning.bkp", "nas"),
        ("nfs://localhost/mnt/nas/lightning.bkp", "nas"),
        ("nfs://192.168.1.5/export/lightning.bkp", "192-168-1-5"),
        ("nfs://nas.local:2049/export/lightning.bkp", "nas-local"),
        ("nfs://[fe80::1]/export/lightning.bkp", "fe80-1"),
        ("usb://STICK/lightning.bkp", "stick"),
        ("usb://3F2A-11B0/lightning.bkp", "3f2a-11b0"),
        ("usb://My%20Stick/lightning.bkp", "my-stick"),
        ("sftp://me@friend.example:2222/home/me/lightning.bkp", "friend-example"),
        ("sftp://me@[fd00::1]:2222/home/me/lightning.bkp", "fd00-1"),
        ("sftp://localhost/~/nas/lightning.bkp", "nas"),
        ("s3://my-bucket/lightning.bkp?endpoint=https://s3.example", "my-bucket"),
        ("gs://vault/node/lightning.bkp", "vault"),
        ("az://container/node", "container"),
        ("postgres://backup@db1.local:5432,db2.local/lightning?schema=x", "db1-local"),
        ("postgres://localhost/lightning", "lightning"),
        ("postgres://%2Frun%2Fpostgresql/lightning", "lightning"),
        ("file:///mnt/Große_Platte/lightning.bkp", "gro-e-platte"),
        ("file:///mnt/disk/backups", "backups"),
        ("file:///mnt/disk/backups/", "backups"),
        ("file:///lightning.bkp", "lightning"),
        ("file:///mnt/__/lightning.bkp", "member"),
        (f"file:///mnt/{'x' * 100}/lightning.bkp", "x" * (MAX_NAME - 3)),
        ("file:///mnt/%1b%5b31m/lightning.bkp", "31m"),
    ],
)
def test_name_is_the_part_of_the_url_that_tells_places_apart(url: str, name: str) -> None:
    assert new_name(url, ()) == name
    assert is_name(name)


def test_names_of_like_urls_are_numbered() -> None:
    urls = ["file:///a/nas/lightning.bkp", "nfs://nas/export/lightning.bkp?trailing", "file:///b/nas/lightning.bkp"]
    assert named(urls) == (
        Member("nas", "file:///a/nas/lightning.bkp"),
        Member("nas-2", "nfs://nas/export/lightning.bkp", True),
        Member("nas-3", "file:///b/nas/lightning.bkp"),
    )


def test_longest_names_of_all_members_can_be_typed() -> None:
    names = [member.name for member in named([f"file:///mnt/{'x' * 100}/lightning.bkp"] * MAX_MEMBERS)]
    assert all(map(is_name, names))
    assert len(set(names)) == MAX_MEMBERS


def test_number_of_a_name_is_not_one_that_another_url_gives() -> None:
    names = [member.name for member in named(f"file:///mnt/{name}/l.bkp" for name in ("nas-2", "nas", "nas", "nas-2"))]
    assert names == ["nas-2", "nas", "nas-3", "nas-2-2"]


@pytest.mark.parametrize("text", ["", "-", "a-", "-a", "a--b", "A", "a b", "a_b", "ä", "a/b", "x" * (MAX_NAME + 1)])
def test_text_that_cannot_be_typed_as_a_name_is_no_name(text: str) -> None:
    assert not is_name(text)


def test_url_that_names_no_destination_is_refused() -> None:
    with pytest.raises(BadURL):
        named(["file:///mnt/a/lightning.bkp", "/mnt/b/lightning.bkp"])


def test_more_members_than_a_document_holds_are_refused() -> None:
    with pytest.raises(BadURL, match=f"at most {MAX_MEMBERS} members"):
        named(f"file:///mnt/{number}/lightning.bkp" for number in range(MAX_MEMBERS + 1))


def test_url_without_the_mark_names_a_destination_that_can_be_parsed() -> None:
    url, _ = split_trailing("file:///mnt/a/lightning.bkp?trailing&timeout=60")
    assert parse_url(url).option("timeout", "") == "60"
