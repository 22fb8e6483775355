"""`backup-cli follow --promote`: what a node then starts from, and a promotion that is killed between its steps."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.change import DATABASE_HEADER, Change, is_following
from backends.errors import BackupError
from backends.node.following import COPY, NOTE
from backup_cli.following import promotion
from backup_cli.following.copy_directory import CopyDirectory
from backup_cli.restore_members import Source
from tests.cli.cli_asserts import assert_refused, restore
from tests.cli.following import once, promote
from tests.cli.several import KILLED, dying, failing, killed
from tests.end_to_end.db_compare import compared, differences, everything
from tests.end_to_end.world import World, backup_cli, snapshots_taken, tree
from tests.fake_lightningd import History, Refused
from tests.log.histories import CAMPAIGN, silent

pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture
def followed(lived: World, history: History, warm: Path) -> World:
    """A node with a copy that lacks its last three changes."""
    assert once(lived, warm).code == 0
    lived.run(history.notes(3))
    return lived


def assert_goes_on(world: World, warm: Path, history: History) -> None:
    """The promoted database is that of the node, which goes on from it with the same backup, without a snapshot."""
    promoted = World(world.root, "promoted")
    promoted.directory, promoted.backup = warm, world.backup
    assert compared(everything(promoted.database), everything(world.database)) == []
    assert not is_following(promoted.database.read_bytes()[:DATABASE_HEADER])
    assert promoted.database.read_bytes()[60:72] == bytes(12), "as lightningd leaves these fields"
    assert promoted.database.stat().st_mode & 0o777 == 0o600
    assert not (warm / NOTE).exists() and not (warm / COPY).exists()
    node = promoted.run(history.notes(3))
    assert snapshots_taken(node) == []
    assert differences(promoted.restore(), promoted.database) == []


def test_promoted_copy_is_the_nodes_database_and_the_node_goes_on(
    followed: World, history: History, warm: Path
) -> None:
    said = promote(followed, warm, "--json")
    assert said.code == 0, said
    document = json.loads(said.out)
    assert (document["changes"], document["data_version"]) == (3, followed.version)
    assert "The old node must never run again" in said.err
    assert_goes_on(followed, warm, history)


def test_old_node_is_fenced_by_a_promotion(followed: World, history: History, warm: Path) -> None:
    assert promote(followed, warm).code == 0
    promoted = World(followed.root, "promoted")
    promoted.directory, promoted.backup = warm, followed.backup
    promoted.run(History(promoted.version).notes(1))
    with pytest.raises(Refused), followed.node() as node:
        node.play(history.notes(1))


def test_old_node_that_is_started_again_before_the_new_one_does_not_go_on(
    followed: World, history: History, warm: Path
) -> None:
    """A service manager does that at once, and what such a node saves would be lost with the promoted copy's start."""
    assert promote(followed, warm).code == 0
    before = tree(followed.backup)
    with pytest.raises(Refused, match="another node"):
        followed.run(history.notes(1))
    assert tree(followed.backup) == before
    history.version = followed.version
    assert_goes_on(followed, warm, history)


def test_promotion_that_fails_after_the_fence_says_what_the_old_node_needs(
    followed: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(promotion, "_reached", failing(promotion._reached, 1, BackupError("the disk is full")))
        said = promote(followed, warm)
    assert said.code == 1 and "the disk is full" in said.err and "backup-cli resync" in said.err
    words = ("resync", "--lightning-dir", followed.directory)
    assert_refused(backup_cli(*words), f"add --discard-newer {followed.version} ")
    assert backup_cli(*words, "--discard-newer", followed.version).code == 0
    followed.run(history.notes(1))


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_journal_of_the_nodes_former_database_is_not_rolled_back_into_the_promoted_one(
    suffix: str, followed: World, warm: Path
) -> None:
    """Somebody has moved lightningd.sqlite3 away, and left that behind."""
    stale = warm / f"lightningd.sqlite3{suffix}"
    stale.write_bytes(b"pages of another database")
    assert_refused(promote(followed, warm), f"{suffix} exists: it belongs to another database")
    stale.unlink()
    assert promote(followed, warm).code == 0


def test_promotion_builds_the_copy_if_there_is_none(lived: World, history: History, warm: Path) -> None:
    assert promote(lived, warm).code == 0
    assert_goes_on(lived, warm, history)


@pytest.mark.parametrize("followed_before", [False, True])
def test_promotion_of_a_backup_that_holds_no_database_is_refused_as_a_restore_of_it_is(
    followed_before: bool, world: World, warm: Path
) -> None:
    """It said that version 0 was promoted, and made an empty file a node's database."""
    world.init()
    if followed_before:
        assert once(world, warm).code == 0
    before, there = tree(world.backup, locks=True), sorted(warm.iterdir())
    refused = restore(world, world.root / "x.sqlite3", *map(str, world.key_options))
    what = refused.err.splitlines()[-1].partition(" Nothing was restored")[0]
    assert what.startswith("error: the backup holds no database yet")
    for options in (("--dry-run",), ()):
        said = promote(world, warm, *options)
        assert_refused(said, "Nothing was promoted; a copy goes on following with: backup-cli follow")
        assert what in said.err
    assert tree(world.backup, locks=True) == before, "the backup was not taken over"
    assert sorted(warm.iterdir()) == there
    history = History()
    world.run([history.first(), *history.notes(2)])
    assert promote(world, warm).code == 0
    assert_goes_on(world, warm, history)


def test_copy_ahead_of_a_backup_that_was_set_back_to_nothing_is_not_said_to_be_of_a_node_that_never_started(
    world: World, history: History, warm: Path
) -> None:
    old = world.init().root / "old"
    shutil.copytree(world.backup, old)
    world.run([history.first()])
    assert once(world, warm).code == 0
    world.backup.rename(world.root / "newer")
    old.rename(world.backup)
    assert_refused(promote(world, warm), "the copy .* is at version 1, and .* ends at version 0")


def test_dry_run_of_a_promotion_changes_nothing(followed: World, warm: Path) -> None:
    before = tree(warm, followed.backup, locks=True)
    said = promote(followed, warm, "--dry-run")
    assert said.code == 0 and f"rename {COPY} to lightningd.sqlite3" in said.text
    assert tree(warm, followed.backup, locks=True) == before


def test_promotion_beside_a_running_node_is_refused(followed: World, history: History, warm: Path) -> None:
    """Its lock in the backup shows that it runs on this machine: then even --take-over does not help."""
    before = everything(warm / COPY)
    with followed.node() as node:
        node.play(history.notes(4))
        for options in ((), ("--take-over",), ("--dry-run",)):
            said = promote(followed, warm, *options)
            assert_refused(said, "Nothing was promoted")
            assert "--take-over" not in said.text and "restore" not in said.text, "neither would help"
        node.play(history.notes(1))
    assert (warm / COPY).exists() and not (warm / "backup.lock").exists()
    assert everything(warm / COPY).keys() == before.keys()


def test_promotion_over_a_database_is_refused(followed: World, warm: Path) -> None:
    (warm / "lightningd.sqlite3").write_bytes(b"")
    assert_refused(promote(followed, warm), "exists: this is a node's own directory")
    assert (warm / COPY).exists()


STEPS: dict[str, tuple[object, str]] = {
    "before it is fenced": (promotion, "_fenced"),
    "before the rest": (promotion, "_finish"),
    "before it is noted": (promotion, "_released"),
    "before it loses its mark": (promotion, "release_followed"),
    "after it lost its mark": (promotion, "release_followed"),
    "before the node's files": (promotion, "put_back"),
    "before it is renamed": (Path, "rename"),
    "after it was renamed": (promotion, "set_old_lock_aside"),
    "before backup.lock": (Source, "hand_over"),
    "before the note goes": (CopyDirectory, "remove_note"),
}


def _done_and_dead(real: Callable[..., object]) -> Callable[..., object]:
    """Does what `real` does, and ends the process then, as kill -9 does."""

    def act(*arguments: object) -> None:
        real(*arguments)
        os._exit(KILLED)

    return act


@pytest.mark.parametrize("step", STEPS if CAMPAIGN > 1 else ["after it lost its mark", "after it was renamed"])
def test_promotion_killed_between_its_steps_is_repeated(
    step: str, followed: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = STEPS[step]
    with monkeypatch.context() as patched:
        real = getattr(place, name)
        patched.setattr(place, name, _done_and_dead(real) if step == "after it lost its mark" else dying(real, 1))
        assert killed(lambda: promote(followed, warm))
    if (warm / COPY).exists() and (warm / "lightningd.sqlite3").exists():
        raise AssertionError("never two")
    call = history.note("saved by the old node, which somebody has let go on")
    followed.run_without_plugin([call])
    with closing(backup_at(followed.url).open(silent)) as writer:
        writer.append(Change(call.data_version, list(call.writes)))
    said = promote(followed, warm)
    assert said.code == 0, said
    assert_goes_on(followed, warm, history)


@pytest.mark.parametrize("step", ["before the node's files", "after it was renamed", "before backup.lock"])
def test_every_command_in_the_directory_of_a_promotion_that_was_cut_off_says_to_repeat_it(
    step: str, followed: World, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One said that the directory is a node's own, and one that the file is to be moved away."""
    place, name = STEPS[step]
    with monkeypatch.context() as patched:
        patched.setattr(place, name, dying(getattr(place, name), 1))
        assert killed(lambda: promote(followed, warm))
    renamed = (warm / "lightningd.sqlite3").exists()
    said = promote(followed, warm, "--dry-run")
    assert said.code == 0, said
    assert f"would begin anew with the promotion of version {followed.version}, which was cut off" in said.text
    again = f"backup-cli follow --promote {followed.url} {warm}"
    assert_refused(backup_cli("follow", "--once", followed.url, warm), again)
    if renamed:
        assert again in backup_cli("check-config", "--lightning-dir", warm).text
    said = promote(followed, warm)
    assert said.code == 0, said
    assert_refused(promote(followed, warm), "If a copy was promoted here, that is done")
    assert "cut off" not in backup_cli("check-config", "--lightning-dir", warm).text


def test_promotion_that_was_cut_off_is_neither_promised_nor_finished_with_a_database_that_changed_since(
    followed: World, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Source, "hand_over", dying(Source.hand_over, 1))
        assert killed(lambda: promote(followed, warm))
    os.utime(warm / "lightningd.sqlite3")
    for options in (("--dry-run",), ()):
        assert_refused(promote(followed, warm, *options), "is not the file that an earlier promotion")


def test_changes_that_reach_the_backup_before_the_fence_are_promoted(
    followed: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's node saves one more after the copy was brought up to date, and before it is fenced."""
    fence = promotion._fenced

    def late(source: object) -> object:
        call = history.note("at the last moment")
        followed.run_without_plugin([call])
        (followed.backup / "lock").unlink()  # which is this machine's
        with closing(backup_at(followed.url).open(silent)) as writer:
            writer.append(Change(call.data_version, list(call.writes)))
        return fence(source)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "_fenced", late)
    said = promote(followed, warm, "--json")
    assert said.code == 0 and json.loads(said.out)["changes"] == 4, said
    assert compared(everything(warm / "lightningd.sqlite3"), everything(followed.database)) == []
