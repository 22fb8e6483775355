"""The process that reads a backup gets the keys through its stdin, and nowhere else."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from backends import backup_at, keyring
from backends.confined.work import rebuild_backup
from backends.errors import Damaged, KeyNeeded
from backends.keyring import DataKey
from tests.known_secret import known_database
from tests.log.histories import source


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An encrypted backup, whose key is known."""
    url = (tmp_path / "lightning.bkp").as_uri()
    backup_at(url).create(source(known_database(), 1008), encrypt=lambda key: None)
    return url


def test_key_is_in_no_argument_and_in_no_variable_of_the_child(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    real = subprocess.Popen

    def popen(arguments: list[str], **options: Any) -> Any:
        started.append((arguments, options))
        return real(arguments, **options)

    monkeypatch.setattr("backends.confined.parent.subprocess.Popen", popen)
    rebuild_backup(url, tmp_path / "made.sqlite3")
    assert len(started) == 1
    ((_, secret, _),) = keyring.export()
    assert secret not in repr(started) and bytes.fromhex(secret) not in repr(started).encode()


def test_child_without_key_says_so_as_its_own_kind(url: str, tmp_path: Path) -> None:
    keyring.forget()
    with pytest.raises(KeyNeeded) as refused:
        rebuild_backup(url, tmp_path / "made.sqlite3")
    assert refused.value.kind == "key_needed"
    made = tmp_path / "made.sqlite3"
    assert not made.exists() or made.stat().st_size == 0


def test_child_with_another_key_under_the_same_name_reads_nothing(url: str, tmp_path: Path) -> None:
    ((backup_id, _, _),) = keyring.export()
    keyring.forget()
    keyring.add(DataKey.new(bytes.fromhex(backup_id)))
    with pytest.raises((KeyNeeded, Damaged)):
        rebuild_backup(url, tmp_path / "made.sqlite3")
