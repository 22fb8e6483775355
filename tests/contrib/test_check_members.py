"""`backup-cli check-config`: what it says about each member of a backup with several destinations."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backends.log.format.members import OutOfSync
from backup_cli.checks import members as members_findings
from tests.contrib.checking import check
from tests.end_to_end.corruption import flip
from tests.end_to_end.world import backup_cli, tree
from tests.members.copies import Copies

pytestmark = pytest.mark.usefixtures("quick")

OUT = {"usb": OutOfSync(1_700_000_000, "No space left on device")}


@pytest.fixture
def copies(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    """The members of a protected node's backup, which are taken for places on different disks."""
    monkeypatch.setattr(members_findings, "share_a_fate", lambda one, other: None)
    return Copies(tmp_path, ("nas", "usb")).of_node(node)


def lines(copies: Copies) -> list[str]:
    said = backup_cli("check-config", "--lightning-dir", copies.node).out.splitlines()
    return [line for line in said if " member" in line[:16] or " backup.lock" in line or " version" in line[:16]]


def test_check_config_shows_each_member_in_a_line_and_changes_nothing(copies: Copies) -> None:
    before = tree(copies.node.parent.parent)
    assert check(copies.node) == (0, [])
    lock, version, nas, usb, both = lines(copies)
    assert lock == f"ok       backup.lock    names {copies['nas'].url} and {copies['usb'].url}"
    assert "the database and its backup are both at version" in version
    assert nas.startswith(f"ok       member nas     {copies['nas'].url}: in sync, ") and nas.endswith(" free")
    assert usb.startswith(f"ok       member usb     {copies['usb'].url}: in sync, ")
    assert both == "ok       members        2 of 2 are in sync, and the node needs 1"
    assert tree(copies.node.parent.parent) == before


def test_trailing_member_is_ok_with_its_lag(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_findings, "share_a_fate", lambda one, other: None)
    copies = Copies(tmp_path, ("nas", "far"), trailing=["far"]).of_node(node)
    copies.append("nas", 2)
    (line,) = [line for line in lines(copies) if "member far" in line]
    assert line.startswith("ok ") and ": trails, 2 changes and " in line and " behind, " in line


def test_member_out_of_sync_is_a_warning_and_so_is_the_need(copies: Copies) -> None:
    copies.begin(2, "usb", out=OUT)
    code, found = check(copies.node)
    assert code == 0 and len(found) == 2
    assert found[0].startswith("warning  member usb     usb has been out of sync since ")
    assert "(No space left on device). It may lack the newest changes, which nas holds" in found[0]
    assert found[1].startswith("warning  members        the node needs 1 member in sync, and has no more than that")


def test_member_that_is_gone_is_a_warning_and_the_rest_is_checked(copies: Copies) -> None:
    shutil.rmtree(copies.path("usb").parent)
    code, found = check(copies.node)
    assert code == 0 and [line.split()[:3] for line in found] == [
        ["warning", "member", "usb"],
        ["warning", "members", "the"],
    ]
    assert "usb cannot be read now (there is no backup; " in found[0]


def test_fewer_members_in_sync_than_needed_is_a_problem(copies: Copies) -> None:
    copies.begin(2, need=2)
    shutil.rmtree(copies.path("usb"))
    code, found = check(copies.node)
    assert code == 1
    assert found[-2].startswith("problem  members        the node needs 2 members in sync, and only nas is. It commits")
    assert found[-1].startswith("problem  next start     the node would not start now")


def test_no_member_that_can_be_read_is_a_problem_that_names_each(copies: Copies) -> None:
    for name in ("nas", "usb"):
        shutil.rmtree(copies.path(name))
    code, (line,) = check(copies.node)
    assert code == 1 and line.startswith("problem  destination    no member of this backup can be read")
    assert f"nas ({copies['nas'].url}): " in line and f"; usb ({copies['usb'].url}): " in line


def test_damaged_member_is_a_warning_while_another_is_whole(copies: Copies) -> None:
    flip(next(copies.path("nas").glob("snapshot-*")), 10)  # in its header
    code, found = check(copies.node)
    assert code == 0 and found[0].startswith("warning  member nas     nas is out of sync (it is damaged: ")
    assert "run: backup-cli verify --repair" in found[0]


def test_read_only_member_is_a_warning_with_its_name(copies: Copies) -> None:
    path = copies.path("usb")
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", path, path]).returncode:
        pytest.skip("needs root, to mount a member read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        code, (line,) = check(copies.node)
        assert code == 0 and line.startswith("warning  member usb     nothing more can be saved in it")
        assert "is mounted read-only" in line
    finally:
        subprocess.run(["umount", path], check=True)


def test_two_members_on_one_disk_are_a_warning(node: Path, tmp_path: Path) -> None:
    copies = Copies(tmp_path, ("nas", "usb")).of_node(node)
    said = backup_cli("check-config", "--lightning-dir", copies.node)
    assert said.code == 0
    assert "warning  members        nas and usb are on the same disk: when it fails, both fail" in said.out


def test_members_on_the_nodes_own_disk_are_a_warning_each(copies: Copies) -> None:
    said = backup_cli("check-config", "--lightning-dir", copies.node).out.splitlines()
    own = [line for line in said if line.startswith("warning  disk ")]
    assert len(own) == 2 and all("is on the same disk as the node's directory" in line for line in own)


def test_database_behind_the_members_is_found_as_with_one_destination(copies: Copies) -> None:
    for name in ("nas", "usb"):
        copies.append(name, 3)
    code, found = check(copies.node)
    assert code == 1 and any(line.startswith("problem  version ") for line in found), found
