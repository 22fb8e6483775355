"""What `status` says of an encrypted backup whose key slots are lost, to people, programs and Prometheus."""

import json
from dataclasses import replace

import pytest

from backends.log.format.keys import KEYS, KeysDocument
from tests.cli.encrypted import Safe, cli, encrypt
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History


@pytest.fixture
def safe(world: World) -> Safe:
    return encrypt(world)


@pytest.mark.parametrize(
    ("damage", "kind", "figures"),
    [
        ("missing", "no_key_slot", (0, 0)),
        ("rubbish", "no_key_slot", (0, 0)),
        ("all slots", "no_key_slot", (0, 2)),
        ("one slot", "key_slot_damaged", (1, 1)),
        ("nothing", None, (2, 0)),
    ],
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "URL"])
def test_status_is_degraded_when_key_slots_are_lost(
    world: World, safe: Safe, damage: str, kind: str | None, figures: tuple[int, int], own: bool
) -> None:
    keys = world.backup / KEYS
    document = KeysDocument.decode(keys.read_bytes())
    if damage == "missing":
        keys.unlink()
    elif damage == "rubbish":
        keys.write_bytes(b"rubbish")
    elif damage != "nothing":
        left = document.slots[1:] if damage == "one slot" else ()
        keys.write_bytes(replace(document, slots=left, lost=document.names[: 2 - len(left)]).encode())
    where = ["--lightning-dir", world.directory] if own else [world.url]
    said = cli("status", "--json", *where)
    seen = json.loads(said.out)
    assert said.code == 0, "everything is saved, as with every backup that is degraded"
    assert seen["health"] == ("ok" if kind is None else "degraded")
    assert [each for each in seen["trouble_kinds"] if "slot" in each] == ([] if kind is None else [kind])
    assert (seen["key_slots"], seen["key_slots_damaged"]) == figures
    text = backup_cli("status", "--prometheus", *where).out
    for name, value in zip(("key_slots", "key_slots_damaged"), figures, strict=True):
        assert f'lightningd_backup_{name}{{url="{world.url}"}} {value}\n' in text
    shown = cli("status", *where).out
    assert shown.count("backup.key") <= 3
    if kind is not None and own and damage in ("all slots", "one slot"):
        assert f"backup-cli keys --add-passphrase --lightning-dir {world.directory}" in shown


def test_status_of_a_plain_backup_says_nothing_of_key_slots(world: World, history: History) -> None:
    world.init()
    seen = json.loads(backup_cli("status", "--json", world.url).out)
    assert seen["key_slots"] is None and seen["health"] == "ok"
    assert "key_slot" not in backup_cli("status", "--prometheus", world.url).out
