"""`backup-cli init` with several URLs: what it makes, what it refuses, and that it makes all of it or nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest

import backup_cli.commands.init as module
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument
from backends.members import new_copy
from backends.members.copy_file import Pause
from backends.members.files import make_equal
from backends.members.new_copy import create_copy, publish_document
from backends.node.lockfile import DEFAULT_GRACE, read_settings
from backends.node.members_note import MEMBERS_FILE, read_members_note
from backends.storage.base import Storage
from backup_cli import new_members
from tests.cli.cli_asserts import assert_refused, init
from tests.cli.several import (
    KILLED,
    NAMES,
    document_of,
    dying,
    failing,
    init_several,
    killed,
    lock_of,
    place_of,
    shared_files,
    url_of,
)
from tests.end_to_end.world import World, backup_cli, tree

# What it makes


def test_all_members_of_a_new_backup_hold_the_same_files(old_node: World) -> None:
    assert init_several(old_node, *NAMES).code == 0
    files = [shared_files(old_node, name) for name in NAMES]
    assert files[0] == files[1] == files[2]
    assert "manifest" in files[0]


def test_each_member_of_a_new_backup_can_be_restored_alone(old_node: World) -> None:
    assert init_several(old_node, "disk", "nas").code == 0
    shutil.rmtree(place_of(old_node, "disk"))
    (place_of(old_node, "nas") / MEMBERS).unlink()  # as a backup with one destination
    old_node.backup = place_of(old_node, "nas")
    old_node.assert_restored_equals_the_nodes()


def test_documents_lock_and_note_of_a_new_backup_say_the_same(world: World) -> None:
    assert init_several(world, *NAMES, trailing=("far",)).code == 0
    settings, note = read_settings(world.directory), read_members_note(world.directory)
    assert settings.members == (
        Member("disk", url_of(world, "disk")),
        Member("nas", url_of(world, "nas")),
        Member("far", url_of(world, "far"), trailing=True),
    )
    assert (settings.url, settings.need, settings.grace) == (url_of(world, "disk"), 1, DEFAULT_GRACE)
    assert note is not None
    assert (note.backup_id, note.epoch, note.intent) == (settings.backup_id, Epoch(1, ""), None)
    assert note.in_sync == ("disk", "nas")
    assert note.knows(Epoch(1, "")), "a member that stays behind in the first epoch may be overwritten"
    assert not note.knows(Epoch(2, ""))
    assert set(note.mounts) == set(NAMES)
    for name in NAMES:
        document = document_of(world, name)
        assert (document.name, document.backup_id, document.epoch) == (name, settings.backup_id, Epoch(1, ""))
        assert (document.in_sync, document.members, document.need) == (("disk", "nas"), settings.members, 1)
        assert not document.out


def test_need_and_grace_are_stored(world: World) -> None:
    assert init_several(world, *NAMES, options=("--need", 2, "--grace", "1.5")).code == 0
    settings = read_settings(world.directory)
    assert (settings.need, settings.grace) == (2, 1.5)
    assert {document_of(world, name).need for name in NAMES} == {2}


def test_trailing_member_that_is_named_first_is_listed_last(world: World) -> None:
    assert init_several(world, *NAMES, trailing=("disk",)).code == 0
    assert [member["name"] for member in lock_of(world)["members"]] == ["nas", "far", "disk"]
    assert lock_of(world)["backend_url"] == url_of(world, "nas")


def test_init_prints_names_and_a_commit_time_for_each_member(world: World) -> None:
    said = init_several(world, *NAMES, trailing=("far",))
    assert said.out.startswith("important-plugin=/")
    for name in NAMES:
        assert f"Member {name}: {url_of(world, name)}" in said.err
        assert f" ms at {name}." in said.err
    assert "(trailing: never waited for)" in said.err


def test_slow_trailing_member_is_no_reason_for_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.log.backup.measured_latency", lambda storage: 0.5)
    said = init_several(world, *NAMES, trailing=("far",))
    assert said.text.count("a payment makes about 13 commits") == 2


def test_two_members_on_one_disk_are_warned_of_once_each(world: World) -> None:
    said = init_several(world, *NAMES)
    assert "the members disk and nas are on the same disk" in said.err
    assert "the members disk and far are on the same disk" in said.err
    assert said.err.count("are on the same disk") == 2


def test_json_result_lists_the_members(world: World) -> None:
    said = init_several(world, *NAMES, options=("--json",), trailing=("far",))
    result = json.loads(said.out)
    assert [(each["name"], each["url"], each["trailing"]) for each in result["members"]] == [
        ("disk", url_of(world, "disk"), False),
        ("nas", url_of(world, "nas"), False),
        ("far", url_of(world, "far"), True),
    ]
    assert result["url"] == url_of(world, "disk")
    assert result["commit_seconds"] == max(each["commit_seconds"] for each in result["members"][:2])


def test_backup_files_of_all_members_are_readable_by_their_owner_only(old_node: World) -> None:
    before = os.umask(0)
    try:
        assert init_several(old_node, *NAMES).code == 0
    finally:
        os.umask(before)
    for name in NAMES:
        place = place_of(old_node, name)
        assert place.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in old_node.directory.glob("backup.*")} == {0o600}


# A backup with one destination is what it was


def test_init_with_one_url_knows_nothing_of_members(world: World) -> None:
    assert init(world).code == 0
    assert set(lock_of(world)) == {"backend_url", "backup_id", "version"}
    assert lock_of(world)["version"] == 1
    assert not (world.backup / MEMBERS).exists()
    assert not (world.directory / MEMBERS_FILE).exists()
    result = json.loads(backup_cli("init", "--json", "--lightning-dir", world.directory, f"{world.url}2").out)
    assert "members" not in result


def test_note_about_members_goes_when_the_node_gets_a_backup_with_one_destination(world: World) -> None:
    assert init_several(world, "disk", "nas").code == 0
    assert (world.directory / MEMBERS_FILE).exists()
    backup_cli("init", "--lightning-dir", world.directory, url_of(world, "far"))
    assert not (world.directory / MEMBERS_FILE).exists()
    assert lock_of(world)["version"] == 1


# What it refuses


def test_dry_run_lists_every_copy_and_makes_none(old_node: World) -> None:
    for name in NAMES:
        place_of(old_node, name)
    before = tree(old_node.root, locks=True)
    said = init_several(old_node, *NAMES, options=("--dry-run",))
    assert said.code == 0
    assert f"would create a backup at {url_of(old_node, 'disk')}" in said.out
    assert f"would copy it to {url_of(old_node, 'nas')} (the member nas)" in said.out
    assert f"which names {' and '.join(url_of(old_node, name) for name in NAMES)}" in said.text
    assert tree(old_node.root, locks=True) == before


@pytest.mark.parametrize(
    ("options", "trailing", "why"),
    [
        (("--need", 3), ("far",), "--need 3 can never be met: only 2 of these members are waited for"),
        (("--need", 0), (), "0 is not in the range"),
        (("--grace", 0), (), "0 is not in the range"),
        (("--grace", 601), (), "601.0 is not in the range"),
        ((), NAMES, "every URL is marked ?trailing"),
    ],
)
def test_members_that_make_no_sense_are_a_usage_error(
    world: World, options: tuple[object, ...], trailing: tuple[str, ...], why: str
) -> None:
    said = init_several(world, *NAMES, options=options, trailing=trailing)
    assert said.code == 2
    assert why in said.text
    assert not any(place_of(world, name).exists() for name in NAMES)


def test_only_url_that_is_marked_trailing_is_a_usage_error(world: World) -> None:
    said = init_several(world, "disk", trailing=("disk",))
    assert said.code == 2
    assert "cannot be the only one" in said.text


@pytest.mark.parametrize("option", [("--need", 1), ("--grace", 5)])
def test_options_for_several_members_with_one_url_are_a_usage_error(world: World, option: tuple[object, ...]) -> None:
    said = init_several(world, "disk", options=option)
    assert said.code == 2
    assert "are for a backup with several members" in said.text


def _the_same(world: World) -> str:
    return url_of(world, "disk")


def _with_another_option(world: World) -> str:
    return url_of(world, "disk") + "?timeout=60"


def _trailing(world: World) -> str:
    return url_of(world, "disk", trailing=True)


def _through_a_link(world: World) -> str:
    link = world.root / "link"
    link.symlink_to(place_of(world, "disk").parent)
    return (link / "lightning.bkp").as_uri()


def _with_dots(world: World) -> str:
    return f"file://{world.root}/disk/../disk/lightning.bkp"


@pytest.mark.parametrize("again", [_the_same, _with_another_option, _trailing, _through_a_link, _with_dots])
def test_same_place_twice_is_refused(world: World, again: object) -> None:
    assert callable(again)
    url = again(world)
    said = backup_cli("init", "--lightning-dir", world.directory, url_of(world, "disk"), url_of(world, "nas"), url)
    assert_refused(said, "are the same directory, so the second would be no second copy")
    assert not place_of(world, "disk").exists()
    assert not place_of(world, "nas").exists()


def test_same_place_that_nothing_shows_beforehand_is_refused_when_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a share is mounted twice: the first member is found where the second should be made."""
    monkeypatch.setattr(new_members, "same_place", lambda one, other: False)
    said = backup_cli("init", "--lightning-dir", world.directory, url_of(world, "disk"), _through_a_link(world))
    assert_refused(said, "is there already, and nothing in it was touched")
    assert not place_of(world, "disk").exists()
    assert not (world.directory / "backup.lock").exists()


def test_second_place_where_nothing_can_be_made_is_refused_before_the_first_is_made(old_node: World) -> None:
    place_of(old_node, "disk")
    place_of(old_node, "nas").mkdir()
    before = tree(old_node.root, locks=True)
    said = init_several(old_node, "disk", "nas")
    assert_refused(said, "nas/lightning.bkp is there already")
    assert "Writing the snapshot" not in said.err
    assert tree(old_node.root, locks=True) == before


def test_existing_copy_of_a_backup_at_a_members_place_is_never_touched(old_node: World) -> None:
    init(old_node)
    shutil.copytree(old_node.backup, place_of(old_node, "nas"))
    before = tree(old_node.root, locks=True)
    assert_refused(init_several(old_node, "far", "nas"), "is there already, and nothing in it was touched")
    assert tree(old_node.root, locks=True) == {
        **before,
        str(place_of(old_node, "far").parent): before[str(old_node.root / "nas")],
    }


# Interrupted


STEPS = [
    (new_members, "create_copy", 1),
    (new_members, "create_copy", 2),
    (new_copy, make_equal.__name__, 1),
    (new_copy, make_equal.__name__, 2),
    (new_members, "publish_document", 1),
    (module, "hand_over", 1),
    (module, "set_old_lock_aside", 1),
]


def test_copy_has_its_document_before_it_is_whole(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a kill would leave a copy that is restored like a backup with one destination."""
    found: list[list[str]] = []

    def looking(source: Storage, target: Storage, *, deep: bool, pause: Pause) -> int:
        found.append(target.names())
        return make_equal(source, target, deep=deep, pause=pause)

    monkeypatch.setattr(new_copy, make_equal.__name__, looking)
    assert init_several(old_node, *NAMES).code == 0
    assert [MEMBERS in names and "manifest" not in names for names in found] == [True, True]


@pytest.mark.parametrize("broken", [KeyboardInterrupt(), OSError(28, "No space left on device"), BackupError("broken")])
@pytest.mark.parametrize(("where", "name", "at"), STEPS)
def test_init_that_fails_at_any_step_leaves_no_member(
    old_node: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str, at: int, broken: BaseException
) -> None:
    for member in NAMES:
        place_of(old_node, member)
    before = tree(old_node.root, locks=True)
    monkeypatch.setattr(where, name, failing(getattr(where, name), at, broken))
    assert init_several(old_node, *NAMES).code == (130 if isinstance(broken, KeyboardInterrupt) else 1)
    assert tree(old_node.root, locks=True) == before
    monkeypatch.undo()
    assert init_several(old_node, *NAMES).code == 0


def test_lock_and_note_of_the_earlier_backup_stay_if_init_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init_several(world, "disk", "nas").code == 0
    place_of(world, "far")
    before = tree(world.root, locks=True)
    monkeypatch.setattr(new_members, "publish_document", failing(publish_document, 1, OSError(5, "Input/output error")))
    assert init_several(world, "far", "other").code == 1
    shutil.rmtree(world.root / "other")
    assert tree(world.root, locks=True) == before


@pytest.mark.parametrize(("where", "name", "at"), STEPS)
def test_node_has_no_backup_after_init_was_killed_at_any_step(
    old_node: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str, at: int
) -> None:
    """What was made by then is in the way of a later init, which says so; no start takes it for the node's backup."""
    monkeypatch.setattr(where, name, dying(getattr(where, name), at))
    assert killed(lambda: init_several(old_node, *NAMES))
    monkeypatch.undo()
    assert not (old_node.directory / "backup.lock").exists()
    said = init_several(old_node, *NAMES)
    assert_refused(said, "is there already")
    for member in NAMES:
        shutil.rmtree(place_of(old_node, member), ignore_errors=True)
    assert init_several(old_node, *NAMES).code == 0


def test_copy_that_was_killed_in_the_middle_is_no_backup(
    old_node: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_after_a_file(source: Backup, target: Backup, document: MembersDocument, pause: Pause, what: str) -> None:
        create_copy(source, target, document, lambda count: os._exit(KILLED), what)

    monkeypatch.setattr(new_members, "create_copy", killed_after_a_file)
    assert killed(lambda: init_several(old_node, "disk", "nas"))
    assert place_of(old_node, "nas").exists()
    said = backup_cli("restore", url_of(old_node, "nas"), tmp_path / "restored.sqlite3")
    assert_refused(said, "it has no manifest")
