"""Any number, and any JSON, anywhere in a backup, on the node's side or in a server's answer: never a traceback.

Each command ends with an exit code of its own. Fields that only inform a person prevent no command.
"""

import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import backup_at
from backends.confined import work
from backends.confined.jobs import JOBS
from backends.errors import BackupError
from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, RecordHeader, encode_record
from backends.log.format.text_files import encode_document
from backends.mounts.superblock import read_names
from backends.node.sync_point import encode, read_sync_point
from backends.storage.nfs import version3, version41
from backends.times import moment
from backup_cli.console import age, ago, moment_ago
from plugin.before_manifest import before_manifest
from tests.attacks.destination import document, last_segment, records
from tests.attacks.nfs_server import ServerOfOneBackup
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History
from tests.log.histories import CAMPAIGN

EDGES = [
    0, 1, 2, -1, 1 << 15, (1 << 22) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 33, 1 << 55, 1 << 56,
    (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, 10**4000,
]  # fmt: skip

ANYTHING = st.one_of(
    st.sampled_from(EDGES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)
"""JSON, and what Python takes for it: NaN, infinities, lone surrogates."""

often = settings(
    max_examples=8 * CAMPAIGN,
    deadline=None,
    derandomize=CAMPAIGN == 1,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A node whose backup has every kind of file: a generation is kept, and damage was noted."""
    world, history = World(tmp_path_factory.mktemp("node")), History()
    world.init().run([history.first(), *history.notes(3)])
    world.run_without_plugin(history.notes(2))
    world.run(history.notes(3))
    assert (world.backup / "kept").exists()
    return world


@pytest.fixture
def place(whole: World, tmp_path: Path) -> Iterator[World]:
    """A copy of `whole` for one test; `fresh` undoes what the last example did."""
    world = World(tmp_path)
    fresh(whole, world)
    yield world
    shutil.rmtree(tmp_path, ignore_errors=True)


def fresh(whole: World, world: World) -> None:
    """Make `world` a fresh copy of `whole`."""
    for made, wanted in ((whole.backup, world.backup), (whole.directory, world.directory)):
        shutil.rmtree(wanted, ignore_errors=True)
        shutil.copytree(made, wanted)
    lock = json.loads((world.directory / "backup.lock").read_text())
    (world.directory / "backup.lock").write_text(json.dumps({**lock, "backend_url": world.url}))


def every_command(world: World, url: str | None = None) -> list[Said]:
    """Run each command that reads a backup. An exception that a command lets through comes through here, too."""
    url = url or world.url
    target = world.root / "out.sqlite3"
    target.unlink(missing_ok=True)
    said = [
        backup_cli("status", url),
        backup_cli("status", url, "--json"),
        backup_cli("status", url, "--prometheus"),
        backup_cli("versions", url),
        backup_cli("verify", url),
        backup_cli("restore", url, target),
    ]
    for one in said:
        assert one.code in (0, 1, 3), one
        assert "Traceback" not in one.text
        assert "unexpected" not in one.text
    return said


def with_field(path: Path, key: str, value: object) -> None:
    """Change this field in a text file of a backup, with a checksum that fits."""
    path.write_bytes(encode_document(path.name, {**document(path), key: value}))


# Text files of a backup

NAMES = ("manifest", "session", "kept", "damage")
DAMAGE = {"found": 1, "by": "verify", "what": "something", "generation": 2}


def put(world: World, name: str, key: str, value: object) -> None:
    """Put this value into a field of this text file of the backup."""
    path = world.backup / name
    if name == "damage":
        path.write_bytes(encode_document(path.name, DAMAGE))
    with_field(path, key, value)


KEYS = {
    "manifest": [
        "backup_id", "generation", "sequence", "data_version", "checksum", "foreign_keys", "first_segment", "created",
        "reason", "node_id", "lightningd-backup",
    ],
    "session": [
        "writer", "session_id", "host", "pid", "started", "generation", "sequence", "data_version", "closed",
        "node_id", "trouble", "lightningd-backup",
    ],
    "kept": ["last_segment", "end_version", "since", "generation", "first_segment", "created", "sequence"],
    "damage": [*DAMAGE],
}  # fmt: skip


@often
@given(where=st.sampled_from([(name, key) for name in NAMES for key in KEYS[name]]), value=ANYTHING)
def test_any_value_in_a_text_file_of_a_backup_ends_with_an_exit_code(
    whole: World, place: World, where: tuple[str, str], value: object
) -> None:
    fresh(whole, place)
    put(place, *where, value)
    every_command(place)
    before_manifest(place.directory)
    backup_cli("status", "--lightning-dir", place.directory)
    open_and_close_writer(place)


def open_and_close_writer(world: World) -> None:
    """Open the backup for writing: it raises a BackupError or succeeds."""
    backup = backup_at(world.url)
    try:
        writer = backup.open(lambda level, line: None, "session")
    except BackupError:
        return
    writer.close()


INFORMATIVE = [
    ("manifest", "created"), ("manifest", "reason"), ("session", "host"), ("session", "pid"), ("session", "started"),
    ("session", "trouble"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), INFORMATIVE)
@pytest.mark.parametrize("value", [1 << 62, -1, 10**4000, "x" * 5000, [], None, 1e400])
def test_any_value_in_an_informative_field_fails_no_command(
    whole: World, place: World, name: str, key: str, value: object
) -> None:
    put(place, name, key, value)
    assert [said.code for said in every_command(place)] == [0] * 6


def test_pid_and_time_of_2_62_are_shown_as_unknown(place: World) -> None:
    """An open session with such a process number stopped status, restore and compact with OverflowError."""
    for key, value in (("pid", 1 << 62), ("started", 1 << 62), ("closed", False)):
        put(place, "session", key, value)
    put(place, "manifest", "created", 1 << 62)
    every_command(place)
    assert "the snapshot of (time unknown)" in backup_cli("status", place.url).text
    assert backup_cli("versions", place.url).code == 0
    said = backup_cli("compact", place.url)
    assert said.code in (0, 1)


def test_time_2_62_of_known_damage_is_shown_as_unknown(place: World) -> None:
    put(place, "damage", "generation", document(place.backup / "manifest")["generation"])
    put(place, "damage", "found", 1 << 62)
    with_field(place.backup / "damage", "generation", document(place.backup / "manifest")["generation"])
    said = backup_cli("status", place.url)
    assert said.code == 3
    assert "something (verify, (time unknown))" in said.text


@pytest.mark.parametrize("seconds", [*EDGES[:-1], float("inf"), -float("inf"), 1e300, -1.5])
def test_any_time_can_be_shown(seconds: float) -> None:
    assert moment(seconds)
    assert moment_ago(seconds)
    assert ago(seconds)
    if abs(seconds) != float("inf"):
        assert age(seconds)
    assert ago(time.time() + 7200) == "in the future, by this machine's clock"


# Records and file headers

FIELDS = {name: bits for name, bits in zip(
    RecordHeader._fields[1:-1], (8, 8, 32, 32, 32, 64, 32, 32, 32), strict=True
)}  # fmt: skip


@often
@given(
    field=st.sampled_from([*FIELDS]), value=st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1), first=st.booleans()
)
def test_any_number_in_a_record_header_ends_with_an_exit_code(
    whole: World, place: World, field: str, value: int, first: bool
) -> None:
    fresh(whole, place)
    segment = last_segment(place.backup)
    found, data = records(segment), segment.read_bytes()
    offset, header = found[0 if first else -1]
    payload = data[offset + RECORD_HEADER_SIZE : offset + RECORD_HEADER_SIZE + header.length]
    told: dict[str, Any] = {field: abs(value) % (1 << FIELDS[field])}
    changed = header._replace(**told)
    record, _ = encode_record(changed, payload)
    segment.write_bytes(data[:offset] + record + data[offset + len(record) :])
    every_command(place)
    before_manifest(place.directory)
    open_and_close_writer(place)


@often
@given(
    name=st.sampled_from(["segment", "snapshot"]),
    at=st.sampled_from([(8, 2), (10, 2), (12, 4), (32, 8)]),
    value=st.sampled_from(EDGES),
)
def test_any_number_in_a_file_header_ends_with_an_exit_code(
    whole: World, place: World, name: str, at: tuple[int, int], value: int
) -> None:
    fresh(whole, place)
    path = sorted(place.backup.glob(f"{name}-*"))[-1]
    data, (start, length) = path.read_bytes(), at
    head = data[:start] + (abs(value) % (1 << 8 * length)).to_bytes(length, "little") + data[start + length : 60]
    path.write_bytes(head + crc32(head).to_bytes(4, "little") + data[FILE_HEADER_SIZE:])
    every_command(place)
    open_and_close_writer(place)


@pytest.mark.parametrize("name", ["segment-9223372036854775807", "segment-" + "9" * 200, "snapshot-" + "8" * 30])
def test_any_number_in_a_file_name_ends_with_an_exit_code(place: World, name: str) -> None:
    (place.backup / name).write_bytes(b"x")
    every_command(place)
    open_and_close_writer(place)


def test_huge_sparse_segment_does_not_take_long(place: World) -> None:
    segment = last_segment(place.backup)
    segment.chmod(0o600)
    with segment.open("r+b") as file:
        try:
            file.truncate(1 << 43)
        except OSError as error:
            pytest.skip(f"this filesystem has no such files: {error}")
    began = time.monotonic()
    assert backup_cli("status", place.url).code == 3
    assert time.monotonic() - began < 60


# The node's side

NODE_FILES = ("backup.lock", "backup.session", "backup.witness", "backup.found")


@often
@given(data=st.data(), name=st.sampled_from(NODE_FILES))
def test_any_value_in_a_file_of_the_node_ends_with_an_exit_code(
    whole: World, place: World, data: st.DataObject, name: str
) -> None:
    fresh(whole, place)
    path = place.directory / name
    value = data.draw(ANYTHING)
    found: dict[str, Any] = {"version": 3, "database": 1, "written": 1.0, "leads_to": []}
    if name == "backup.witness":
        found = json.loads(path.read_bytes().partition(b"\n")[0])
    elif path.exists():
        found = json.loads(path.read_text())
    key = data.draw(st.sampled_from([*found, "written"]))
    line = json.dumps({**found, key: value}).encode()
    path.write_bytes(line + b"\n%08x\n" % crc32(line) if name == "backup.witness" else line)
    said = backup_cli("status", "--lightning-dir", place.directory)
    assert said.code in (0, 1, 3)
    assert "Traceback" not in said.text
    start = before_manifest(place.directory)
    assert not any("could not be compared" in line for _, line in start.lines), start.lines


def test_sync_point_of_an_earlier_release_is_read(place: World) -> None:
    note = read_sync_point(place.directory)
    assert note is not None
    assert b"written" not in encode(note)


# What a person types


@pytest.mark.parametrize("digits", [5000, 20])
@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "file:///nowhere/x?timeout={}"),
        ("status", "nfs://localhost/x/y?uid={}"),
        ("status", "nfs://localhost:{}/x/y"),
        ("restore", "--discard-newer", "{}", "file:///nowhere/x", "/nowhere"),
        ("restore", "--to-version", "{}", "--not-for-a-node", "file:///nowhere/x", "/nowhere"),
    ],
)
def test_number_of_thousands_of_digits_on_the_command_line_is_refused(arguments: tuple[str, ...], digits: int) -> None:
    said = backup_cli(*(word.format("9" * digits) for word in arguments))
    assert said.code in (1, 2)


# What a stick's superblock says


@often
@given(at=st.sampled_from(range(80, 120)), value=st.integers(0, 255), more=st.binary(min_size=30, max_size=30))
def test_any_number_in_the_superblock_of_a_stick_raises_nothing(
    tmp_path: Path, at: int, value: int, more: bytes
) -> None:
    boot = bytearray(512)
    boot[3:11] = b"EXFAT   "
    boot[88:118] = more
    boot[at] = value
    device = tmp_path / "device"
    device.write_bytes(bytes(boot) + b"\x83" + b"\xff" * 70000)
    read_names(device)


@pytest.mark.parametrize(
    ("sector", "cluster", "heap"), [(255, 255, 1 << 31), (62, 1, 1 << 31), (0, 0, 0), (9, 0, 1 << 31)]
)
def test_superblock_with_impossible_sector_sizes_is_not_recognised(
    tmp_path: Path, sector: int, cluster: int, heap: int
) -> None:
    """A seek to 2^286 raises OverflowError, and a cluster of one byte IndexError."""
    boot = bytearray(b"\x83" * 512)
    boot[3:11], boot[88:92], boot[96:100] = b"EXFAT   ", struct.pack("<I", heap), struct.pack("<I", 2)
    boot[108], boot[109] = sector, cluster
    (tmp_path / "device").write_bytes(boot)
    assert read_names(tmp_path / "device") is None


# A server

VALUES = [
    0, 1, 2, 3, 1023, 1024, 1535, 1536, 65535, 65536, 1 << 20, (1 << 22) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
]  # fmt: skip


def against(world: World, monkeypatch: pytest.MonkeyPatch, version: str, server: ServerOfOneBackup) -> list[Said]:
    monkeypatch.setattr(version3, "Connection", server.connect)
    monkeypatch.setattr(version41, "Connection", server.connect)
    # What reads a backup is a process of its own, which this server of ours cannot reach.
    monkeypatch.setattr(work, "run", lambda job, arguments, progress=None: JOBS[job](**arguments))
    return every_command(world, f"nfs://server.invalid/export/lightning.bkp?version={version}&timeout=5")


@pytest.mark.parametrize("version", ["3", "4.1"])
def test_nfs_server_that_answers_honestly_serves_every_command(
    place: World, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Otherwise the next test would prove nothing."""
    asked = set()

    def honest(what: str, answer: bytes) -> bytes:
        asked.add(what)
        return answer

    said = against(place, monkeypatch, version, ServerOfOneBackup(place.backup.parent, honest))
    assert [one.code for one in said] == [0] * 6, said
    assert len(asked) > 5


@often
@given(
    version=st.sampled_from(["3", "4.1"]),
    kind=st.integers(0, 12),
    word=st.integers(0, 60),
    value=st.sampled_from(VALUES) | st.integers(0, (1 << 32) - 1),
    wide=st.booleans(),
)
def test_any_number_in_any_answer_of_an_nfs_server_ends_with_an_exit_code(
    place: World, monkeypatch: pytest.MonkeyPatch, version: str, kind: int, word: int, value: int, wide: bool
) -> None:
    """Sizes, counts, file numbers, cookies, limits, times, statuses: in every answer to one kind of question."""
    kinds: list[str] = []

    def lie(what: str, answer: bytes) -> bytes:
        if what not in kinds:
            kinds.append(what)
        if kinds.index(what) != kind or len(answer) < 4 or value in (10008, 10013):  # "later" is waited for
            return answer
        at = 4 * (word % (len(answer) // 4))
        told = struct.pack(">I", value) * (2 if wide else 1)
        return (answer[:at] + told + answer[at + len(told) :])[: len(answer)]

    began = time.monotonic()
    against(place, monkeypatch, version, ServerOfOneBackup(place.backup.parent, lie))
    assert time.monotonic() - began < 90


@pytest.mark.parametrize("largest", [0, 1, 1023, 1024, 1535])
@pytest.mark.parametrize("field", [1, 2])
def test_nfs_server_with_request_sizes_below_the_header_is_refused(
    place: World, monkeypatch: pytest.MonkeyPatch, largest: int, field: int
) -> None:
    """maxrequest or maxresponse below 1024 left no room for data: a negative length, and a traceback."""

    def small(what: str, answer: bytes) -> bytes:
        if what.strip() != "43":
            return answer
        at = 4 + 4 + 4 + 8 + 16 + 8 + 4 * field
        return answer[:at] + struct.pack(">I", largest) + answer[at + 4 :]

    said = against(place, monkeypatch, "4.1", ServerOfOneBackup(place.backup.parent, small))
    assert all(one.code == 1 for one in said)
    assert f"takes calls of {largest} bytes" in said[0].text
