"""Manifests, sessions and names from an attacker's disk: they fail with a clear error, soon, and in little memory."""

import json

import pytest

from backends.errors import Damaged
from backends.log.format.documents import MANIFEST, SESSION
from backends.log.format.records import MAX_NUMBER, MAX_SEQUENCE, segment_name
from tests.log.bounded_reading import read, refused
from tests.log.corruption import backup_of
from tests.log.forge import FIELDS, backup, document, manifest, packed, segment
from tests.log.histories import backup_in, silent
from tests.log.model import contents

pytestmark = pytest.mark.usefixtures("readers_do_not_wait", "time_limit")

HUGE = 10**1000
ODD: list[object] = [
    None, True, -1, 1.0, 1e308, 1 << 63, 1 << 200, HUGE, "", "1", "../../etc/passwd", "\0", "x" * 5000, [], [1], {},
    {"1": 1}, [[]],
]  # fmt: skip


@pytest.mark.parametrize("key", FIELDS)
def test_manifest_with_odd_value_is_refused_where_it_matters(key: str) -> None:
    """An odd value is damage where the backup depends on it. The creation time and the reason are only for people."""
    accepted: dict[str, list[object]] = {"foreign_keys": [True], "node_id": [None, *ODD[8:12]]}
    informative = key in ("created", "reason")
    fine = accepted.get(key, [])
    for value in ODD:
        files = backup(manifest=manifest(**{key: value}))
        if not (informative or any(value is one for one in fine)):
            refused(files)
        elif informative:
            assert read(files) == [1, 2]
    without = {name: value for name, value in FIELDS.items() if name != key}
    if key != "node_id" and not informative:
        refused(backup(manifest=document(json.dumps(without))))


@pytest.mark.parametrize("key", ["generation", "sequence", "data_version", "checksum", "first_segment"])
@pytest.mark.parametrize("value", [0, 2, (1 << 32) - 1, 1 << 32, (1 << 62) + 1, (1 << 63) - 1])
def test_manifest_with_number_that_does_not_fit_other_files_is_refused(key: str, value: int) -> None:
    if (key, value) in [("sequence", 0), ("data_version", 0)]:
        return
    refused(backup(manifest=manifest(**{key: value})))


@pytest.mark.parametrize("name", [MANIFEST, SESSION])
@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[]", "null", "1", '{"lightningd-backup": null}', '{"lightningd-backup": "1"}',
        '{"lightningd-backup": 1}', '{"lightningd-backup": 1e999}', '{"lightningd-backup": -1}',
        '{"lightningd-backup": 0}', '{"lightningd-backup": true}', '{"lightningd-backup":',
        '{"a":' * 100_000, "[" * 400_000, '{"lightningd-backup": 1, "generation": ' + "9" * 100_000 + "}",
        '{"lightningd-backup": 1, "generation": NaN}', '{"lightningd-backup": 1, "generation": Infinity}',
        '{"lightningd-backup": 1, "backup_id": "' + "00 " * 16 + '", "generation": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_manifest_or_session_that_is_no_document_is_refused(name: str, text: str) -> None:
    refused(backup(**{name: document(text)}))
    refused(backup(**{name: text.encode()}))


def test_unreadable_session_is_refused_and_says_the_rest_may_be_good() -> None:
    with pytest.raises(Damaged) as caught:
        backup_of(backup(session=b"torn")).open(silent)
    assert "the snapshot and the log may still be good" in str(caught.value)


@pytest.mark.parametrize("name", [MANIFEST, SESSION])
def test_manifest_or_session_that_is_too_long_is_refused(name: str) -> None:
    for data in (bytes(2 << 20), b"{" * (2 << 20), manifest(reason="x" * (2 << 20)), manifest() + b"\n" * (2 << 20)):
        refused(backup(**{name: data}))


def test_session_that_claims_more_than_the_log_holds_is_refused() -> None:
    session = json.dumps({
        "lightningd-backup": 1, "writer": "x", "session_id": "x", "host": "x", "pid": 1, "started": 1, "generation": 1,
        "sequence": MAX_SEQUENCE - 1, "data_version": 1, "closed": True, "node_id": None, "trouble": None,
    })  # fmt: skip
    assert "once saved" in str(refused(backup(session=document(session))))


def test_manifest_reason_with_terminal_escapes_is_made_printable() -> None:
    files = backup(manifest=manifest(reason="\x1b[2J\x1b]0;title\x07 \u202e \ud800 fine"))
    with backup_of(files).read() as generation:
        assert generation.manifest.reason.isprintable()
        assert generation.manifest.reason.endswith("fine")
        generation.manifest.reason.encode()


# Names


def test_segment_with_huge_index_is_damage_or_ignored() -> None:
    for index in (2, 100, 10**12, 10**18, MAX_NUMBER - 1):
        files = {**backup(), segment_name(index): segment(packed(), index=index)}
        assert isinstance(refused(files), Damaged)
    for index in (MAX_NUMBER, 10**40, 10**4000):  # not the name of a segment
        assert read({**backup(), f"segment-{index}": b"x"}) == [1, 2]


def test_file_named_almost_like_a_segment_is_ignored() -> None:
    odd = ["segment-0000000\u0662", "segment-00000002 ", "segment--0000002", "segment-+0000002", "segment-000_0002"]
    assert read({**backup(), **{name: b"x" for name in odd}}) == [1, 2]


def test_forged_backup_that_can_be_read_can_be_opened_for_writing() -> None:
    """A forged backup that can be read can also be opened for writing, and keeps its changes."""
    writer = backup_of(backup()).open(silent, "victim")
    writer.close()
    assert len(contents(backup_in(writer.storage)).changes) == 2
