"""`backup-cli restore` from a backup with several members: which state counts, and what it asks for."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.format.members import MEMBERS, Epoch, OutOfSync
from backends.members import survey
from backends.node.lockfile import read_settings
from backends.node.members_note import read_members_note
from backup_cli import members_read
from tests.cli.cli_asserts import assert_refused
from tests.cli.several import NAMES, document_of, init_several, place_of, url_of
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, backup_cli, tree
from tests.fake_lightningd import History
from tests.members.made import directory_of, note_epoch


@pytest.fixture
def several(old_node: World) -> World:
    """A stopped node whose backup has the members disk, nas, and far, which trails. All hold the same."""
    assert init_several(old_node, *NAMES, trailing=("far",)).code == 0
    return old_node


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The network directory of a new machine."""
    path = tmp_path / "new" / "regtest"
    path.mkdir(parents=True)
    return path


def restore(target: Path, *words: object) -> Said:
    return backup_cli("restore", *words, target)


def assert_is_the_nodes(world: World, target: Path) -> None:
    assert not differences(world.database, target / "lightningd.sqlite3")


def behind(world: World, *names: str, epoch: int = 2, in_sync: tuple[str, ...]) -> None:
    """Begin an epoch at the members `names` only, as a node does that goes on without the others."""
    members = read_settings(world.directory).members
    out = {
        member.name: OutOfSync(1_764_000_000, "it was unplugged")
        for member in members
        if member.name not in in_sync and not member.trailing
    }
    on = [member for member in members if member.name in names]
    note_epoch(
        on, members, read_settings(world.directory).backup_id or "", epoch=Epoch(epoch, "s"), in_sync=in_sync, out=out
    )


def lengthen(world: World, name: str, history: History) -> None:
    """Append changes to one member only, by a node of its own that knows this member alone."""
    place, apart = place_of(world, name), world.root / "apart"
    document = (place / MEMBERS).read_bytes()
    (place / MEMBERS).unlink()
    shutil.copytree(world.directory, apart / "regtest")
    lone = World(apart / "world")
    shutil.rmtree(lone.directory)
    shutil.copytree(world.directory, lone.directory)
    for left in lone.directory.glob("backup.*"):
        left.unlink()
    lone.backup = place
    lock = {"backend_url": place.as_uri(), "backup_id": backup_at(place.as_uri()).id(), "version": 1}
    (lone.directory / "backup.lock").write_text(json.dumps(lock))
    lone.run(history.notes(3))
    (place / MEMBERS).write_bytes(document)


# Nothing is asked


@pytest.mark.parametrize("name", NAMES)
def test_one_url_is_enough_if_the_others_are_where_they_were(several: World, target: Path, name: str) -> None:
    said = restore(target, url_of(several, name))
    assert said.code == 0, said
    assert "Reading the other members of this backup" in said.err
    assert f"Restoring from the member {'disk' if name == 'far' else name} (epoch 1)" in said.err
    assert_is_the_nodes(several, target)


def test_all_urls_in_any_order_with_their_marks(several: World, target: Path) -> None:
    said = restore(target, url_of(several, "far", trailing=True), url_of(several, "nas"), url_of(several, "disk"))
    assert said.code == 0, said
    assert "Reading the other members" not in said.err
    assert_is_the_nodes(several, target)


def test_restore_writes_nothing_to_any_member(several: World, target: Path) -> None:
    places = [place_of(several, name) for name in NAMES]
    before = tree(*places, locks=True)
    assert restore(target, "--resume", url_of(several, "nas")).code == 0
    assert tree(*places) == {path: seen for path, seen in before.items() if not path.endswith("/lock")}
    assert restore(target, "--dry-run", "--replace", url_of(several, "nas")).code == 0
    assert tree(*places) == {path: seen for path, seen in before.items() if not path.endswith("/lock")}


def test_newest_epoch_counts_although_an_older_one_has_the_longer_log(
    several: World, target: Path, history: History
) -> None:
    lengthen(several, "nas", history)
    behind(several, "disk", in_sync=("disk",))
    said = restore(target, url_of(several, "nas"))
    assert said.code == 0, said
    assert "Restoring from the member disk (epoch 2)" in said.err
    assert_is_the_nodes(several, target)


def test_longer_log_counts_within_one_epoch(several: World, target: Path, history: History) -> None:
    lengthen(several, "nas", history)
    said = restore(target, url_of(several, "disk"))
    assert said.code == 0, said
    assert "Restoring from the member nas" in said.err
    with closing(sqlite3.connect(target / "lightningd.sqlite3")) as database:
        version = database.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchone()[0]
    assert version > several.version


def test_directory_above_a_member_names_it(several: World, target: Path) -> None:
    assert restore(target, place_of(several, "nas").parent.as_uri()).code == 0


def test_member_that_was_moved_is_known_by_its_document(several: World, target: Path, tmp_path: Path) -> None:
    for name in ("disk", "nas"):
        (tmp_path / "moved" / name).mkdir(parents=True)
        place_of(several, name).rename(tmp_path / "moved" / name / "x.bkp")
    urls = [(tmp_path / "moved" / name / "x.bkp").as_uri() for name in ("disk", "nas")]
    assert restore(target, *urls).code == 0


def test_json_names_the_member_that_was_restored_from(several: World, target: Path) -> None:
    result = json.loads(restore(target, "--json", url_of(several, "nas")).out)
    assert (result["member"], result["epoch"], result["without"]) == ("nas", 1, [])
    assert result["url"] == url_of(several, "nas")


def test_link_to_a_member_is_that_member(several: World, target: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place_of(several, "nas").parent)
    assert restore(target, (link / "lightning.bkp").as_uri()).code == 0


# Members that are missing


def test_missing_member_is_named_and_asked_for(several: World, target: Path) -> None:
    shutil.rmtree(place_of(several, "nas"))
    said = restore(target, url_of(several, "disk"))
    assert_refused(said, "1 member of this backup could not be read.*add --without nas[.]")
    assert f"nas ({url_of(several, 'nas')}): in sync" in said.err
    assert "so it may hold newer changes; not read because: there is no backup" in said.text
    assert not list(target.iterdir())
    said = restore(target, "--without", "nas", url_of(several, "disk"))
    assert said.code == 0, said
    assert "because of --without, this is restored without nas" in said.err
    assert_is_the_nodes(several, target)


def test_lone_survivor_asks_for_each_of_the_others(several: World, target: Path) -> None:
    behind(several, "far", in_sync=("nas",))
    for name in ("disk", "nas"):
        shutil.rmtree(place_of(several, name))
    said = restore(target, url_of(several, "far"))
    assert_refused(said, "2 members of this backup.*add --without disk --without nas[.]")
    assert "out of sync since" in said.err
    assert "(it was unplugged), so probably older" in said.err
    assert_refused(restore(target, "--without", "nas", url_of(several, "far")), "--without disk --without nas")
    said = restore(target, "--without", "nas", "--without", "disk", url_of(several, "far"))
    assert said.code == 0, said
    assert_is_the_nodes(several, target)


def test_json_error_lists_the_names_to_type(several: World, target: Path) -> None:
    shutil.rmtree(place_of(several, "nas"))
    error = json.loads(restore(target, "--json", url_of(several, "disk")).out)["error"]
    assert (error["kind"], error["exit_code"], error["without"]) == ("members_missing", 1, ["nas"])
    assert len(error["listed"]) == 1


def test_dry_run_asks_for_the_same_consent(several: World, target: Path) -> None:
    shutil.rmtree(place_of(several, "nas"))
    assert_refused(restore(target, "--dry-run", url_of(several, "disk")), "add --without nas")
    said = restore(target, "--dry-run", "--resume", "--without", "nas", url_of(several, "disk"))
    assert said.code == 0
    assert " and ".join(url_of(several, name) for name in NAMES) in said.text


def test_wiped_member_is_missing(several: World, target: Path) -> None:
    shutil.rmtree(place_of(several, "nas"))
    place_of(several, "nas").mkdir()
    assert_refused(restore(target, url_of(several, "disk")), "add --without nas")


def test_old_copy_of_a_member_in_its_place_is_asked_for(several: World, target: Path) -> None:
    behind(several, "disk", in_sync=("disk", "nas"))
    said = restore(target, url_of(several, "nas"))
    assert_refused(said, "add --without nas")
    assert "an older copy of it (of epoch 1; the newest that was read is 2)" in said.err


def test_unknown_name_is_refused(several: World, target: Path) -> None:
    assert_refused(restore(target, "--without", "nass", url_of(several, "disk")), "they are: disk, nas, far")


def test_without_means_nothing_for_a_backup_with_one_destination(lived: World, target: Path) -> None:
    assert_refused(restore(target, "--without", "nas", lived.url), "a backup with one destination")


def test_member_that_hangs_is_given_up_and_asked_for(
    several: World, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def opened(url: str) -> object:
        if url == url_of(several, "nas"):
            over.wait(60)
        return backup_at(url)

    monkeypatch.setattr(survey, "backup_at", opened)
    monkeypatch.setattr(members_read, "WITHIN", 1.0)
    try:
        said = restore(target, url_of(several, "disk"))
    finally:
        over.set()
    assert_refused(said, "add --without nas")
    assert "it has not answered for 1 seconds" in said.err


# What does not belong together


def test_url_of_another_backup_is_refused_by_name(several: World, target: Path) -> None:
    other = several.root / "other.bkp"
    assert backup_cli("init", "--lightning-dir", several.directory, other.as_uri()).code == 0
    said = restore(target, url_of(several, "disk"), other.as_uri())
    assert_refused(said, "other.bkp is no member of this backup: this backup is there, but its document|two different")
    several2 = several.root / "a" / "b.bkp"
    several2.parent.mkdir()
    init = backup_cli("init", "--lightning-dir", several.directory, several2.as_uri(), f"{several2.as_uri()}2")
    assert init.code == 0
    said = restore(target, url_of(several, "disk"), several2.as_uri())
    assert_refused(said, "hold two different backups")


def test_url_that_cannot_be_read_and_is_no_members_is_refused_by_name(several: World, target: Path) -> None:
    said = restore(target, url_of(several, "disk"), url_of(several, "nowhere"))
    assert_refused(
        said, "nowhere/lightning.bkp could not be read .* no member of this backup has that URL; they are: disk"
    )


def test_url_of_a_member_that_cannot_be_read_is_that_member(several: World, target: Path) -> None:
    shutil.rmtree(place_of(several, "nas"))
    said = restore(target, url_of(several, "nas"), url_of(several, "disk"))
    assert_refused(said, "add --without nas")
    assert restore(target, "--without", "nas", url_of(several, "nas"), url_of(several, "disk")).code == 0


def test_member_that_was_removed_is_refused_by_name(several: World, target: Path) -> None:
    settings = read_settings(several.directory)
    left = settings.members[:1]
    note_epoch(left, left, settings.backup_id or "", epoch=Epoch(7, "s"))
    said = restore(target, url_of(several, "nas"))
    assert_refused(said, "nas/lightning.bkp is no member of this backup: the member nas was removed from it")
    assert restore(target, url_of(several, "disk")).code == 0, "the others are not asked for any more"


def test_older_copy_of_a_member_next_to_the_real_one_is_refused(several: World, target: Path, tmp_path: Path) -> None:
    shutil.copytree(place_of(several, "nas"), tmp_path / "copy.bkp")
    assert restore(target, (tmp_path / "copy.bkp").as_uri()).code == 0, "the same state by another URL"
    shutil.rmtree(target)
    target.mkdir()
    behind(several, *NAMES, in_sync=("disk", "nas"))
    said = restore(target, (tmp_path / "copy.bkp").as_uri())
    assert_refused(said, "both hold the member nas, in different states: one of them is an older copy")


# Damage


def damage(place: Path, name: str) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / name).write_bytes(data)


@pytest.mark.parametrize("file", ["snapshot-00000001", "manifest", "session"])
def test_damage_in_one_member_is_passed_over_for_another_in_sync(several: World, target: Path, file: str) -> None:
    damage(place_of(several, "disk"), file)
    said = restore(target, "--resume", url_of(several, "disk"))
    assert said.code == 0, said
    assert "Restoring from the member nas" in said.err
    assert_is_the_nodes(several, target)
    note = read_members_note(target)
    assert note is not None
    assert note.in_sync == ("nas",), "the damaged one has to be caught up"
    assert set(note.out) == {"disk"}


def test_damage_in_every_member_in_sync_asks_before_it_takes_an_older_one(several: World, target: Path) -> None:
    for name in ("disk", "nas"):
        damage(place_of(several, name), "snapshot-00000001")
    said = restore(target, url_of(several, "far"))
    assert_refused(said, "2 members of this backup could not be read.*add --without disk --without nas")
    assert said.err.count("it is damaged: ") >= 2
    said = restore(target, "--without", "disk", "--without", "nas", url_of(several, "far"))
    assert said.code == 0, said
    assert "Restoring from the member far" in said.err
    assert_is_the_nodes(several, target)


def test_damage_in_every_member_ends_with_exit_code_3(several: World, target: Path) -> None:
    for name in NAMES:
        damage(place_of(several, name), "snapshot-00000001")
    words = ["--without", "disk", "--without", "nas", url_of(several, "far")]
    assert_refused(restore(target, *words), "the backup is damaged", code=3)
    assert not list(target.iterdir())


def test_damaged_document_of_a_lone_member_asks_for_consent_to_the_unknown(several: World, target: Path) -> None:
    damage(place_of(several, "disk"), MEMBERS)
    said = restore(target, url_of(several, "disk"))
    assert_refused(said, "its document `members` is damaged .*add --without unknown")
    assert_refused(restore(target, "--resume", "--without", "unknown", url_of(several, "disk")), "without --resume")
    assert restore(target, "--without", "unknown", url_of(several, "disk")).code == 0
    assert_is_the_nodes(several, target)


# Going on with the same backup


def test_resume_writes_lock_and_note_of_all_members(several: World, target: Path) -> None:
    before = read_settings(several.directory)
    assert restore(target, "--resume", url_of(several, "far")).code == 0
    settings, note = read_settings(target), read_members_note(target)
    assert settings == before
    assert note is not None
    assert (note.epoch, note.intent, note.sessions, note.adopted) == (Epoch(1, ""), None, (), 1)
    assert note.in_sync == ("disk", "nas")
    assert not note.out
    assert set(note.mounts) == set(NAMES)


def test_members_given_up_stay_configured_and_are_out_of_sync(several: World, target: Path) -> None:
    behind(several, "disk", "nas", "far", epoch=6, in_sync=("disk", "nas"))
    shutil.rmtree(place_of(several, "nas"))
    said = restore(target, "--resume", "--without", "nas", url_of(several, "disk"))
    assert said.code == 0, said
    settings, note = read_settings(target), read_members_note(target)
    assert [member.name for member in settings.members] == list(NAMES)
    assert note is not None
    assert (note.epoch, note.in_sync, note.adopted) == (Epoch(6, "s"), ("disk",), 1)
    assert note.knows(Epoch(6, "s"))
    assert not note.knows(Epoch(7, "s"))
    assert note.out["nas"].why == "it was not there when the node was restored"
    assert "nas" not in note.mounts


def test_resume_keeps_the_new_url_of_a_member_and_this_nodes_grace(several: World, tmp_path: Path) -> None:
    lock = json.loads((several.directory / "backup.lock").read_text())
    (several.directory / "backup.lock").write_text(json.dumps({**lock, "grace": 2.5}))
    (tmp_path / "moved").mkdir()
    place_of(several, "nas").rename(tmp_path / "moved" / "x.bkp")
    url = (tmp_path / "moved" / "x.bkp").as_uri()
    said = backup_cli("restore", "--resume", "--replace", url, several.directory)
    assert said.code == 0, said
    settings = read_settings(several.directory)
    assert settings.grace == 2.5
    assert [member.url for member in settings.members] == [url_of(several, "disk"), url, url_of(several, "far")]


def test_resume_from_a_member_that_was_not_in_sync_is_refused(several: World, target: Path) -> None:
    for name in ("disk", "nas"):
        shutil.rmtree(place_of(several, name))
    words = ["--without", "disk", "--without", "nas", url_of(several, "far")]
    assert_refused(restore(target, "--resume", *words), "no member that was in sync can be read")
    assert restore(target, *words).code == 0


def test_resume_warns_if_the_node_needs_more_members(old_node: World, target: Path) -> None:
    assert init_several(old_node, "disk", "nas", options=("--need", 2)).code == 0
    shutil.rmtree(place_of(old_node, "nas"))
    said = restore(target, "--resume", "--without", "nas", url_of(old_node, "disk"))
    assert said.code == 0, said
    assert "the node needs 2 members in sync, and only 1 is here" in said.text


def test_two_histories_of_one_number_need_a_person_and_stay_apart(several: World, target: Path) -> None:
    settings = read_settings(several.directory)
    behind(several, "disk", "far", epoch=2, in_sync=("disk",))
    nas = [member for member in settings.members if member.name == "nas"]
    note_epoch(nas, settings.members, settings.backup_id or "", epoch=Epoch(2, "another"), in_sync=("nas",))
    said = restore(target, url_of(several, "disk"))
    assert_refused(said, "were written by two nodes that did not know of each other")
    said = restore(target, "--resume", "--without", "nas", url_of(several, "disk"))
    assert said.code == 0, said
    note = read_members_note(target)
    assert note is not None
    assert note.knows(Epoch(2, "s"))
    assert not note.knows(Epoch(2, "another")), "what the other node wrote is not overwritten"
    assert document_of(several, "nas").epoch == Epoch(2, "another")


def test_newer_database_is_still_not_replaced_by_members(several: World, history: History) -> None:
    several.run_without_plugin(history.notes(2))
    said = backup_cli("restore", "--replace", url_of(several, "disk"), several.directory)
    assert_refused(said, "--discard-newer")
    assert directory_of(read_settings(several.directory).members[0]).exists()
