"""Whoever holds the destination changes an encrypted backup: with every checksum and the chain made right again.

They have everything that was ever stored there, also what was since removed, and do not have the key. What they do is
refused, or changes nothing: nobody ever gets a database that the node did not have. What they can do unnoticed is to
put a whole earlier state back, of which the last test shows what it takes; only the node's side can tell that.
"""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from zlib import crc32

import pytest

from backends import keyring
from backends.errors import BackupError, Damaged, KeyNeeded, NotABackup, NotEncrypted
from backends.keyring import DataKey
from backends.log.format.documents import KEPT, MANIFEST, SESSION, Manifest
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    FileHeader,
    FileKind,
    RecordHeader,
    RecordKind,
    decode_record,
    encode_record,
    segment_index,
    snapshot_name,
)
from backends.log.format.text_files import encode_document
from backends.log.known_damage import DAMAGE, KnownDamage
from backends.log.reader.last_changes import database_before, read_end, statements_of
from backends.log.writer.options import LogOptions
from backends.log.writer.snapshot import write_snapshot
from tests.encrypted import no_slots
from tests.log.corruption import Files, backup_of, files_in
from tests.log.histories import backup_in, changes, noise, silent, source
from tests.log.model import Contents, contents
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

OPTIONS = LogOptions(
    segment_size=2 << 10, preallocate_min=700, preallocate_max=2 << 10, check_every=0.0, note_every=1e9
)

DATABASE = b"SQLite format 3\0" + noise(400_000).encode()

Refusal = (Damaged, NotABackup, NotEncrypted)


def looked_before(statements: tuple[str, ...]) -> int:
    """The fingerprint of the database before this change: here any number that differs from change to change."""
    return crc32(repr(statements).encode()) or 1


class Made:
    """An encrypted backup that the attacker has copied again and again: `moments`, the present one last."""

    def __init__(self, version: int = 5, backup_id: bytes | None = None) -> None:
        self.storage = SimulatedStorage(SimulatedDisk())
        backup_in(self.storage, OPTIONS).create(source(DATABASE, version, "02" + "ab" * 32), encrypt=no_slots)
        self.moments = [files_in(self.storage)]
        self.states: list[Contents] = [contents(backup_in(self.storage))]
        self._session(4, 5)
        self._session(4, 9)
        self._new_generation(13)
        self._session(5, 13)
        self._new_generation(18)
        self._session(9, 18)

    def _session(self, count: int, version: int) -> None:
        with closing(backup_in(self.storage, OPTIONS).open(silent, f"session-{version}")) as writer:
            for change in changes(count, version, 500):
                change.database = looked_before(tuple(change.statements))
                writer.append(change)
                self.note()
                writer.maintain()
        self.note()

    def _new_generation(self, version: int) -> None:
        with closing(backup_in(self.storage, OPTIONS).open(silent, "resync")) as writer:
            writer.take_snapshot(source(DATABASE[:-version], version), "a run without the plugin")
        self.note()

    def note(self) -> None:
        """What the attacker sees now."""
        self.moments.append(files_in(self.storage))
        self.states.append(contents(backup_in(self.storage)))

    @property
    def files(self) -> Files:
        """The backup as it is."""
        return self.moments[-1]

    @property
    def segments(self) -> list[str]:
        """The current generation's segments that hold records."""
        first = Manifest.decode(self.files[MANIFEST]).first_segment
        named = {index: name for name in self.files if (index := segment_index(name)) is not None and index >= first}
        return [named[index] for index in sorted(named) if records_of(self.files[named[index]])]

    @property
    def key(self) -> DataKey:
        """The data key, which the attacker does not have."""
        key_id = Manifest.decode(self.files[MANIFEST]).key
        key = keyring.find(key_id or "")
        assert key is not None
        return key


@cache
def made_once() -> tuple[Made, DataKey]:
    """What `made` gives, and its key; it is never changed."""
    made = Made()
    return made, made.key


@pytest.fixture
def made() -> Made:
    """The backup of one node, whose key this process knows."""
    made, key = made_once()
    keyring.add(key)
    return made


Stored = tuple[RecordHeader, bytes]


def records_of(data: bytes) -> list[Stored]:
    """The records of a file, as they are stored."""
    found, offset = list[Stored](), FILE_HEADER_SIZE
    while (record := decode_record(data, offset)) is not None:
        found.append(record)
        offset += RECORD_HEADER_SIZE + record[0].length
    return found


def chained(header: bytes, records: list[Stored], sequence: int, previous: int) -> bytes:
    """A file of these records with sequence, chain, length and checksums made right, and zeros after them."""
    parts = [header]
    for number, (fields, payload) in enumerate(records, sequence + 1):
        right = fields._replace(sequence=number, previous=previous, length=len(payload))
        record, previous = encode_record(right, payload)
        parts.append(record)
    return b"".join(parts) + bytes(700)


def rebuilt(made: Made, changed: dict[str, list[Stored]]) -> Files:
    """The backup with these records in these segments, and the chain made right through all segments after them."""
    files, base = dict(made.files), Manifest.decode(made.files[MANIFEST]).base
    sequence, previous = base.sequence, base.checksum
    for name in made.segments:
        records = changed.get(name, records_of(made.files[name]))
        files[name] = chained(made.files[name][:FILE_HEADER_SIZE], records, sequence, previous)
        if written := records_of(files[name]):
            sequence, previous = written[-1][0].sequence, written[-1][0].checksum
    return files


def refused(files: Files, states: list[Contents]) -> str:
    """The error that a reader of these files gets; "same" if it gets one of these states."""
    try:
        found = contents(backup_of(files))
    except Refusal as error:
        roll_forward_is_refused_or_the_same(files, states)
        return type(error).__name__
    assert found in states
    return "same"


def roll_forward_is_refused_or_the_same(files: Files, states: list[Contents]) -> None:
    """A start reads only the end of the log: what it would execute is what the node once sent, too, and so is the
    fingerprint by which it is recognized as missing."""
    known = {change for state in states for change in state.changes}
    try:
        with backup_of(files).read() as reader:
            end = read_end(reader)
            before = [database_before(reader, change) for change in end.changes]
            found = [(change.header.data_version, tuple(each)) for change, each in
                     zip(end.changes, statements_of(reader, end.changes), strict=True)]  # fmt: skip
    except Refusal:
        return
    assert set(found) <= known
    assert before == [looked_before(statements) for _, statements in found]


def test_untouched_backup_is_read(made: Made) -> None:
    assert refused(made.files, made.states[-1:]) == "same"
    assert len(made.segments) > 2


@pytest.mark.parametrize("field", ["kind", "flags", "size", "data_version", "time", "database"])
def test_changed_field_of_any_record_is_refused(made: Made, field: str) -> None:
    for name in made.segments:
        for number, (header, _) in enumerate(records_of(made.files[name])):
            for bit in (0, 1, 7) if field in ("kind", "flags") else (0, 9, 31):
                records = records_of(made.files[name])
                value = getattr(header, field) ^ (1 << bit)
                records[number] = header._replace(**{field: value}), records[number][1]
                assert refused(rebuilt(made, {name: records}), []) == "Damaged"


def test_changed_byte_of_any_payload_is_refused(made: Made) -> None:
    for name in made.segments:
        for number, (header, payload) in enumerate(records_of(made.files[name])):
            for at in {0, 31, 32, 33, len(payload) // 2, len(payload) - 17, len(payload) - 16, len(payload) - 1}:
                records = records_of(made.files[name])
                changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
                records[number] = header, changed
                assert refused(rebuilt(made, {name: records}), []) == "Damaged"


@pytest.mark.parametrize("size", [-1, -16, 1, 16])
def test_shortened_or_lengthened_payload_is_refused(made: Made, size: int) -> None:
    name = made.segments[0]
    for number, (header, payload) in enumerate(records_of(made.files[name])):
        records = records_of(made.files[name])
        records[number] = header, payload[:size] if size < 0 else payload + bytes(size)
        assert refused(rebuilt(made, {name: records}), []) == "Damaged"


def test_dropped_record_is_refused(made: Made) -> None:
    """At the beginning of a stream, in the middle and at its end: but for the last record of all, below."""
    for name in made.segments:
        records = records_of(made.files[name])
        for number in range(len(records)):
            if (name, number) == (made.segments[-1], len(records) - 1):
                continue
            assert refused(rebuilt(made, {name: records[:number] + records[number + 1 :]}), []) == "Damaged"


def test_dropped_end_of_log_is_refused_by_the_session_marker(made: Made) -> None:
    last = made.segments[-1]
    assert refused(rebuilt(made, {last: records_of(made.files[last])[:-1]}), []) == "Damaged"


def test_whole_stream_removed_is_refused(made: Made) -> None:
    for name in made.segments:
        assert refused(rebuilt(made, {name: []}), []) == "Damaged"


def test_swapped_or_repeated_records_are_refused(made: Made) -> None:
    name = next(name for name in made.segments if len(records_of(made.files[name])) > 1)
    one, two, *rest = records_of(made.files[name])
    for records in ([two, one, *rest], [one, one, two, *rest], [one, two, two, *rest]):
        assert refused(rebuilt(made, {name: records}), []) == "Damaged"


def test_record_moved_to_another_segment_is_refused(made: Made) -> None:
    first, second = made.segments[:2]
    one, two = records_of(made.files[first]), records_of(made.files[second])
    assert refused(rebuilt(made, {first: one[:-1], second: [one[-1], *two]}), []) == "Damaged"
    assert refused(rebuilt(made, {first: [*one, two[0]], second: two[1:]}), []) == "Damaged"


def test_segments_renumbered_are_refused(made: Made) -> None:
    first, second = made.segments[:2]
    backup_id = Manifest.decode(made.files[MANIFEST]).backup_id
    files = dict(made.files)
    for name, other in ((first, second), (second, first)):
        header = FileHeader(FileKind.SEGMENT, backup_id, segment_index(name) or 0, key=made.key.id).encode()
        files[name] = header + made.files[other][FILE_HEADER_SIZE:]
    assert refused(files, []) == "Damaged"
    numbered = {name: records_of(files[name]) for name in (first, second)}
    assert refused(rebuilt(made, numbered), []) == "Damaged"


@pytest.mark.parametrize("relabelled", [False, True])
def test_segments_and_snapshots_of_other_times_are_refused(made: Made, relabelled: bool) -> None:
    """Every file that was ever there in place of every file that is: as it was, or with the header of the one there."""
    seen = {data for moment in made.moments for name, data in moment.items() if name.startswith(("segment", "snapsh"))}
    current = [*made.segments, snapshot_name(Manifest.decode(made.files[MANIFEST]).generation)]
    verdicts = set[str]()
    for name in current:
        for data in seen - {made.files[name]}:
            other = made.files[name][:FILE_HEADER_SIZE] + data[FILE_HEADER_SIZE:] if relabelled else data
            verdicts.add(refused({**made.files, name: other}, made.states[-1:]))
    assert verdicts <= {"Damaged", "same"}  # the same: an older copy of a segment that has not grown since but by zeros
    assert "Damaged" in verdicts


def test_files_of_another_backup_are_refused(made: Made) -> None:
    """Under another key, and under the same one, as if two backups of one node had been given one key."""
    other = Made()
    other_id = Manifest.decode(other.files[MANIFEST]).backup_id
    mine = Manifest.decode(made.files[MANIFEST])
    for name in made.files:
        if name in other.files and name != DAMAGE:
            files = {**made.files, name: other.files[name]}
            assert refused(files, made.states[-1:]) in ("Damaged", "NotABackup", "same"), name
    name = made.segments[0]
    records = records_of(other.files[name])
    assert refused(rebuilt(made, {name: records}), []) == "Damaged"
    keyring.add(DataKey(other_id, made.key.secret))
    assert mine.backup_id != other_id


def document(fields: dict[str, object]) -> bytes:
    line = json.dumps(fields).encode()
    return line + b"\n%08x\n" % crc32(line)


def fields_of(data: bytes) -> dict[str, object]:
    return dict(json.loads(data.partition(b"\n")[0]))


Change = Callable[[dict[str, object]], dict[str, object]]

FORGERIES: dict[str, Change] = {
    "key null": lambda fields: {**fields, "key": None},
    "key removed": lambda fields: {name: value for name, value in fields.items() if name != "key"},
    "another key": lambda fields: {**fields, "key": "00" * 8},
    "nothing sealed": lambda fields: {name: value for name, value in fields.items() if name != "sealed"},
    "sealed is a list": lambda fields: {**fields, "sealed": [fields["sealed"]]},
    "sealed is null": lambda fields: {**fields, "sealed": None},
    "sealed under an unknown key": lambda fields: {**fields, "sealed": "00" * 8 + str(fields["sealed"])[16:]},
    "sealed without its name": lambda fields: {**fields, "sealed": str(fields["sealed"])[17:]},
    "sealed is short": lambda fields: {**fields, "sealed": str(fields["sealed"])[:17] + "AAAA"},
    "sealed is no base64": lambda fields: {**fields, "sealed": str(fields["sealed"])[:17] + "===="},
    "neither key nor sealed": lambda fields: {
        name: value for name, value in fields.items() if name not in ("key", "sealed")
    },
    "a field more": lambda fields: {**fields, "node_id": "03" + "cd" * 32},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_manifest_is_refused(made: Made, forgery: str) -> None:
    """Also when the node's own side says nothing, as on a new machine."""
    forged = document(FORGERIES[forgery](fields_of(made.files[MANIFEST])))
    assert refused({**made.files, MANIFEST: forged}, []) in ("Damaged", "NotEncrypted")
    keyring.add(made.key, demanded=True)
    assert refused({**made.files, MANIFEST: forged}, []) in ("Damaged", "NotEncrypted")
    with pytest.raises(Refusal):
        backup_of({**made.files, MANIFEST: forged}, OPTIONS).open(silent, "one")


@pytest.mark.parametrize(
    "field",
    ["generation", "sequence", "data_version", "checksum", "foreign_keys", "first_segment", "created", "reason"],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_changed_public_field_of_manifest_is_refused(made: Made, field: str, sealed: bool) -> None:
    fields = fields_of(made.files[MANIFEST])
    value = fields[field]
    fields[field] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "compaction"
    if not sealed:
        del fields["sealed"]
    assert refused({**made.files, MANIFEST: document(fields)}, []) == "Damaged"


@pytest.mark.parametrize("forgery", sorted(set(FORGERIES) - {"key null", "key removed", "another key"}))
def test_forged_session_marker_that_hides_a_lost_end_is_refused(made: Made, forgery: str) -> None:
    last = made.segments[-1]
    shorter = rebuilt(made, {last: records_of(made.files[last])[:-1]})
    assert refused({**shorter, SESSION: made.files[SESSION]}, []) == "Damaged"
    fields = FORGERIES[forgery]({**fields_of(made.files[SESSION]), "sequence": 1})
    assert refused({**shorter, SESSION: document(fields)}, []) == "Damaged"


def test_sealed_part_of_another_document_or_time_is_refused(made: Made) -> None:
    documents = [(name, data) for moment in made.moments for name, data in moment.items() if data.startswith(b"{")]
    assert {name for name, _ in documents} >= {MANIFEST, SESSION, KEPT}
    own = str(fields_of(made.files[MANIFEST])["sealed"])
    for sealed in {str(fields_of(data).get("sealed")) for _, data in documents} - {own}:
        forged = document({**fields_of(made.files[MANIFEST]), "sealed": sealed})
        assert refused({**made.files, MANIFEST: forged}, []) == "Damaged"


def test_old_manifest_beside_new_files_is_refused(made: Made) -> None:
    current = Manifest.decode(made.files[MANIFEST])
    for moment in made.moments:
        if Manifest.decode(moment[MANIFEST]) != current:
            assert refused({**made.files, MANIFEST: moment[MANIFEST]}, []) == "Damaged"


def test_forged_kept_generation_is_not_believed(made: Made) -> None:
    for forgery in FORGERIES.values():
        files = {**made.files, KEPT: document(forgery(fields_of(made.files[KEPT])))}
        assert backup_of(files).kept() is None
    assert backup_of(made.files).kept() is not None


def test_damage_note_that_anybody_wrote_stops_nothing_but_is_heard(made: Made) -> None:
    """Who has no key may say that the backup is damaged: a node then takes a new snapshot, which loses nothing."""
    manifest = Manifest.decode(made.files[MANIFEST])
    note = KnownDamage(1_700_000_000, "verify", "anything", manifest.generation)
    assert refused({**made.files, DAMAGE: note.encode_without_key()}, made.states[-1:]) == "same"
    sealed = note.encode(manifest.key)
    forged = document({**fields_of(sealed), "generation": manifest.generation - 1})
    with pytest.raises(Damaged):
        KnownDamage.decode(forged)


@pytest.mark.plain_unless_told
def test_plain_backup_of_the_attackers_own_is_refused_where_the_node_knows_better(made: Made) -> None:
    keyring.add(made.key, demanded=True)
    plain = SimulatedStorage(SimulatedDisk())
    backup_in(plain).create(source(b"a database of the attacker's", 26))
    fields = fields_of(files_in(plain)[MANIFEST]) | {"backup_id": made.key.backup_id.hex()}
    public = {name: value for name, value in fields.items() if name != "lightningd-backup"}
    files = {**files_in(plain), MANIFEST: encode_document(MANIFEST, public)}
    assert refused(files, []) == "NotEncrypted"


def test_backup_under_the_attackers_own_key_needs_that_key(made: Made) -> None:
    theirs = SimulatedStorage(SimulatedDisk())
    backup_in(theirs).create(source(b"a database of the attacker's", 26), encrypt=no_slots)
    mine = made.key
    keyring.forget()
    keyring.add(mine, demanded=True)
    with pytest.raises(KeyNeeded):
        contents(backup_of(files_in(theirs)))


def test_snapshot_records_changed_dropped_or_swapped_are_refused(made: Made) -> None:
    name = snapshot_name(Manifest.decode(made.files[MANIFEST]).generation)
    header, records = made.files[name][:FILE_HEADER_SIZE], records_of(made.files[name])
    assert len(records) == 3 and records[-1][0].kind == RecordKind.END
    one, two, end = records
    for changed in ([two, one, end], [one, end], [two, end], [one, one, two, end], [end], [one, two]):
        forged = chained(header, changed, 0, 0).rstrip(b"\0")
        assert refused({**made.files, name: forged}, made.states) == "Damaged"
    for number, field in ((0, "time"), (1, "size"), (2, "time"), (2, "size")):
        each = list(records)
        each[number] = each[number][0]._replace(**{field: getattr(each[number][0], field) - 1}), each[number][1]
        assert refused({**made.files, name: chained(header, each, 0, 0)[:-700]}, made.states) == "Damaged"


@pytest.mark.parametrize("checksum", [0, 1, -1])
def test_snapshot_that_was_never_published_is_refused(made: Made, checksum: int) -> None:
    """Of the same generation and version, whole, and written by the node: its attempt to publish it had failed."""
    manifest = Manifest.decode(made.files[MANIFEST])
    base = replace(manifest.base, checksum=(manifest.base.checksum + checksum) % (1 << 32))
    written = write_snapshot(made.storage, manifest.snapshot_header(), base, [b"another database"], OPTIONS)
    files = {**made.files, snapshot_name(manifest.generation): files_in(made.storage)[written]}
    if checksum == 0:  # nothing but this number tells them apart
        assert contents(backup_of(files)).snapshot == b"another database"
        return
    assert refused(files, made.states) == "Damaged"
    with pytest.raises(Damaged, match="not the snapshot that the manifest names"), backup_of(files).read() as reader:
        reader.snapshot.check_ends()
    keyring.forget()
    with backup_of(files).read() as reader, pytest.raises(Damaged, match="not the snapshot that the manifest names"):
        list(reader.snapshot.check_stored())


def test_what_only_the_nodes_side_can_tell_is_a_whole_earlier_state_and_nothing_else(made: Made) -> None:
    """Every state that was ever stored as a whole can be put back. It is one that the node had: nothing is mixed."""
    for moment, state in zip(made.moments, made.states, strict=True):
        assert contents(backup_of(moment)) == state
    old, new = made.moments[3], made.files
    for kept_new in (MANIFEST, SESSION, *(name for name in new if name.startswith(("segment", "snapshot")))):
        files = {**old, kept_new: new[kept_new]}
        try:
            found = contents(backup_of(files))
        except BackupError as error:
            assert isinstance(error, Refusal)
            continue
        assert found in made.states
