"""A node that is behind a backup that is known to be damaged: brought forward if that is proven, and otherwise no
message advises a restore that is known to fail."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.known_damage import DAMAGE, found_now
from plugin.at_start import WhyLeft
from tests.cli.following import once, promote
from tests.cli.test_newest_state import LOST, typed
from tests.end_to_end.db_compare import differences
from tests.end_to_end.test_known_damage import assert_healed, by_verify, running
from tests.end_to_end.world import World, backup_cli, said_at, snapshots_taken, tree
from tests.fake_lightningd import Call, History, Moment, Refused


def note_damage(world: World, *, doubt: bool = False) -> None:
    generation = world.status()["generation"]
    backup_at(world.url).damage.note(found_now("verify", "a cable erred", generation, doubt=doubt))


def shown(world: World) -> str:
    """What check-config shows."""
    return backup_cli("check-config", "--lightning-dir", world.directory).out


def refused(world: World, call: Call) -> str:
    """What the node's next start is refused with. It changes nothing in the backup, nor in the database."""
    before = tree(world.backup, world.database)
    node = world.node()
    node.start()
    with pytest.raises(Refused) as error:
        node.db_write(call)
    assert tree(world.backup, world.database) == before
    assert error.value.message.isascii()
    return error.value.message


def told(text: str, command: str) -> str:
    """The one command in this text that begins so, to the end of its sentence."""
    found = re.findall(rf"backup-cli {command} .*?(?=\. |\n| \(|$)", text)
    assert len(set(found)) == 1, (command, text)
    return str(found[0])


def assert_advises_no_plain_restore(text: str) -> None:
    """Before the restore command, the text says what must be known first."""
    before, _, _ = " ".join(text.split()).partition("backup-cli restore")
    assert "do not restore from it yet" in before.lower()
    assert "Only if" in before.rpartition("do not restore")[2].partition(". ")[2]


def test_node_killed_before_its_commit_is_brought_forward_despite_damage_that_was_proved(
    lived: World, history: History
) -> None:
    node = running(lived, history)
    node.die_at(Moment.BEFORE_COMMIT, history.note())
    assert by_verify(lived).code == 3 and (lived.backup / DAMAGE).exists()
    assert "the node's next start brings it forward by itself" in shown(lived)
    with lived.node() as again:
        assert lived.version == history.version
        again.play(history.notes(2))
    forward, *_ = said_at(again, "unusual")
    assert "1 change behind its backup" in forward and "they were replayed" in forward
    assert len(snapshots_taken(again)) == 1
    assert_healed(lived)


def test_missing_change_that_cannot_be_replayed_is_refused_with_verify_and_resync(
    lived: World, history: History
) -> None:
    """The damage is in the very change that the database lacks."""
    node = lived.node()
    node.start()
    node.play(history.notes(3))
    good = history.note()
    node.execute(good)
    node.ask(Call(good.data_version, ("INSERT INTO nowhere VALUES (1)", good.writes[-1])))
    node.die()
    assert by_verify(lived).code == 3
    assert "unless what was found is in one of these changes" in shown(lived)
    said = refused(lived, good)
    assert WhyLeft.CHANGE_FAILED.value in said
    assert_advises_no_plain_restore(said)
    assert typed(told(said, "verify")).code == 3
    before = tree(lived.root)
    assert typed(told(said, "restore")).code == 3, "what must not be advised without a verify that passes"
    assert tree(lived.root) == before
    assert typed(told(said, "resync")).code == 0
    lived.run([good, *history.notes(2)])
    assert_healed(lived)


def test_old_copy_beside_known_damage_is_restored_once_verify_says_that_the_backup_is_whole(
    lived: World, history: History
) -> None:
    old, newest = lived.root / "old", lived.root / "newest"
    shutil.copy(lived.database, old)
    lived.run(history.notes(LOST))
    lived.database.rename(newest)
    old.rename(lived.database)
    note_damage(lived)
    said = refused(lived, History(lived.version).note())
    resynced = backup_cli("resync", "--lightning-dir", lived.directory)
    assert resynced.code == 1
    for text in (said, shown(lived), resynced.err, backup_cli("status", "--lightning-dir", lived.directory).out):
        assert_advises_no_plain_restore(text)
    verified = typed(told(said, "verify"))
    assert verified.code == 0 and "is whole" in verified.out
    assert typed(told(said, "restore")).code == 0
    assert differences(lived.database, newest) == []


def lost(world: World) -> None:
    world.database.unlink()


def corrupt(world: World) -> None:
    world.database.write_bytes(b"not a database" * 1000)


@pytest.mark.parametrize("doubt", [False, True])
@pytest.mark.parametrize("happens", [lost, corrupt])
def test_database_that_is_gone_beside_something_noted_is_not_just_restored(
    lived: World, happens: Callable[[World], None], doubt: bool
) -> None:
    happens(lived)
    note_damage(lived, doubt=doubt)
    texts = [shown(lived)]
    if happens is not corrupt:  # that one is told to look at check-config
        texts.append(backup_cli("resync", "--lightning-dir", lived.directory).err)
    for text in texts:
        assert_advises_no_plain_restore(text)
        assert "resync --lightning-dir" not in text, "there is nothing that could be put in the place of the backup"
    assert typed(told(texts[0], "restore")).code == 0, "it was only noted: all of it can be read"
    assert lived.version == 6


def test_promotion_from_a_backup_that_something_is_noted_against_says_so(lived: World, warm: Path) -> None:
    assert once(lived, warm).code == 0
    note_damage(lived)
    dry, done = promote(lived, warm, "--dry-run"), promote(lived, warm)
    assert (dry.code, done.code) == (0, 0)
    for said in (dry, done):
        assert "this backup is known to be damaged" in said.text
        assert "If the node's own disk is alive, do not start a node from this" in said.text
