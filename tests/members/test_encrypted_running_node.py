"""An encrypted backup with several members under the real plugin: what opens each of them alone is hsm_secret, and
nothing more."""

import shutil
from pathlib import Path

import pytest

from backends import backup_at, keyring
from backends.log.ciphertext import check_ciphertext
from backends.node.key_file import KEY_FILE, read_key
from backends.node.members_note import MembersNote, read_members_note
from backends.storage.local import LocalStorage
from tests.cli.made_encrypted import with_secret
from tests.cli.several import document_of, dying, init_several, killed, place_of, shared_files, url_of
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History, Moment, Node, Victim
from tests.known_secret import SECRET
from tests.members.elsewhere import wipe
from tests.members.world import eventually

KILLED_AT = (1, 4, 7, 10)
"""Numbers of the documents that the change-over is killed at: before the key slots, and at the members' documents."""


def note(world: World) -> MembersNote:
    found = read_members_note(world.directory)
    assert found is not None
    return found


def in_sync(world: World, *names: str) -> None:
    eventually(lambda: set(note(world).in_sync) == set(names) and note(world).intent is None)


def started(world: World, environment: dict[str, str] | None = None) -> Node:
    node = world.node(environment=environment or {})
    node.start()
    return node


def caught_up(node: Node, name: str) -> None:
    """The member that trails holds everything."""

    def is_there() -> bool:
        members = node.rpc("backup-status", {})["members"]
        return any((each["name"], each["lag_changes"]) == (name, 0) for each in members)

    eventually(is_there)


def assert_each_equals_the_node(world: World, *names: str) -> None:
    """Nothing is readable at any of them, and each alone is the node's database, for whoever has hsm_secret only."""
    secret = world.root / "hsm_secret-on-paper"
    secret.write_bytes(SECRET)
    for name in names:
        check_ciphertext(backup_at(url_of(world, name)).storage)
        keyring.forget()
        world.restores += 1
        alone = world.root / f"alone-{world.restores}" / "lightning.bkp"
        shutil.copytree(place_of(world, name), alone, ignore=shutil.ignore_patterns("members", "lock"))
        target = world.root / f"restored-{world.restores}-{name}.sqlite3"
        assert backup_cli("restore", alone.as_uri(), target).code == 1  # without anything that opens it
        said = backup_cli("restore", "--hsm-secret", secret, alone.as_uri(), target)
        assert said.code == 0, said
        assert differences(target, world.database) == [], name


def test_encrypted_members_fail_join_and_are_killed_and_each_restores_with_hsm_secret_alone(
    world: World, history: History
) -> None:
    said = init_several(with_secret(world), "nas", "stick", "far", options=("--encrypt",), trailing=("far",))
    assert said.code == 0, said
    node = started(world, environment={"LIGHTNINGD_BACKUP_COMPACT_AT": "400"})
    node.play([history.first(), *history.notes(20)])
    assert node.initialised
    node.wait_for_log("compaction ended", 60)

    assert node.stop() == 0
    place_of(world, "stick").parent.rename(world.root / "unplugged")
    node = started(world, environment={"LIGHTNINGD_BACKUP_COMPACT_AT": "400"})
    node.play(history.notes(10))
    assert note(world).in_sync == ("nas",)
    (world.root / "unplugged").rename(world.root / "stick")
    in_sync(world, "nas", "stick")

    assert node.rpc("backup-member-add", {"url": url_of(world, "disk")})["added"] == "disk"
    node.play(history.notes(5))
    in_sync(world, "nas", "stick", "disk")

    wipe(place_of(world, "nas"))
    node.play(history.notes(5))
    in_sync(world, "nas", "stick", "disk")
    node.play(history.notes(5))
    node.die_at(Moment.BEFORE_COMMIT, history.note(), Victim.BOTH)

    history.version = world.version + 1  # the next start brings the database forward by the change in flight
    node = started(world)
    assert world.version == history.version
    node.play(history.notes(5))
    in_sync(world, "nas", "stick", "disk")
    caught_up(node, "far")
    node.stop()
    assert said_at(node, "broken") == [], node.logs
    assert shared_files(world, "nas") == shared_files(world, "stick") == shared_files(world, "disk")
    assert_each_equals_the_node(world, "nas", "stick", "disk", "far")


@pytest.mark.parametrize("at", KILLED_AT)
def test_change_over_of_two_members_killed_in_the_middle_is_finished_when_repeated(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    assert init_several(with_secret(world), "nas", "stick").code == 0
    world.run([history.first(), *history.notes(10)])
    resync = ("resync", "--encrypt", "--lightning-dir", world.directory)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "publish", dying(LocalStorage.publish, at))
        assert killed(lambda: backup_cli(*resync)), "it ended before this step"
    assert (world.directory / KEY_FILE).exists()
    keyring.forget()
    node = world.run(history.notes(3))
    assert said_at(node, "broken") == [], node.logs
    key = read_key(world.directory)
    assert key is not None
    keyring.forget()
    said = backup_cli(*resync)
    assert said.code == 0 or "is encrypted already" in said.err, said
    again = read_key(world.directory)
    assert again is not None and not again.pending and again.key == key.key
    assert document_of(world, "nas").key == document_of(world, "stick").key == key.key.id
    keyring.forget()
    world.run(history.notes(3))
    assert Path(world.directory / KEY_FILE).stat().st_mode & 0o777 == 0o400
    assert_each_equals_the_node(world, "nas", "stick")
