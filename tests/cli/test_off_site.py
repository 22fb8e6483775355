"""`backup-cli destinations` about the kinds that need no mount: what they need, and the names that are configured."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.storage.s3.bucket import bucket_of
from backends.storage.s3.credentials import credentials_for
from backends.urls import parse_url
from backup_cli import off_site as module
from backup_cli.off_site import MAX_CANDIDATES, OffSite, off_site
from tests.end_to_end.world import World, backup_cli

KEYS = "aws_access_key_id = AKIASECRET\naws_secret_access_key = hidden\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's home directory, wherever it is looked for."""
    entry = pwd.getpwuid(os.geteuid())
    fields = (*entry[:5], str(tmp_path), entry[6])
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(fields))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "PGSERVICEFILE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def kind(name: str) -> OffSite:
    (found,) = [each for each in off_site() if each.kind == name]
    return found


def urls(name: str) -> list[str]:
    return [candidate.url for candidate in kind(name).candidates]


def test_hosts_of_the_ssh_config_are_candidates_without_patterns_and_twice(home: Path) -> None:
    write(
        home / ".ssh" / "config",
        "Host nas friend.example\n  User me\nHOST=tor-box\nHost *\nHost !bad web-? nas\n#Host comment\n"
        'Match host other\nHost "quoted" \x1b[31mred a/b --option\n\tHost\ttabbed\n',
    )
    hosts = ["nas", "friend.example", "tor-box", "quoted", "tabbed"]
    assert urls("sftp") == [f"sftp://{host}/~/lightning.bkp" for host in hosts]


def test_a_large_ssh_config_gives_a_bounded_number_of_candidates(home: Path) -> None:
    write(home / ".ssh" / "config", "".join(f"Host h{number}\n" for number in range(100_000)))
    assert len(urls("sftp")) == MAX_CANDIDATES


def test_profiles_are_candidates_and_their_keys_are_not_read_out(home: Path, world: World) -> None:
    write(home / ".aws" / "credentials", f"[default]\n{KEYS}[backup]\n{KEYS}[-odd name]\n{KEYS}")
    write(home / ".aws" / "config", f"[profile backup]\nregion = eu-1\n[profile other]\n{KEYS}[sso-session x]\n")
    assert urls("s3") == [
        "s3://BUCKET/lightning.bkp",
        "s3://BUCKET/lightning.bkp?profile=backup",
        "s3://BUCKET/lightning.bkp?profile=other",
    ]
    said = backup_cli("destinations", "--lightning-dir", world.directory)
    assert said.code == 0
    assert "profile=backup" in said.out
    assert "AKIASECRET" not in said.text and "hidden" not in said.text


def test_every_profile_that_is_offered_can_be_used_and_no_other_is(home: Path) -> None:
    """One that gets its keys by a role or single sign-on was offered, and refused once it was typed."""
    write(home / ".aws" / "credentials", f"[good]\n{KEYS}[half]\naws_access_key_id = AKIASECRET\n[empty]\n")
    write(
        home / ".aws" / "config",
        f"[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = good\n[unprefixed]\n{KEYS}"
        "[profile program]\ncredential_process = /bin/keys\n[profile half]\naws_secret_access_key = hidden\n",
    )
    assert urls("s3") == [f"s3://BUCKET/lightning.bkp?profile={name}" for name in ("good", "half")]
    for name in ("good", "half", "empty", "role", "unprefixed", "program"):
        bucket = bucket_of(parse_url(f"s3://bucket/lightning.bkp?profile={name}"))
        if name in ("good", "half"):
            assert credentials_for(bucket).secret == "hidden"
        else:
            with pytest.raises(BackupError, match=rf"profile '?{name}"):
                credentials_for(bucket)


@pytest.mark.parametrize("as_what", ["fifo", "unparsable", "large"])
def test_credentials_that_cannot_be_understood_give_no_candidates(home: Path, as_what: str) -> None:
    write(home / ".aws" / "config", f"[profile other]\n{KEYS}")
    if as_what == "fifo":
        os.mkfifo(home / ".aws" / "credentials")  # a plain open would wait for ever
        assert urls("s3") == ["s3://BUCKET/lightning.bkp?profile=other"]
    elif as_what == "unparsable":
        write(home / ".aws" / "credentials", f"no section\n[good]\n{KEYS}")
        assert urls("s3") == []
    else:
        write(home / ".aws" / "credentials", f"[good]\n{KEYS}" + "#" * (1 << 20))
        assert urls("s3") == ["s3://BUCKET/lightning.bkp?profile=other"]


def test_postgres_services_are_candidates_without_their_passwords(home: Path, world: World) -> None:
    write(
        home / ".pg_service.conf",
        "[cluster]\nhost=db1.example,db2.example\nport=5432\nuser=backup\ndbname=lightning\npassword=hidden\n"
        "[bare]\n[odd name]\nhost=x\n[ported]\nhost = db3\nport = 6432\n",
    )
    assert urls("postgres") == [
        "postgres://backup@db1.example,db2.example/lightning",
        "postgres://HOST/DATABASE",
        "postgres://db3:6432/DATABASE",
    ]
    assert "hidden" not in backup_cli("destinations", "--json", "--lightning-dir", world.directory).text


@pytest.mark.parametrize("as_what", ["directory", "fifo", "binary", "link to itself"])
def test_a_config_that_is_no_text_file_gives_no_candidates(home: Path, as_what: str) -> None:
    path = home / ".ssh" / "config"
    path.parent.mkdir()
    if as_what == "directory":
        path.mkdir()
    elif as_what == "fifo":
        os.mkfifo(path)  # a plain open would wait for ever
    elif as_what == "binary":
        path.write_bytes(bytes(range(256)) * 100)
    else:
        path.symlink_to(path)
    assert urls("sftp") == []


def test_missing_program_and_missing_packages_are_said_with_what_to_type(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    kinds = {each.kind: each for each in off_site()}
    assert not any(each.ready for each in kinds.values())
    assert "apt install openssh-client" in str(kinds["sftp"].remedy)
    for extra in ("s3", "postgres"):
        said = f"{sys.prefix}/bin/pip install --require-hashes --only-binary :all: -r requirements-{extra}.lock"
        assert said in str(kinds[extra].remedy)


def test_what_is_there_is_ready_and_needs_no_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "ssh", "#!/bin/sh\n")
    (home / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(module, "find_spec", lambda package: object())
    assert [(each.ready, each.remedy) for each in off_site()] == [(True, None)] * 3


def test_json_has_the_kinds_beside_what_is_mounted(home: Path, world: World) -> None:
    write(home / ".ssh" / "config", "Host nas\n")
    document = json.loads(backup_cli("destinations", "--json", "--lightning-dir", world.directory).out)
    assert [each["kind"] for each in document["off_site"]] == ["sftp", "s3", "postgres"]
    assert document["off_site"][0]["candidates"] == [{"name": "nas", "url": "sftp://nas/~/lightning.bkp"}]
    assert isinstance(document["mounted"], list)


def test_text_has_each_example_quoted_for_a_shell(home: Path, world: World) -> None:
    said = backup_cli("destinations", "--lightning-dir", world.directory)
    for each in off_site():
        assert each.example in said.out
    assert "'s3://my-bucket/lightning.bkp?endpoint=" in said.out


def test_nothing_of_the_kinds_is_imported_to_list_them() -> None:
    program = (
        "import sys; from backup_cli.main import run; run(['destinations', '--json']); "
        "print([name for name in sys.modules if name.split('.')[0] in ('obstore', 'psycopg')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


def test_examples_and_candidates_are_urls_of_their_kind(home: Path) -> None:
    write(home / ".ssh" / "config", "Host nas\n")
    for each in off_site():
        for url in (each.example, *(candidate.url for candidate in each.candidates)):
            assert parse_url(url).scheme == each.kind
