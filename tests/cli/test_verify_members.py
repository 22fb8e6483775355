"""`backup-cli verify` of several members: the good copy of a damaged file is named, and `--repair` mends the other."""

import json
import random
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.format.keys import KEYS
from backends.log.format.records import segment_index
from tests.cli.cli_asserts import assert_refused
from tests.cli.made_encrypted import with_secret
from tests.cli.several import init_several, place_of
from tests.end_to_end.world import Said, World, backup_cli, tree
from tests.fake_lightningd import History
from tests.log.histories import change, silent
from tests.members.world import MembersWorld

SEGMENT = "segment-00000001"


@pytest.fixture
def members(tmp_path: Path) -> MembersWorld:
    """Two members that hold the same changes, of a node that has stopped."""
    world = MembersWorld(tmp_path).init()
    first = backup_at(world.members[0].url)
    history = History()
    with closing(first.open(silent, "one")) as writer:
        for call in [history.first(), *(history.note("x" * 500) for _ in range(30))]:
            writer.append(change(call))
    for name in first.storage.names():
        if name not in ("members", "lock"):
            (world.place("stick") / name).write_bytes((world.place("nas") / name).read_bytes())
    return world


def verify(world: MembersWorld, *options: object) -> Said:
    return backup_cli("verify", *(member.url for member in world.members), *options)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def files(world: MembersWorld, name: str) -> dict[str, bytes]:
    """The shared files of a member."""
    return {
        path.name: path.read_bytes() for path in world.place(name).iterdir() if path.name not in ("members", "lock")
    }


def test_verify_of_equal_members_passes_and_changes_nothing(members: MembersWorld) -> None:
    before = tree(members.root)
    for said in (verify(members), backup_cli("verify", "--lightning-dir", members.directory)):
        assert said.code == 0, said
        assert said.out.count("is whole: version 31") == 2
        assert "Verifying nas" in said.err and "Verifying stick" in said.err
        assert "nas and stick hold the same: 4 files compared" in said.out
    assert tree(members.root) == before


def test_verify_names_damaged_file_and_offset_and_the_member_with_the_good_copy(members: MembersWorld) -> None:
    for bad, good in (("nas", "stick"), ("stick", "nas")):
        for name in (SEGMENT, "snapshot-00000001", "manifest", "session"):
            path = members.place(bad) / name
            flip(path, 70)
            before = tree(members.root)
            said = verify(members)
            assert said.code == 3, said
            assert f"DAMAGED: {name} in the member {bad}, at byte " in said.out
            assert f"the good copy is in {good}" in said.out
            assert "add --repair" in said.err
            assert tree(members.root) == before
            flip(path, 70)


def test_repair_mends_flipped_bits_at_many_offsets_of_each_member(members: MembersWorld) -> None:
    original, rng = files(members, "nas"), random.Random(2)
    for round_number in range(6):
        names = rng.sample(sorted(original), 2)
        for member, name in zip(("nas", "stick"), names, strict=True):
            flip(members.place(member) / name, rng.randrange(len(original[name].rstrip(b"\0"))))
        said = verify(members, "--repair")
        assert said.code == 0, (round_number, said)
        assert said.out.count("mended: ") == 2
        assert files(members, "nas") == files(members, "stick") == original
        assert verify(members).code == 0


def test_repair_of_a_missing_file_brings_it_back(members: MembersWorld) -> None:
    original = files(members, "stick")
    for name in original:
        (members.place("stick") / name).unlink()
        said = verify(members, "--repair")
        assert said.code == 0, said
        assert files(members, "stick") == original


def test_repair_with_dry_run_says_what_it_would_do_and_changes_nothing(members: MembersWorld) -> None:
    flip(members.place("stick") / SEGMENT, 100)
    before = tree(members.root)
    said = verify(members, "--repair", "--dry-run")
    assert said.code == 0
    assert f"- would replace {SEGMENT} in the member stick" in said.out
    assert "the good copy of nas" in said.out
    assert tree(members.root) == before
    would = json.loads(verify(members, "--repair", "--dry-run", "--json").out)
    assert len(would["would"]) == 1


def test_file_damaged_at_both_members_is_not_mended_and_damage_is_recorded(members: MembersWorld) -> None:
    for name, offset in (("nas", 100), ("stick", 700)):
        flip(members.place(name) / SEGMENT, offset)
    before = files(members, "nas"), files(members, "stick")
    said = verify(members, "--repair")
    assert said.code == 3
    assert "no member holds a good copy" in said.out
    assert "backup-cli resync" in said.err
    for name, was in zip(("nas", "stick"), before, strict=True):
        now = files(members, name)
        assert now.pop("damage")
        assert now == was | {"session": now["session"]}


def test_damage_in_the_kept_generation_alone_does_not_count(tmp_path: Path, history: History) -> None:
    """What was replaced because it was damaged is kept for a week; the advice to replace it again was of no use."""
    world = MembersWorld(tmp_path).init()
    world.run([history.first(), history.big(1 << 20), *history.notes(5)])
    assert backup_cli("resync", "--lightning-dir", world.directory).code == 0
    for name in world.names:
        flip(world.place(name) / "snapshot-00000002", 1000)
    world.run_without_plugin(history.notes(1))
    assert backup_cli("resync", "--lightning-dir", world.directory).code == 0
    said = backup_cli("verify", "--lightning-dir", world.directory)
    assert said.code == 0, said
    assert "snapshot-00000002 is damaged at nas and stick" in said.err
    assert "the current state does not need it" in said.err


def test_repair_is_refused_while_the_node_runs(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(5)])
        sealed = world.place("stick") / "snapshot-00000001"
        flip(sealed, 70)
        before = sealed.read_bytes()
        assert_refused(verify(world, "--repair"), "lightning-cli stop")
        said = backup_cli("verify", "--repair", "--lightning-dir", world.directory)
        assert_refused(said, "stop the node first")
        assert sealed.read_bytes() == before
        assert verify(world).code == 3  # beside the node: names it, and changes nothing
        assert sealed.read_bytes() == before


def test_member_of_an_earlier_epoch_is_named_and_neither_used_nor_touched(members: MembersWorld) -> None:
    document = members.place("stick") / "members"
    flip(document, 20)
    for name in ("nas", "stick"):
        flip(members.place(name) / SEGMENT, 100)
    before = files(members, "stick")
    said = verify(members, "--repair")
    assert said.code == 3
    assert "does not say in which epoch it is" in said.err
    assert files(members, "stick") == before


def test_member_that_is_away_is_named_and_verify_does_not_pass(members: MembersWorld) -> None:
    members.place("stick").rename(members.root / "elsewhere")
    said = verify(members)
    assert said.code == 1
    assert "NOT VERIFIED: stick" in said.out
    assert "is whole: version 31" in said.out


def test_json_has_members_files_and_what_was_mended(members: MembersWorld) -> None:
    flip(members.place("stick") / SEGMENT, 100)
    said = verify(members, "--json")
    found = json.loads(said.out)
    assert said.code == 3
    assert found["damaged"] == ["stick"]
    assert [(file["name"], file["good"], file["bad"][0]["state"]) for file in found["files"]] == [
        (SEGMENT, ["nas"], "damaged")
    ]
    assert [member["verified"] for member in found["members"]] == [True, False]
    mended = json.loads(verify(members, "--repair", "--json").out)
    assert [(each["file"], each["outcome"], each["source"]) for each in mended["mended"]] == [
        (SEGMENT, "mended", "nas")
    ]
    assert mended["damaged"] == mended["files"] == []


def test_two_backups_or_one_member_twice_are_refused(members: MembersWorld, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    strange = MembersWorld(other).init()
    urls = members.members[0].url, strange.members[1].url
    assert_refused(backup_cli("verify", *urls), "two different backups")
    copy = members.root / "copy.bkp"
    copy.mkdir()
    for path in members.place("nas").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert_refused(backup_cli("verify", members.members[0].url, copy.as_uri()), "one is a copy of the other")


def test_repair_without_another_member_is_a_usage_error(members: MembersWorld) -> None:
    for arguments in ((members.members[0].url, "--repair"), (members.members[0].url, "--dry-run")):
        said = backup_cli("verify", *arguments)
        assert said.code == 2
        assert "--repair" in said.err


def test_segments_of_the_world_are_what_the_tests_flip(members: MembersWorld) -> None:
    assert [name for name in files(members, "nas") if segment_index(name) is not None] == [SEGMENT]


@pytest.mark.parametrize("way", [(), ("--repair",)])
def test_verify_does_not_pass_if_nothing_but_backup_key_opens_any_member(old_node: World, way: tuple[str, ...]) -> None:
    assert init_several(with_secret(old_node), "disk", "nas", options=("--encrypt",)).code == 0
    own = ("--lightning-dir", old_node.directory)
    (place_of(old_node, "disk") / KEYS).unlink()
    assert backup_cli("verify", *own, *way).code == (0 if way else 3)  # the good copy of nas is named, or put there
    for name in ("disk", "nas"):
        (place_of(old_node, name) / KEYS).unlink(missing_ok=True)
    said = backup_cli("verify", "--json", *own, *way)
    assert said.code == 3, said
    assert json.loads(said.out)["only_backup_key_opens"] is True


def test_verify_finds_the_member_where_anything_can_be_read_without_the_key(old_node: World) -> None:
    assert init_several(with_secret(old_node), "disk", "nas", options=("--encrypt",)).code == 0
    (place_of(old_node, "nas") / "more").write_text(json.dumps({"node_id": "02" * 33}))
    said = backup_cli("verify", "--json", "--lightning-dir", old_node.directory)
    assert said.code == 1, said
    failures = {member["name"]: member["failure"] for member in json.loads(said.out)["members"]}
    assert failures["disk"] is None and "is meant to be encrypted" in failures["nas"]
