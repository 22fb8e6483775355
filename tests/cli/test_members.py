"""`members`, `member-add` and `member-remove`: what they list and change, what they refuse, and kills in between."""

import json
import shutil
from pathlib import Path

import pytest

import backup_cli.commands.member_add as adding
import backup_cli.commands.member_remove as removing
from backends.log.format.members import MEMBERS
from backends.node.lockfile import read_settings
from backends.node.members_note import MEMBERS_FILE, read_members_note
from backup_cli import changing_members, new_members
from tests.cli.cli_asserts import PID_LOCK, assert_refused
from tests.cli.several import (
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
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, backup_cli, tree
from tests.fake_lightningd import History
from tests.node.processes import running


@pytest.fixture
def several(world: World, history: History) -> World:
    """A node that ran with the members disk and nas, and was stopped."""
    assert init_several(world, "disk", "nas").code == 0
    world.run([history.first(), *history.notes(5)])
    return world


def add(world: World, name: str, *options: object, trailing: bool = False) -> Said:
    return backup_cli(
        "member-add", *options, "--lightning-dir", world.directory, url_of(world, name, trailing=trailing)
    )


def remove(world: World, name: str, *options: object) -> Said:
    return backup_cli("member-remove", *options, "--lightning-dir", world.directory, name)


def members(world: World, *words: object) -> Said:
    return backup_cli("members", *words, "--lightning-dir", world.directory)


def assert_whole(world: World, *names: str, epoch: int | None = None) -> None:
    """Every one of these members alone restores the node's database, and all are in sync, and listed everywhere."""
    settings, note = read_settings(world.directory), read_members_note(world.directory)
    assert note is not None
    assert sorted(member.name for member in settings.members) == sorted(names)
    assert sorted(note.in_sync) == sorted(names)
    assert note.intent is None
    for name in names:
        document = document_of(world, name)
        assert (document.name, document.epoch, document.in_sync) == (name, note.epoch, note.in_sync)
        assert document.members == settings.members
        others = [word for other in names if other != name for word in ("--without", other)]
        target = world.root / f"restored-{name}.sqlite3"
        target.unlink(missing_ok=True)
        alone = world.root / "alone" / name
        shutil.copytree(place_of(world, name), alone / "x.bkp")
        (alone / "x.bkp" / MEMBERS).unlink()
        said = backup_cli("restore", (alone / "x.bkp").as_uri(), target)
        assert said.code == 0, (said, others)
        assert not differences(world.database, target)
        shutil.rmtree(alone)


# The list


def test_members_lists_each_with_url_and_state(several: World) -> None:
    said = members(several)
    assert said.code == 0, said
    for name in ("disk", "nas"):
        assert url_of(several, name) in said.out
    assert said.out.count("in sync") == 2


def test_members_as_json_has_name_url_state_and_space(several: World) -> None:
    result = json.loads(members(several, "--json").out)
    assert [(each["name"], each["url"], each["state"]) for each in result["members"]] == [
        ("disk", url_of(several, "disk"), "in_sync"),
        ("nas", url_of(several, "nas"), "in_sync"),
    ]
    assert all(each["free_bytes"] > 0 for each in result["members"])
    assert (result["need"], result["backup_id"]) == (1, lock_of(several)["backup_id"])


def test_members_by_url_says_which_others_were_not_asked(several: World) -> None:
    said = backup_cli("members", url_of(several, "nas"))
    assert said.code == 0, said
    assert "disk" in said.err
    assert "1 other member" in said.err


def test_member_that_is_gone_is_listed_as_unreadable_with_the_reason(several: World) -> None:
    shutil.rmtree(place_of(several, "nas"))
    said = members(several)
    assert said.code == 0, said
    assert "cannot be read" in said.out
    assert "there is no backup" in said.out


def test_members_of_a_backup_with_one_destination_says_how_to_add_one(lived: World) -> None:
    said = members(lived)
    assert said.code == 0, said
    assert f"{lived.url} is the only destination" in said.text
    assert "backup-cli member-add URL" in said.text
    assert json.loads(members(lived, "--json").out)["members"] == []


def test_members_changes_nothing(several: World) -> None:
    before = tree(several.root)
    members(several)
    backup_cli("members", url_of(several, "disk"))
    assert tree(several.root) == before


# Adding


def test_added_member_is_whole_and_in_sync(several: World, history: History) -> None:
    said = add(several, "far")
    assert said.code == 0, said
    assert f"Member far: {url_of(several, 'far')}" in said.err
    assert " ms at far." in said.err
    assert_whole(several, *NAMES)
    assert shared_files(several, "disk") == shared_files(several, "nas") == shared_files(several, "far")
    several.run(history.notes(3))
    assert_whole(several, *NAMES)


def test_backup_with_one_destination_becomes_one_with_two(lived: World, history: History) -> None:
    said = add(lived, "nas")
    assert said.code == 0, said
    assert lock_of(lived)["version"] == 2
    assert [member["name"] for member in lock_of(lived)["members"]] == ["disk", "nas"]
    assert_whole(lived, "disk", "nas")
    lived.run(history.notes(3))
    assert_whole(lived, "disk", "nas")


def test_member_is_added_before_the_nodes_first_start(world: World, history: History) -> None:
    world.init()
    assert add(world, "nas").code == 0
    world.run([history.first(), *history.notes(3)])
    assert_whole(world, "disk", "nas")


def test_trailing_member_is_added_last_and_not_in_sync(several: World) -> None:
    assert add(several, "far", trailing=True).code == 0
    assert lock_of(several)["members"][-1] == {"name": "far", "url": url_of(several, "far"), "trailing": True}
    note, document = read_members_note(several.directory), document_of(several, "far")
    assert note is not None
    assert note.in_sync == document.in_sync == ("disk", "nas")
    assert (document.epoch, document.out) == (note.epoch, {})
    assert shared_files(several, "far") == shared_files(several, "disk")


def test_added_member_gets_the_name_that_was_typed(several: World) -> None:
    assert add(several, "far", "--name", "friend").code == 0
    assert document_of(several, "far").name == "friend"


def test_json_of_an_added_member(several: World) -> None:
    result = json.loads(add(several, "far", "--json").out)
    assert result["added"] == {"name": "far", "url": url_of(several, "far"), "trailing": False}
    assert [member["name"] for member in result["members"]] == list(NAMES)


@pytest.mark.parametrize(
    ("options", "why", "code"),
    [(("--name", "nas"), "there is a member nas already", 1), (("--name", "N A S"), "is no name", 2)],
)
def test_impossible_name_is_refused(several: World, options: tuple[str, ...], why: str, code: int) -> None:
    said = add(several, "far", *options)
    assert said.code == code
    assert why in said.text
    assert not place_of(several, "far").exists()


def test_member_at_the_place_of_another_is_refused(several: World) -> None:
    assert_refused(add(several, "nas"), "are the same directory")


def test_member_where_something_exists_is_refused_and_nothing_is_touched(several: World) -> None:
    place_of(several, "far").mkdir()
    before = tree(several.root)
    assert_refused(add(several, "far"), "far/lightning.bkp is there already")
    assert tree(several.root) == before


def test_member_is_not_added_while_one_in_sync_is_away(several: World) -> None:
    shutil.rmtree(place_of(several, "nas"))
    assert_refused(add(several, "far"), "nas")
    assert not place_of(several, "far").exists()
    assert [member["name"] for member in lock_of(several)["members"]] == ["disk", "nas"]


def test_running_node_changes_its_members_itself(several: World) -> None:
    place_of(several, "far")
    before = tree(several.root)
    pid_file = several.directory.parent / f"lightningd-{several.directory.name}.pid"
    with running(PID_LOCK, pid_file):
        assert_refused(add(several, "far"), "lightning-cli backup-member-add file:///")
        assert_refused(remove(several, "nas"), "lightning-cli backup-member-remove nas")
    pid_file.unlink()
    assert tree(several.root) == before


def test_dry_runs_change_nothing(several: World) -> None:
    place_of(several, "far")
    before = tree(several.root)
    assert "would copy the backup to" in add(several, "far", "--dry-run").out
    assert "would remove the member nas" in remove(several, "nas", "--dry-run").out
    assert tree(several.root) == before


ADDING = [
    (new_members, "create_copy", 1),
    (changing_members.Changing, "begin", 1),
    (adding, "write_settings", 1),
    (changing_members.Changing, "begin", 2),
]


@pytest.mark.parametrize(("where", "name", "at"), ADDING[:3])
@pytest.mark.parametrize("one", [True, False])
def test_failed_addition_leaves_the_members_as_they_were(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch, where: object, name: str, at: int, one: bool
) -> None:
    if not one:
        assert add(lived, "nas").code == 0
    before = lock_of(lived)
    monkeypatch.setattr(where, name, failing(getattr(where, name), at, OSError(28, "No space left on device")))
    assert add(lived, "far").code == 1
    monkeypatch.undo()
    assert not place_of(lived, "far").exists()
    assert lock_of(lived) == before
    assert (lived.directory / MEMBERS_FILE).exists() is not one
    assert (place_of(lived, "disk") / MEMBERS).exists() is not one
    lived.run(history.notes(2))
    assert add(lived, "far").code == 0
    assert_whole(lived, "disk", "far", *(() if one else ("nas",)))


@pytest.mark.parametrize(("where", "name", "at"), ADDING)
@pytest.mark.parametrize("one", [True, False])
def test_node_goes_on_after_an_addition_was_killed_at_any_step(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch, where: object, name: str, at: int, one: bool
) -> None:
    if not one:
        assert add(lived, "nas").code == 0
    monkeypatch.setattr(where, name, dying(getattr(where, name), at))
    assert killed(lambda: add(lived, "far"))
    monkeypatch.undo()
    lived.run(history.notes(2))
    names = [member["name"] for member in lock_of(lived).get("members", [])]
    if "far" not in names:
        shutil.rmtree(place_of(lived, "far"), ignore_errors=True)
        assert add(lived, "far").code == 0
    lived.run(history.notes(1))
    target = lived.root / "new" / "regtest"
    target.mkdir(parents=True)
    assert backup_cli("restore", url_of(lived, "disk"), target).code == 0
    assert not differences(lived.database, target / "lightningd.sqlite3")


# Removing


def test_removed_member_keeps_its_files_and_the_others_forget_it(several: World, history: History) -> None:
    before = shared_files(several, "nas")
    said = remove(several, "nas")
    assert said.code == 0, said
    assert "never restore from them alone" in said.text
    assert shared_files(several, "nas").keys() == before.keys()
    assert [member["name"] for member in lock_of(several)["members"]] == ["disk"]
    assert document_of(several, "disk").epoch.number > document_of(several, "nas").epoch.number
    several.run(history.notes(2))
    assert_whole(several, "disk")
    assert_refused(
        backup_cli("restore", url_of(several, "nas"), several.root / "x.sqlite3"), "the member nas was removed from it"
    )


def test_first_member_is_removed_and_the_lock_names_the_next(several: World, history: History) -> None:
    assert remove(several, "disk").code == 0
    assert lock_of(several)["backend_url"] == url_of(several, "nas")
    shutil.rmtree(place_of(several, "disk"))
    several.run(history.notes(2))
    assert_whole(several, "nas")
    assert add(several, "disk").code == 0
    assert_whole(several, "disk", "nas")


def test_member_that_was_in_sync_and_is_gone_needs_its_name_typed_again(several: World, history: History) -> None:
    shutil.rmtree(place_of(several, "nas"))
    before = tree(several.root)
    assert_refused(remove(several, "nas"), "was in sync and cannot be read now .*add --without nas")
    assert remove(several, "nas", "--without", "disk").code == 2
    assert tree(several.root) == before
    said = remove(several, "nas", "--without", "nas")
    assert said.code == 0, said
    assert "what only it holds is given up" in said.err
    several.run(history.notes(2))
    assert_whole(several, "disk")


def test_other_member_is_not_removed_while_one_in_sync_is_away(several: World) -> None:
    assert add(several, "far").code == 0
    shutil.rmtree(place_of(several, "nas"))
    assert_refused(remove(several, "far"), "nas")
    assert len(lock_of(several)["members"]) == 3


def test_last_member_is_not_removed(several: World) -> None:
    assert remove(several, "nas").code == 0
    assert_refused(remove(several, "disk"), "the backup would have no member, and the node needs 1")


def test_member_that_the_node_needs_is_not_removed(world: World) -> None:
    assert init_several(world, *NAMES, options=("--need", 2), trailing=("far",)).code == 0
    assert_refused(remove(world, "nas"), "the backup would have 1 member that the node waits for, and the node needs 2")
    assert remove(world, "far").code == 0


def test_lost_member_that_the_node_needs_is_removed_with_a_smaller_need(world: World, history: History) -> None:
    assert init_several(world, *NAMES, options=("--need", 2), trailing=("far",)).code == 0
    world.run([history.first(), *history.notes(3)])
    shutil.rmtree(place_of(world, "nas"))
    assert_refused(remove(world, "nas", "--without", "nas"), "lost for good, have the node need fewer: add --need 1")
    assert_refused(remove(world, "nas", "--need", 1), "add --without nas")
    assert remove(world, "nas", "--need", 1, "--without", "nas").code == 0
    assert lock_of(world)["need"] == 1
    world.run(history.notes(3))
    assert document_of(world, "disk").need == 1


def test_name_that_no_member_has_is_refused_with_those_that_exist(several: World) -> None:
    assert_refused(remove(several, "nass"), "there is no member nass; the members are: disk ")


def test_backup_with_one_destination_has_no_member_to_remove(lived: World) -> None:
    assert_refused(remove(lived, "disk"), "has one destination .* no members that could be removed")


@pytest.mark.parametrize(
    ("where", "name"), [(changing_members.Changing, "begin"), (removing, "write_settings"), (removing, "at_rest")]
)
def test_node_goes_on_after_a_removal_was_killed_at_any_step(
    several: World, history: History, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, dying(getattr(where, name), 1))
    assert killed(lambda: remove(several, "nas"))
    monkeypatch.undo()
    several.run(history.notes(2))
    assert remove(several, "nas").code == 0
    several.run(history.notes(1))
    assert_whole(several, "disk")


def test_changes_of_another_nodes_backup_are_refused(lived: World, tmp_path: Path) -> None:
    lock = lock_of(lived)
    (lived.directory / "backup.lock").write_text(json.dumps({**lock, "backup_id": "ab" * 16}))
    assert_refused(add(lived, "nas"), "holds another backup than the one that backup.lock names")
    assert not place_of(lived, "nas").exists()
