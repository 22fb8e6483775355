"""A member loses its document `members`, one small file; everything else of it is there."""

from pathlib import Path

import pytest

from backends.log.format.members import MEMBERS
from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History, Refused, Victim
from tests.members.world import MembersWorld, eventually


@pytest.mark.parametrize("damaged", [False, True])
def test_lost_document_holds_up_no_start_although_the_database_may_not_be_the_newest(
    tmp_path: Path, damaged: bool
) -> None:
    """The start was refused: the member was said not to be connected, and to be connected before the next start."""
    world, history = _crashed(tmp_path)
    document = world.place("stick") / MEMBERS
    if damaged:
        document.write_bytes(document.read_bytes().replace(b"1", b"2", 1))
    else:
        document.unlink()
    said = backup_cli("check-config", "--lightning-dir", world.directory)
    assert "the node would not start now" not in said.out
    with world.node() as node:
        node.play(history.notes(2))
        node.init()
        eventually(lambda: set(world.note.in_sync) == set(world.names))
        node.play(history.notes(2))
    assert said_at(node, "broken") == []
    for name in world.names:
        world.assert_member_equals_the_node(name)


def test_lost_document_of_a_member_that_another_node_took_over_holds_up_the_start(tmp_path: Path) -> None:
    world, history = _crashed(tmp_path)
    (world.place("stick") / MEMBERS).unlink()
    session = world.place("stick") / "session"
    other = MembersWorld(tmp_path / "other", ("stick",)).init()
    other.run([History().first()])
    session.write_bytes((other.place("stick") / "session").read_bytes())
    said = backup_cli("check-config", "--lightning-dir", world.directory)
    assert "the node would not start now: stick" in said.out
    assert "its document `members` is missing" in said.out
    with pytest.raises(Refused, match=r"stick \(.*its document `members` is missing.*\) may hold newer changes"):
        world.run(history.notes(1))


def _crashed(tmp_path: Path) -> tuple[MembersWorld, History]:
    """A node that has died, and nothing shows any more that its database is the newest state."""
    world, history = MembersWorld(tmp_path, ("nas", "stick", "disk")).init(), History()
    node = world.node()
    node.start()
    node.play([history.first(), *history.notes(5)])
    node.die(Victim.BOTH)
    for name in ("backup.witness", "backup.found"):
        (world.directory / name).unlink(missing_ok=True)
    return world, history
