"""What is stored of an encrypted backup: compacted with its key only, and a changed payload is found, with and without
the key."""

import json
import random
import shutil
from pathlib import Path

import pytest

from backends import backup_at, keyring
from backends.log.ciphertext import check_ciphertext
from backends.log.format.documents import MANIFEST, Manifest
from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, segment_index
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import Safe, cli
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, said_at, tree
from tests.fake_lightningd import History
from tests.log.test_encrypted_tampering import Stored, chained, records_of

pytestmark = pytest.mark.usefixtures("no_node_of_this_user")


def segments(world: World) -> list[Path]:
    return sorted(path for path in world.backup.iterdir() if segment_index(path.name) is not None)


def restored(world: World, *options: object) -> Path:
    world.restores += 1
    target = world.root / f"restored-{world.restores}.sqlite3"
    said = cli("restore", world.url, target, *options)
    assert said.code == 0, said
    return target


# compact


def grow(world: World) -> None:
    """A full segment, of a row that was overwritten again and again with what does not get smaller."""
    node, blobs = History(world.version), random.Random(1)
    row = "INSERT OR REPLACE INTO vars (name, blobval) VALUES ('often', x'{}')"
    world.run([node.transaction(row.format(blobs.randbytes(1 << 20).hex())) for _ in range(12)])
    world.run(node.notes(20))


def test_compact_needs_the_key_and_what_it_makes_is_encrypted_and_restores(world: World, safe: Safe) -> None:
    grow(world)
    first = segments(world)[0]
    before, contents = tree(world.root, locks=True), everything(world.database)
    for named in ((), ("--hsm-secret", safe.other_secret), ("--passphrase-file", safe.wrong_passphrase)):
        assert_refused(cli("compact", world.url, *named), "its key is not here|does not open|passphrase is wrong")
        assert tree(world.root, locks=True) == before
    said = cli("compact", "--json", world.url, "--passphrase-file", safe.passphrase)
    assert said.code == 0, said
    result = json.loads(said.out)
    assert result["compacted"] and result["bytes_after"] < result["bytes_before"] // 2
    assert not first.exists()
    keyring.forget()
    assert check_ciphertext(backup_at(world.url).storage).payloads > 0
    assert everything(restored(world, "--hsm-secret", safe.hsm_secret)) == contents
    said = cli("verify", "--json", world.url, "--hsm-secret", safe.hsm_secret)
    assert (said.code, json.loads(said.out)["contents"]) == (0, "proved")
    keyring.forget()
    node = world.run(History(world.version).notes(1))
    assert said_at(node, "broken") == []


# A changed payload


def change_payload(world: World, *, recomputed: bool) -> tuple[str, int]:
    """One bit in the middle of the payload of a record in the middle of the log is another, with every checksum after
    it made right if so wanted. Returns the file's name, and where the record begins."""
    (path,) = [path for path in segments(world) if records_of(path.read_bytes())]
    data = path.read_bytes()
    records: list[Stored] = records_of(data)
    number = len(records) // 2
    assert 0 < number < len(records) - 1
    header, payload = records[number]
    begins = FILE_HEADER_SIZE + sum(RECORD_HEADER_SIZE + len(stored) for _, stored in records[:number])
    at = len(payload) // 2
    changed = payload[:at] + bytes([payload[at] ^ 4]) + payload[at + 1 :]
    if recomputed:
        base = Manifest.decode((world.backup / MANIFEST).read_bytes()).base
        records[number] = header, changed
        whole = chained(data[:FILE_HEADER_SIZE], records, base.sequence, base.checksum)
    else:
        within = begins + RECORD_HEADER_SIZE
        whole = data[:within] + changed + data[within + len(payload) :]
    path.write_bytes(whole)
    return path.name, begins


@pytest.mark.parametrize("recomputed", [True, False], ids=["checksums right", "checksum wrong"])
def test_changed_payload_is_found_with_key_and_without_key_as_far_as_can_be(
    world: World, safe: Safe, recomputed: bool
) -> None:
    world.run(History(world.version).notes(6))
    keyring.forget()
    name, at = change_payload(world, recomputed=recomputed)
    kept = world.root / "kept.bkp"
    shutil.copytree(world.backup, kept)
    said = cli("verify", "--json", world.url)
    if recomputed:
        assert said.code == 0, said
        assert json.loads(said.out)["contents"] == "encrypted"
        assert any("NOT proved" in line for line in json.loads(said.out)["warnings"])
    else:
        assert said.code == 3, said
        assert name in said.text and str(at) in said.text
    shutil.rmtree(world.backup)
    shutil.copytree(kept, world.backup)
    target = world.root / "refused.sqlite3"
    for _ in range(2):
        assert_refused(cli("restore", world.url, target, "--hsm-secret", safe.hsm_secret), f"{name}.*{at}", 3)
        assert not target.exists()
        assert_refused(cli("verify", world.url, "--hsm-secret", safe.hsm_secret), f"{name}.*{at}", 3)
    said = cli("verify", "--json", world.url, "--hsm-secret", safe.hsm_secret)
    error = json.loads(said.out)["error"]
    assert (said.code, error["kind"]) == (3, "damaged"), error
    said = cli("verify", world.url)  # what is known stays known, and without the key nothing disproves it
    assert said.code == 3, said
    if recomputed:
        assert "known to be damaged" in said.text and "only a verify with the key does" in said.text
        assert "replayed" not in said.text
    assert json.loads(cli("status", "--json", world.url).out)["known_damage"] is not None
