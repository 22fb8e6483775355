"""Where a bucket is and as whom it is used: from files and environments as people have them; what is said otherwise."""

import builtins
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from backends import place_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.storage.objects.store import Exists
from backends.storage.s3.bucket import bucket_of
from backends.storage.s3.client import Clients
from backends.storage.s3.credentials import credentials_for
from backends.storage.s3.faults import answer_of, error_of
from backends.urls import BadURL, parse_url
from tests.destinations.buckets import Proxied, store_at
from tests.destinations.conftest import WorldAt
from tests.destinations.fault_proxy import Treatment, status
from tests.destinations.places import Places
from tests.destinations.radosgw import KEYS
from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History

URL = "s3://bucket/lightning.bkp"
SECRET = "a/secret+that%is-never&shown"


@pytest.fixture
def home(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of a user who has neither keys nor roles."""
    assert places.radosgw, "it changes the environment when it starts"
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path


def profile(home: Path, text: str, file: str = "credentials") -> None:
    (home / ".aws" / file).write_text(text)


def known(url: str = URL) -> Any:
    return credentials_for(bucket_of(parse_url(url)))


KEY_LINES = f"aws_access_key_id = AKIDOFPROFILE\naws_secret_access_key = {SECRET}\n"


def test_keys_are_those_of_the_default_profile(home: Path) -> None:
    profile(home, f"[default]\n{KEY_LINES}aws_session_token = tok\n[other]\naws_access_key_id = x\n")
    profile(home, "[default]\nregion = eu-central-1\nendpoint_url = https://s3.example.org/\n", "config")
    found = known()
    assert (found.key_id, found.secret, found.token) == ("AKIDOFPROFILE", SECRET, "tok")
    assert (found.region, found.endpoint) == ("eu-central-1", "https://s3.example.org/")
    assert found.describe() == f"the profile default in {home}/.aws/credentials (access key AKIDOFPR...)"
    assert SECRET not in repr(found)


def test_keys_in_the_environment_come_before_the_default_profile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(home, f"[default]\n{KEY_LINES}[backup]\n{KEY_LINES.replace('PROFILE', 'BACKUP')}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_PROFILE", "backup")
    assert known().key_id == "AKIDOFENVIRONMENT"
    assert known(f"{URL}?profile=backup").key_id == "AKIDOFBACKUP", "what the URL names comes first"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert known().key_id == "AKIDOFBACKUP"


def test_files_are_where_the_environment_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "elsewhere").write_text(f"[default]\n{KEY_LINES}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "elsewhere"))
    assert known().key_id == "AKIDOFPROFILE"


def test_keys_in_the_config_file_are_found(home: Path) -> None:
    profile(home, f"[profile backup]\n{KEY_LINES}", "config")
    assert known(f"{URL}?profile=backup").key_id == "AKIDOFPROFILE"


def test_role_of_the_machine_is_left_to_the_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known().describe() == "the role of this machine or container"
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token")
    profile(home, f"[default]\n{KEY_LINES}")
    assert known().key_id == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[other]\nx = y\n", "no profile 'backup' in"),
        ("[backup]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n", "are not supported"),
        ("[backup]\ncredential_process = /bin/keys\n", "are not supported"),
        (f"aws_secret_access_key = {SECRET}\n[backup]\n", "cannot be understood"),
        (f"[backup]\n{SECRET}\n", "cannot be understood"),
    ],
)
def test_profile_that_cannot_be_used_is_refused_without_its_secret(home: Path, text: str, said: str) -> None:
    profile(home, text)
    with pytest.raises(BackupError, match=said) as caught:
        known(f"{URL}?profile=backup")
    assert "Nothing was changed" in str(caught.value)
    shown = traceback.format_exception(caught.value)
    assert SECRET not in "".join(shown)


def test_keys_that_were_exchanged_while_the_node_runs_are_read_again(home: Path, bucket: Proxied) -> None:
    old = "[default]\naws_access_key_id = AKIDOLD\naws_secret_access_key = gone\n"
    profile(home, old)
    store = store_at(bucket.url)
    with pytest.raises(OSError, match="does not know the access key of the profile default"):
        store.create("it", b"1")
    profile(home, f"[default]\naws_access_key_id = {KEYS.key_id}\naws_secret_access_key = {KEYS.secret}\n")
    store.create("it", b"1")


def test_secret_is_in_no_file_of_the_node(places: Places, world_at: WorldAt) -> None:
    world = world_at(places.url("s3")).init()
    for path in world.directory.iterdir():
        assert KEYS.secret.encode() not in path.read_bytes(), path
        assert KEYS.key_id.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_lock_file_holds_where_the_environment_said_the_bucket_is(
    places: Places, world_at: WorldAt, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The environment of the node's service is another one, and in a year nobody knows it."""
    url = places.url("s3")
    monkeypatch.setenv(name, places.radosgw.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    world = world_at(url.partition("?")[0]).init()
    lasting = (world.directory / "backup.lock").read_text()
    assert f"?endpoint={places.radosgw.endpoint}&region=eu-west-3" in lasting


def test_member_added_while_the_node_runs_is_remembered_with_what_the_environment_said(
    places: Places, world_at: WorldAt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = places.url("s3")
    world = world_at((tmp_path / "lightning.bkp").as_uri()).init()
    monkeypatch.setenv("AWS_ENDPOINT_URL", places.radosgw.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    history = History()
    with world.node() as node:
        node.play([history.first(), *history.notes(2)])
        for number in (1, 2):  # the first makes one destination several
            node.rpc("backup-member-add", {"url": f"{url.partition('?')[0]}-{number}?trailing"})
    lasting = (world.directory / "backup.lock").read_text()
    assert lasting.count("&region=eu-west-3") == lasting.count("?endpoint=http") == 2, lasting
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    with world.node() as node:
        node.play(history.notes(2))
        assert not said_at(node, "broken"), node.logs


# URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"s3://AKID:{SECRET[:8]}@bucket/x", "contains a key or a password"),
        ("s3://key@bucket/x", "contains a key or a password"),
        ("s3://bucket/x?secret_access_key=abc", "contains a key or a password"),
        ("az://container/x?sig=abc", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("s3://bucket/", "names a whole bucket"),
        ("s3://b/x", "not the name of a bucket"),
        ("s3://bucket/a/../b", "letters, digits"),
        ("s3://bucket/a b", "letters, digits"),
        ("s3://bucket/x?style=virtual", "style=path or style=host"),
        ("s3://bucket/x?endpoint=minio:9000", "is not like https://"),
        ("s3://bucket/x?endpoint=https://key:pw@minio", "is not like https://"),
        ("s3://bucket/x?regoin=eu", "no option 'regoin'"),
        ("gs://bucket/x?endpoint=https://x", "no option 'endpoint'"),
        ("s3://bucket/x?timeout=1", "between 5 and 3600"),
    ],
)
def test_url_that_names_no_place_for_a_backup_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadURL, match=said) as caught:
        place_at(url)
    assert SECRET[:8] not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoint", "region", "style"),
    [
        (URL, "", "us-east-1", "host"),
        ("s3://with.dots/x?region=eu-west-1", "", "eu-west-1", "path"),
        (f"{URL}?endpoint=https://s3.example.org/", "https://s3.example.org", "us-east-1", "path"),
        (f"{URL}?endpoint=https://s3.example.org&style=host", "https://s3.example.org", "us-east-1", "host"),
    ],
)
@pytest.mark.usefixtures("home")
def test_bucket_is_reached_by_path_or_by_host(url: str, endpoint: str, region: str, style: str) -> None:
    reached, _ = Clients(bucket_of(parse_url(url))).reach
    assert (reached.endpoint, reached.region, reached.style) == (endpoint, region, style)


@pytest.mark.usefixtures("home")
def test_bucket_is_part_of_the_host_name_if_the_url_says_so() -> None:
    store = Clients(bucket_of(parse_url(f"{URL}?endpoint=https://s3.example.org:9000&style=host"))).attempt(0, 0, 60)
    assert "https://bucket.s3.example.org:9000" in str(store._store.config)  # type: ignore[union-attr]


def test_environment_for_other_programs_takes_nothing_away_from_what_a_backup_needs(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = store_at(places.url("s3"))
    store.create("backup", b"made")
    with pytest.raises(Exists):
        store.create("backup", b"made by another one")


# Sentences


SAID = {
    (403, "SignatureDoesNotMatch"): "the secret key does not belong to the access key of the profile default",
    (403, "AccessDenied"): "it needs to list the bucket, and to get, put and delete objects",
    (403, "RequestTimeTooSkewed"): "set the clock",
    (400, "ExpiredToken"): "the session token of the profile default",
    (404, "NoSuchBucket"): "there is no bucket bucket-",
    (301, "PermanentRedirect"): "is in another region",
    (400, "AuthorizationHeaderMalformed"): "is in another region",
    (403, "QuotaExceeded"): "quota",
    (507, "XMinioStorageFull"): "the store is full",
    (501, "NotImplemented"): "does not have a function",
    (405, "MethodNotAllowed"): "it answered 405 MethodNotAllowed",
}


@pytest.mark.parametrize(("number", "code"), SAID, ids=[code for _, code in SAID])
def test_refusal_is_said_in_a_sentence(bucket: Proxied, number: int, code: str) -> None:
    bucket.always(Treatment(times=0, answer=status(number, code)))
    with pytest.raises(BackupError, match=SAID[number, code]) as caught:
        Backup(place_at(bucket.url)).check_new()
    said = str(caught.value)
    assert "Nothing that was saved is lost" in said
    assert KEYS.secret not in said and "<Code>" not in said and "Debug" not in said
    assert len(bucket.asked()) < 4, "a refusal is not asked for again"


def test_region_that_the_store_names_is_said() -> None:
    """Amazon's own answer to a request that is signed for another region."""
    text = (
        "Generic S3 error: Server returned non-2xx status code: 400 Bad Request: <Error>"
        "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    )
    bucket = bucket_of(parse_url(URL))
    assert "another region (the store says: region=eu-west-1)" in str(
        error_of(answer_of(Exception(text)), bucket, "somebody", 0)
    )


def test_missing_credentials_are_said_where_they_belong(home: Path, bucket: Proxied) -> None:
    """The library then asks a machine that is not there for the role of this one."""
    with pytest.raises(BackupError, match=r"no credentials were found: put them into ~/.aws/credentials of the user"):
        place_at(bucket.url).check_writable()


def test_real_refusals_are_said(places: Places, bucket: Proxied, home: Path) -> None:
    profile(home, f"[default]\naws_access_key_id = {KEYS.key_id}\naws_secret_access_key = wrong\n")
    with pytest.raises(BackupError, match=r"secret key does not belong .*AKIDRADO\.\.\."):
        place_at(bucket.url).check_writable()
    profile(home, f"[default]\naws_access_key_id = {KEYS.key_id}\naws_secret_access_key = {KEYS.secret}\n")
    url = places.radosgw.url("no-such-bucket", "x")
    with pytest.raises(BackupError, match="there is no bucket no-such-bucket there: create it first"):
        place_at(url).check_present()


def test_full_bucket_is_said_when_a_backup_is_made(places: Places, world_at: WorldAt) -> None:
    server = places.radosgw
    name = server.bucket()
    server.admin("quota", "set", "--quota-scope=bucket", "--uid=tester", f"--bucket={name}", "--max-objects=5")
    server.admin("quota", "enable", "--quota-scope=bucket", "--uid=tester", f"--bucket={name}")
    world = world_at(server.url(name, "lightning.bkp"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "quota" in said.err
    assert not (world.directory / "backup.lock").exists()


def test_missing_library_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *rest, **named)

    for name in [name for name in sys.modules if name.startswith(("backends.storage.s3", "backends.places.s3"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackupError, match=r"pip install --require-hashes .* -r requirements-s3\.lock"):
        place_at(URL)


def test_library_is_imported_only_for_a_url_of_a_bucket() -> None:
    code = (
        "import sys, plugin.main, backup_cli.main; from backends import place_at; place_at('file:///x/y'); "
        "sys.exit(any(name.startswith(('obstore', 'backends.storage.s3', 'backends.places.s3'))"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
