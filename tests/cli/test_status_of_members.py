"""`backup-cli status` of a backup with several destinations: every member is read, none is changed, none is waited for
for ever."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from backends.log.format.members import MEMBERS, Epoch, OutOfSync
from backends.log.reader.opening import read_manifest
from backends.storage.local import LocalStorage
from backends.times import moment
from backup_cli import seen_members
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.corruption import flip
from tests.end_to_end.world import Said, backup_cli, tree
from tests.members.copies import Copies
from tests.members.made import note_epoch

OUT = {"usb": OutOfSync(1_700_000_000, "No space left on device")}


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path, ("nas", "usb")).made()


def own(copies: Copies, *options: str) -> Said:
    return backup_cli("status", "--lightning-dir", copies.node, *options)


def document(said: Said) -> dict[str, object]:
    found = json.loads(said.out)
    assert isinstance(found, dict)
    return found


def states(said: Said) -> dict[str, str]:
    return {member["name"]: member["state"] for member in json.loads(said.out)["members"]}


def test_status_of_the_nodes_own_backup_lists_each_member_and_changes_nothing(copies: Copies) -> None:
    before = tree(copies.node.parent)
    said = own(copies)
    assert said.code == 0
    lines = said.out.splitlines()
    assert "members      2 of 2 in sync; the node needs 1" in lines
    for name in ("nas", "usb"):
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(maxsplit=1)[1].startswith("in sync, ") and line.endswith(f" free, {copies[name].url}")
    assert tree(copies.node.parent) == before


def test_status_json_of_members_has_states_need_and_epoch(copies: Copies) -> None:
    found = document(own(copies, "--json"))
    assert (found["health"], found["need"], found["epoch"], found["url"]) == ("ok", 1, 1, copies["nas"].url)
    assert states(own(copies, "--json")) == {"nas": "in_sync", "usb": "in_sync"}
    first = found["members"][0]  # type: ignore[index]
    assert first["stored_bytes"] == found["snapshot_bytes"] + found["segment_bytes"]  # type: ignore[operator]


def test_status_of_one_destination_has_no_word_about_members(copies: Copies) -> None:
    (copies.path("nas") / MEMBERS).unlink()
    said, found = backup_cli("status", copies["nas"].url), document(backup_cli("status", "--json", copies["nas"].url))
    assert "member" not in said.text
    assert not {"members", "need", "epoch"} & set(found)


def test_member_out_of_sync_is_listed_with_since_when_why_and_lag(copies: Copies) -> None:
    copies.append("nas", 4)
    copies.begin(2, "usb", out=OUT)
    said = own(copies)
    since = moment(1_700_000_000, "%a %Y-%m-%d %H:%M")
    assert f"out of sync since {since}, 4 changes and " in said.out
    assert f"! usb has been out of sync since {since} (No space left on device). It may lack" in said.out
    assert "! the node needs 1 member in sync, and has no more than that. If nas fails as well" in said.out
    found = document(own(copies, "--json"))
    assert found["health"] == "degraded" and said.code == 0
    assert found["trouble_kinds"] == ["member_out_of_sync", "need_not_met_soon"]
    assert found["data_version"] == 7, "of the member that holds everything, and not of the other"


def test_member_out_of_sync_that_is_named_first_is_not_the_one_whose_log_is_shown(copies: Copies) -> None:
    copies.append("usb", 4)
    copies.begin(2, "nas", out={"nas": OUT["usb"]})
    found = document(own(copies, "--json"))
    assert (found["data_version"], found["url"]) == (7, copies["nas"].url), "the URL names the backup: metrics keep it"


def test_trailing_member_is_listed_with_its_lag_and_is_no_trouble(tmp_path: Path) -> None:
    copies = Copies(tmp_path, ("nas", "usb", "far"), trailing=["far"]).made()
    for name in ("nas", "usb"):
        copies.append(name, 2)
    said, found = own(copies), document(own(copies, "--json"))
    assert found["health"] == "ok"
    assert "members      2 of 2 in sync; the node needs 1" in own(copies).out.splitlines()
    assert states(own(copies, "--json"))["far"] == "trailing"
    assert "trails, 2 changes and " in said.out


def test_member_that_is_gone_is_a_trouble_and_the_others_are_shown(copies: Copies) -> None:
    shutil.move(copies.path("usb").parent, copies.node.parent / "away")
    found = document(own(copies, "--json"))
    assert states(own(copies, "--json")) == {"nas": "in_sync", "usb": "unreachable"}
    assert found["trouble_kinds"] == ["member_unreachable", "need_not_met_soon"]
    assert own(copies).code == 0


def test_status_fails_only_if_every_member_is_gone_and_names_each(copies: Copies) -> None:
    for name in ("nas", "usb"):
        shutil.rmtree(copies.path(name))
    said = own(copies)
    assert_refused(said, "no member of this backup can be read")
    assert f"nas ({copies['nas'].url}): " in said.text and f"usb ({copies['usb'].url}): " in said.text
    assert "lightningd_backup_readable" in own(copies, "--prometheus").out


def test_member_that_was_wiped_or_holds_another_backup_is_out_of_sync(copies: Copies, tmp_path: Path) -> None:
    shutil.rmtree(copies.path("usb"))
    copies.path("usb").mkdir()
    assert states(own(copies, "--json"))["usb"] == "out_of_sync"
    other = Copies(tmp_path / "other", ("usb",)).made()
    shutil.rmtree(copies.path("usb"))
    shutil.copytree(other.path("usb"), copies.path("usb"))
    assert states(own(copies, "--json"))["usb"] == "out_of_sync"
    assert "another backup is there" in own(copies).out


def test_old_copy_of_a_member_that_was_put_back_is_out_of_sync(copies: Copies, tmp_path: Path) -> None:
    shutil.copytree(copies.path("usb"), tmp_path / "old")
    for name in ("nas", "usb"):
        copies.append(name, 2)
    copies.begin(2)
    shutil.rmtree(copies.path("usb"))
    shutil.copytree(tmp_path / "old", copies.path("usb"))
    said = own(copies)
    assert "it is of epoch 1, and the newest is 2: it may be an older copy of itself" in said.out
    assert states(own(copies, "--json")) == {"nas": "in_sync", "usb": "out_of_sync"}


def test_epoch_that_only_the_nodes_note_knows_makes_every_old_member_out_of_sync(copies: Copies) -> None:
    copies.begin(5, carried_by=())
    found = document(own(copies, "--json"))
    assert set(states(own(copies, "--json")).values()) == {"out_of_sync"}
    assert "need_not_met_soon" in found["trouble_kinds"]  # type: ignore[operator]
    assert found["epoch"] == 5


def test_damage_in_one_member_degrades_and_the_whole_one_is_shown(copies: Copies) -> None:
    flip(next(copies.path("nas").glob("segment-*")), 100)
    said, found = own(copies), document(own(copies, "--json"))
    assert said.code == 0
    assert (found["health"], found["damaged"], found["data_version"]) == ("degraded", False, 3)
    assert states(own(copies, "--json")) == {"nas": "out_of_sync", "usb": "in_sync"}
    assert "it is damaged: " in said.out and "run: backup-cli verify --repair" in said.out


def test_damage_in_every_member_is_damage_of_the_backup(copies: Copies) -> None:
    for name in ("nas", "usb"):
        flip(next(copies.path(name).glob("segment-*")), 100)
    assert own(copies).code == 3
    assert document(own(copies, "--json"))["health"] == "damaged"


def test_two_histories_are_refused_and_both_are_named(copies: Copies) -> None:
    copies.begin(2, carried_by=["nas"])
    note_epoch([copies["usb"]], copies.members, copies.backup_id, epoch=Epoch(2, "another"))
    before = tree(copies.node.parent)
    assert_refused(own(copies), "the members nas and usb were written by two nodes")
    assert tree(copies.node.parent) == before


@pytest.mark.parametrize("hangs_at", ["read_small", "names", "open"])
def test_member_that_hangs_is_given_up_and_the_others_are_shown(
    copies: Copies, monkeypatch: pytest.MonkeyPatch, hangs_at: str
) -> None:
    hung = threading.Event()

    class Hanging(LocalStorage):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            if path == copies.path("usb"):
                setattr(self, hangs_at, lambda *_: hung.wait(60))

    monkeypatch.setattr("backends.places.file.LocalStorage", Hanging)
    monkeypatch.setattr(seen_members, "WITHIN", 1.0)
    monkeypatch.setattr(seen_members, "READ_WITHIN", 1.0)
    began = time.monotonic()
    said = own(copies)
    hung.set()
    assert said.code == 0 and time.monotonic() - began < 15
    assert "  nas        in sync, " in said.out
    assert "usb cannot be read now (it has not answered for 1 second" in said.out


def test_read_only_member_is_a_trouble_with_its_name(copies: Copies) -> None:
    path = copies.path("usb")
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", path, path]).returncode:
        pytest.skip("needs root, to mount a member read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        said = own(copies)
        assert "! nothing more can be saved in usb, and the node goes on without it, or stops: " in said.out
        assert "is mounted read-only" in said.out
    finally:
        subprocess.run(["umount", path], check=True)


# With URLs


def test_status_of_all_urls_shows_the_same_members_in_any_order(copies: Copies) -> None:
    copies.append("nas", 4)
    copies.begin(2, "usb", out=OUT)
    for urls in (["nas", "usb"], ["usb", "nas"]):
        said = backup_cli("status", "--json", *(copies[name].url for name in urls))
        assert states(said) == {"nas": "in_sync", "usb": "out_of_sync"}
        assert (document(said)["data_version"], document(said)["epoch"]) == (7, 2)


def test_status_of_one_members_url_says_that_another_may_be_newer(copies: Copies) -> None:
    said = backup_cli("status", copies["usb"].url)
    assert said.code == 0
    assert "! the 1 other member of this backup (nas) may hold newer changes: name every member's URL" in said.out
    assert states(backup_cli("status", "--json", copies["usb"].url)) == {"usb": "in_sync"}


def test_status_of_urls_of_which_one_is_gone_names_it_as_the_others_know_it(copies: Copies) -> None:
    urls = [member.url for member in copies.members]
    shutil.rmtree(copies.path("nas").parent)
    assert states(backup_cli("status", "--json", *urls)) == {"nas": "unreachable", "usb": "in_sync"}


def test_status_of_two_different_backups_is_refused(copies: Copies, tmp_path: Path) -> None:
    other = Copies(tmp_path / "other", ("usb",)).made()
    said = backup_cli("status", copies["nas"].url, other["usb"].url)
    assert_refused(said, "hold two different backups .*, not two members of one")
    assert read_manifest(LocalStorage(other.path("usb"))).backup_id.hex() in said.text


def test_status_of_a_member_and_a_copy_of_it_is_refused(copies: Copies, tmp_path: Path) -> None:
    shutil.copytree(copies.path("nas"), tmp_path / "copy.bkp")
    assert_refused(
        backup_cli("status", copies["nas"].url, f"file://{tmp_path}/copy.bkp"), "both hold the member nas: one of them"
    )


# For Prometheus


def test_metrics_of_members_from_the_command(copies: Copies) -> None:
    copies.append("nas", 4)
    copies.begin(2, "usb", out=OUT)
    lines = own(copies, "--prometheus").out.splitlines()
    url = f'url="{copies["nas"].url}"'
    for line in (
        f"lightningd_backup_members_in_sync{{{url}}} 1",
        f"lightningd_backup_members_needed{{{url}}} 1",
        f"lightningd_backup_members_waited_for{{{url}}} 2",
        f'lightningd_backup_member_in_sync{{{url},member="nas"}} 1',
        f'lightningd_backup_member_in_sync{{{url},member="usb"}} 0',
        f'lightningd_backup_member_lag_changes{{{url},member="usb"}} 4',
        f'lightningd_backup_member_since_timestamp_seconds{{{url},member="usb"}} 1700000000',
    ):
        assert line in lines, line
