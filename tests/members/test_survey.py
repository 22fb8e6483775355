"""What a survey of the members tells, and that a member that hangs does not hold it up."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.backup import Backup
from backends.log.format.documents import MANIFEST
from backends.log.format.members import MEMBERS, Epoch, Member
from backends.members import survey as module
from backends.members.survey import Absence, ask_all, survey
from backends.text import counted
from tests.members.made import EMPTY, directory_of, make_members, members_in, note_epoch


@pytest.fixture
def members(tmp_path: Path) -> tuple[Member, ...]:
    return members_in(tmp_path, ["disk", "nas", "far"], trailing=["far"])


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """URLs of members that hang when they are opened, until the test is over."""
    urls: set[str] = set()
    over = threading.Event()

    def opened(url: str) -> Backup:
        if url in urls:
            over.wait(60)
        return backup_at(url)

    monkeypatch.setattr(module, "backup_at", opened)
    yield urls
    over.set()


def test_survey_reads_document_and_end_of_each_member(members: tuple[Member, ...]) -> None:
    backup_id = make_members(members)
    found = survey(members, backup_id)
    assert [seen.name for seen in found.seen] == ["disk", "nas", "far"]
    assert {seen.document.epoch for seen in found.seen} == {Epoch(1, "")}
    assert {seen.end for seen in found.seen} == {backup_at(members[0].url).end()}
    assert not found.missing
    assert not found.absences


def test_survey_leaves_every_file_and_its_time_as_they_were(members: tuple[Member, ...], tmp_path: Path) -> None:
    make_members(members)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    survey(members, None)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


def test_hanging_member_is_given_up_after_the_deadline_and_the_others_are_seen(
    members: tuple[Member, ...], hanging: set[str]
) -> None:
    backup_id = make_members(members)
    hanging.update({members[0].url, members[2].url})
    began = time.monotonic()
    found = survey(members, backup_id, within=1.0)
    assert time.monotonic() - began < 5, "the deadline is for all members together"
    assert [seen.name for seen in found.seen] == ["nas"]
    assert found.missing == dict.fromkeys(("disk", "far"), "it has not answered for 1 seconds")
    assert found.absences == dict.fromkeys(("disk", "far"), Absence.NO_ANSWER)


def _unplugged(there: Path) -> None:
    shutil.rmtree(there)


def _wiped(there: Path) -> None:
    shutil.rmtree(there)
    there.mkdir()


def _without_manifest(there: Path) -> None:
    (there / MANIFEST).unlink()


def _without_document(there: Path) -> None:
    (there / MEMBERS).unlink()


def _replaced(there: Path) -> None:
    shutil.rmtree(there)
    backup_at(there.as_uri()).create(EMPTY)


def _document_damaged(there: Path) -> None:
    data = bytearray((there / MEMBERS).read_bytes())
    data[len(data) // 2] ^= 1
    (there / MEMBERS).write_bytes(data)


def _copied_from_the_other(there: Path) -> None:
    shutil.rmtree(there)
    shutil.copytree(there.parents[1] / "disk" / "lightning.bkp", there)


@pytest.mark.parametrize(
    ("happen", "absence", "why"),
    [
        (_unplugged, Absence.UNREACHABLE, "there is no backup"),
        (_wiped, Absence.NOT_A_BACKUP, "there is no backup in"),
        (_without_document, Absence.NO_DOCUMENT, "its document `members` is missing"),
        (_replaced, Absence.OTHER_BACKUP, "another backup is there"),
        (_document_damaged, Absence.DAMAGED, "it is damaged"),
        (_copied_from_the_other, Absence.OTHER_BACKUP, "a copy of the member disk is there"),
    ],
)
def test_member_that_says_nothing_is_missing_with_the_reason(
    members: tuple[Member, ...], happen: object, absence: Absence, why: str
) -> None:
    backup_id = make_members(members)
    assert callable(happen)
    happen(directory_of(members[1]))
    found = survey(members, backup_id)
    assert [seen.name for seen in found.seen] == ["disk", "far"]
    assert found.absences == {"nas": absence}
    assert why in found.missing["nas"]


def test_member_whose_manifest_is_gone_is_part_of_a_backup_only(members: tuple[Member, ...]) -> None:
    backup_id = make_members(members)
    _without_manifest(directory_of(members[1]))
    found = survey(members, backup_id)
    assert found.absences == {"nas": Absence.NOT_A_BACKUP}
    assert "it has no manifest" in found.missing["nas"]


@pytest.mark.parametrize("name", [MANIFEST, "session"])
def test_member_with_a_damaged_file_is_seen_without_an_end(members: tuple[Member, ...], name: str) -> None:
    backup_id = make_members(members)
    damaged = directory_of(members[1]) / name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    found = survey(members, backup_id)
    nas = found.seen[1]
    assert nas.name == "nas"
    assert nas.end is None
    assert name in nas.why
    assert not found.missing


def test_document_of_another_backup_beside_this_ones_files_is_not_believed(members: tuple[Member, ...]) -> None:
    backup_id = make_members(members)
    note_epoch(members[1:2], members, "00" * 16, epoch=Epoch(99, "x"))
    found = survey(members, backup_id)
    assert found.absences == {"nas": Absence.OTHER_BACKUP}
    found = survey(members, None)
    assert found.absences == {"nas": Absence.OTHER_BACKUP}, "also if any backup will do"


def test_member_with_an_impossible_url_is_missing_and_the_others_are_seen(members: tuple[Member, ...]) -> None:
    backup_id = make_members(members)
    found = survey((*members, Member("later", "carrier-pigeon://loft/1")), backup_id)
    assert len(found.seen) == 3
    assert found.absences == {"later": Absence.UNREACHABLE}


def test_error_that_nobody_foresaw_is_told_without_its_text() -> None:
    def fail() -> int:
        raise ValueError("the secret")

    answers, failures = ask_all({"one": lambda: 1, "two": fail}, 5.0)
    assert answers == {"one": 1}
    assert "secret" not in module.why_not_seen(failures["two"], 5.0)
    assert counted(len(failures), "failure") == "1 failure"
