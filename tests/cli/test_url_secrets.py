"""A URL that was mistyped may hold a password: no error repeats it, whatever is wrong with the URL."""

import pytest

from backends import place_at
from backends.errors import BackupError
from backends.members.urls import split_trailing
from backends.near_miss import without_secrets
from backends.urls import parse_url

SECRET = "hunter2"

WRONG = [
    # A value of an option that does not exist
    f"postgres://db.local/lightning?password={SECRET}",
    f"postgres://db.local?password={SECRET}",
    f"postgres://db.local/?password={SECRET}",
    f"postgres://db.local/a/b/c?schema=x&pass={SECRET}&timeout=9",
    f"postgres://db.local,,/x?password={SECRET}",
    f"s3://bucket/x?session={SECRET}",
    f"s3://bucket?secret={SECRET}",
    f"s3://b/x?pw={SECRET}",
    f"az://container/x?sas={SECRET}",
    f"gs://bucket/x?key={SECRET}",
    f"sftp://me@server/x?pass={SECRET}",
    f"sftp://me@server:x/y?pass={SECRET}",
    f"nfs://nas/export/x?user=me&pw={SECRET}",
    f"nfs:///mnt/nas/x?pw={SECRET}",
    f"usb://STICK/x?pin={SECRET}",
    f"file:///mnt/x?password={SECRET}",
    f"file:///mnt/x?timeout=1&password={SECRET}",
    f"smb://nas/share?password={SECRET}",
    f"ssh://server/x?pw={SECRET}",
    f"mnt/x?password={SECRET}",
    f"file:///mnt/x?password={SECRET}#y",
    # A user's password
    f"s3://key:{SECRET}@bucket/x",
    f"s3://bucket/x?endpoint=https://key:{SECRET}@minio",
    f"s3://bucket/x?endpoint=https%3A%2F%2Fkey%3A{SECRET}%40minio",
    f"s3://bucket/x?style=no&endpoint=https://key:{SECRET}@minio",
    f"nfs://me:{SECRET}@nas/export/x",
    f"file://me:{SECRET}@nas/x",
    f"usb://me:{SECRET}@stick/",
    f"sftp://me:{SECRET}@server/x",
    f"postgres://me:{SECRET}@db.local/lightning",
    f"postgres://me%3A{SECRET}@db.local",
    f"postgres://me:a/{SECRET}@db.local/lightning",
    f"sftp://me:a?{SECRET}@server/x",
    f"s3://me:a#{SECRET}@bucket/x",
    f"nfs://me:{SECRET}@nas\u2100/x",
    f"https://me:{SECRET}@s3.example.org/bucket",
    f"ftp://me:{SECRET}@server/x",
]


@pytest.mark.parametrize("url", WRONG)
def test_error_about_a_url_repeats_nothing_that_may_be_a_password(url: str) -> None:
    with pytest.raises(BackupError) as caught:
        place_at(url)
    assert SECRET not in str(caught.value)


def test_mark_that_has_a_value_is_refused_without_the_rest() -> None:
    with pytest.raises(BackupError, match="trailing has no value") as caught:
        split_trailing(f"s3://bucket/x?pw={SECRET}&trailing=no")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///mnt/nas/lightning.bkp?timeout=30&ephemeral=accepted",
        "sftp://me@server.example:2222/srv/a@b/lightning.bkp",
        "nfs://[fd00::1]:2049/export/a@b/x?uid=7&gid=8",
        "postgres://backup@db1.local:5433,db2.local/lightning?schema=x&single-server&sslmode=verify-full",
        "postgres://db1.local:5433,db2.local:5432/lightning/a@b",
        "s3://bucket/a@b/x?endpoint=http://127.0.0.1:9000&region=eu-1&style=path&profile=backup",
        "az://container/x?account=me",
    ],
)
def test_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert without_secrets(url) == url
    assert parse_url(url).shown == str(parse_url(url))


def test_unknown_option_is_still_named() -> None:
    with pytest.raises(BackupError, match=r"s3://bucket/x\?regoin=\.\.\.: there is no option 'regoin'; the "):
        place_at("s3://bucket/x?regoin=eu")
