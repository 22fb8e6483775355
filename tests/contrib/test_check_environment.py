"""Credentials that only somebody's shell has: check-config and init say which, and where to put them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from backends import place_at
from backends.node.lockfile import Settings, write_settings
from backup_cli.checks.environment import check_environment
from backup_cli.findings import Level
from backup_cli.node_environment import destination_warnings, opened_by
from tests.end_to_end.world import World, backup_cli

SECRET = "wJalrXUtnFEMI/K7MDENG"
AWS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
S3 = "s3://bucket/lightning.bkp?endpoint=http://127.0.0.1:9&timeout=5"
POSTGRES = "postgres://me@db.example/lightning"
PROFILE = f"[backup]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n"


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (*AWS, "AWS_SESSION_TOKEN", "AWS_PROFILE", "PGPASSWORD", "PGUSER", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "environment", "names"),
    [
        (S3, AWS, [*AWS]),
        (S3, {**AWS, "AWS_SESSION_TOKEN": SECRET, "AWS_REGION": "eu-1"}, [*AWS, "AWS_SESSION_TOKEN"]),
        (f"{S3}&profile=backup", AWS, []),
        (S3, {"AWS_PROFILE": "backup"}, []),  # init records it in the URL
        (f"{S3}&trailing", AWS, [*AWS]),
        ("gs://bucket/b", {"GOOGLE_APPLICATION_CREDENTIALS": "/a"}, ["GOOGLE_APPLICATION_CREDENTIALS"]),
        (
            "az://container/b?account=me",
            {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_ACCOUNT_KEY": SECRET},
            ["AZURE_STORAGE_ACCOUNT_KEY"],
        ),
        (POSTGRES, {"PGPASSWORD": SECRET, "PGUSER": "me"}, ["PGPASSWORD"]),
        (POSTGRES.replace("me@", ""), {"PGUSER": "me"}, ["PGUSER"]),
        (POSTGRES, {}, []),
        ("file:///mnt/nas/b", AWS, []),
    ],
)
def test_variables_that_open_a_destination_are_named_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, environment: Mapping[str, str], names: list[str]
) -> None:
    (tmp_path / "home" / ".aws").mkdir(parents=True)
    (tmp_path / "home" / ".aws" / "credentials").write_text(PROFILE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert opened_by([url]) == names
    if not url.endswith("trailing"):
        found = destination_warnings(url, place_at(url), tmp_path) if url == S3 else []
        assert len([line for line in found if "EnvironmentFile=FILE" in line]) == (url == S3 and bool(names))
        assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("of_node", "level"),
    [(None, Level.WARNING), ({}, Level.WARNING), ({"AWS_ACCESS_KEY_ID": "x"}, Level.WARNING), (AWS, Level.OK)],
    ids=["no node", "none of them", "one of them", "all"],
)
def test_what_the_running_node_has_as_well_is_no_cause_for_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_node: Mapping[str, str] | None, level: Level
) -> None:
    write_settings(tmp_path, Settings(S3, "00" * 16))
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    if of_node is None:
        (found,) = check_environment(tmp_path, None)
    else:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=of_node) as node:
            (found,) = check_environment(tmp_path, node.pid)
            node.kill()
    assert (found.about, found.level) == ("environment", level)
    assert SECRET not in found.text
    assert ("AWS_SECRET_ACCESS_KEY" in found.text) and (level is Level.OK) == ("EnvironmentFile" not in found.text)


def test_check_config_says_it_also_where_the_destination_cannot_be_reached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(world.directory, Settings(POSTGRES.replace("db.example", "127.0.0.1:9") + "?timeout=5", "00" * 16))
    monkeypatch.setenv("PGPASSWORD", SECRET)
    said = backup_cli("check-config", "--json", "--lightning-dir", world.directory)
    (found,) = [each for each in json.loads(said.out)["findings"] if each["about"] == "environment"]
    assert found["level"] == "warning"
    assert found["text"].startswith("PGPASSWORD is in the environment of this command and opens the destination. ")
    assert SECRET not in said.out + said.err
