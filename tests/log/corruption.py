"""Small backups to damage, and the verdict of a reader and of a writer on the damage."""

from collections import Counter
from dataclasses import dataclass

from backends.change import Change
from backends.errors import BackupError, Damaged, FromTheFuture, NotABackup
from backends.log.backup import Backup
from backends.log.format.documents import MANIFEST, SESSION
from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, decode_record_header, segment_index
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.writer import Writer
from backends.storage.base import Storage
from tests.fake_lightningd.calls import bump
from tests.log.conftest import TINY
from tests.log.histories import backup_in, changes, noise, silent, source
from tests.log.model import Contents, Model, contents, contents_and_tear
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

Files = dict[str, bytes]

BASE = 41
"""The version of the snapshot."""

LAST = 52


@dataclass(frozen=True, slots=True)
class Made:
    """An undamaged backup, as files, and its contents after each of its records."""

    files: Files
    states: list[Contents]

    @property
    def contents(self) -> Contents:
        """Its contents after the last record."""
        return self.states[-1]

    @property
    def segments(self) -> list[str]:
        """The names of its segments, sorted."""
        return sorted(name for name in self.files if segment_index(name) is not None)

    @property
    def last(self) -> str:
        """The segment in which the log ends; a later one was only made in advance."""
        return [name for name in self.segments if any(self.files[name][FILE_HEADER_SIZE:])][-1]


def make(*, closed: bool) -> Made:
    """A backup of a snapshot and two segments, versions BASE to LAST, written with the options TINY.

    Not closed: its writer was killed after the last change, and the session marker is still that of its start.
    """
    storage, snapshot = SimulatedStorage(SimulatedDisk()), noise(300).encode()
    backup_in(storage, TINY).create(source(snapshot, BASE))
    writer = backup_in(storage, TINY).open(silent, "writer")
    states = [Model(snapshot=snapshot)]
    # The last record's header is to be within one sector, and encrypted records are longer.
    before_last = 500 if writer.manifest.key is None else 400
    for step in (
        *changes(4, BASE),
        Change(BASE + 5, [noise(600), bump(BASE + 5)]),  # more than a sector, and the segment is full
        *changes(4, BASE + 5),
        Change(LAST - 1, [noise(before_last), bump(LAST - 1)]),
        Change(LAST, [noise(1200, 1), bump(LAST)]),
    ):
        writer.append(step)
        states.append(states[-1].appended(step))
        if writer.position.data_version == BASE + 5:
            writer.maintain()
    assert writer.position.data_version == LAST
    if closed:
        writer.close()
    else:
        writer.maintain()  # preallocates space after the last record, and another segment
    made = Made(files_in(storage), [state.contents for state in states])
    assert contents(backup_in(storage)) == made.contents
    assert len(made.segments) == (2 if closed else 3)
    return made


def files_in(storage: Storage) -> Files:
    """Every file's bytes."""
    return {name: storage.read_small(name) for name in storage.names()}


def backup_of(files: Files, options: LogOptions = DEFAULT_OPTIONS) -> Backup:
    """A backup made of these files, on a simulated disk of its own."""
    return backup_in(SimulatedStorage(SimulatedDisk.holding(files)), options)


def record_bounds(segment: bytes) -> list[int]:
    """Where each record begins, and where the last one ends."""
    bounds = [FILE_HEADER_SIZE]
    while (header := decode_record_header(segment, bounds[-1])) is not None:
        bounds.append(bounds[-1] + RECORD_HEADER_SIZE + header.length)
    return bounds


def version_at(segment: bytes, offset: int) -> int:
    """The data version of the record that begins there."""
    header = decode_record_header(segment, offset)
    assert header is not None
    return header.data_version


def zeroed(data: bytes, start: int, stop: int) -> bytes:
    """The data with zeros in [start, stop)."""
    return data[:start] + bytes(stop - start) + data[stop:]


def flipped(data: bytes, offset: int, mask: int) -> bytes:
    """The data with these bits of one byte flipped."""
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


def read_verdict(made: Made, files: Files) -> str:
    """What reading these files gives, in a word or two; the test fails if it is anything that must not happen."""
    backup = backup_of(files)
    try:
        found, torn = contents_and_tear(backup)
    except BackupError as error:
        check_error(error, files)
        return type(error).__name__.lower()
    if found == made.contents:
        return "same" if torn is None else "torn, nothing lost"
    assert found in made.states
    return "shorter" if torn is None else "torn"


def open_verdict(made: Made, files: Files) -> str:
    """What opening these files for writing gives, and what a reader finds afterwards.

    A start reads the last segment only, so damage elsewhere is left for readers to find.
    """
    backup = backup_of(files, TINY)
    told: list[str] = []
    try:
        writer = backup.open(lambda level, line: told.append(line), "after the damage")
    except BackupError as error:
        check_error(error, files)
        return type(error).__name__.lower()
    after = files_in(backup.storage)
    asides = [name for name in after if name.startswith("torn-")]
    assert bool(told) == bool(asides) == any("torn" in line for line in told)
    verdict = read_verdict(made, {name: data for name, data in after.items() if name not in asides})
    writer.close()
    if told:
        return {"same": "torn, nothing lost", "shorter": "torn"}[verdict]  # and cut off
    return "found by readers" if verdict in ("damaged", "notabackup") else verdict


def check_error(error: BackupError, files: Files) -> None:
    """Check that the error names the damaged file, a plausible offset and a plausible last good version."""
    assert isinstance(error, Damaged | NotABackup | FromTheFuture), repr(error)
    if not isinstance(error, Damaged):
        return
    assert error.exit_code == 3
    assert error.file in str(error)
    assert error.file in files
    assert 0 <= error.offset <= len(files[error.file])
    good = error.last_good
    assert good is None or BASE <= good <= LAST
    if segment_index(error.file) is not None:
        assert good is not None
    elif error.file not in (MANIFEST, SESSION):
        assert good is None


def append_and_read_back(writer: Writer) -> None:
    """Append to an opened backup, and read it back."""
    before = contents(backup_in(writer.storage)).changes
    version = writer.position.data_version + 1
    writer.append(Change(version, [bump(version)]))
    assert contents(backup_in(writer.storage)).changes == (*before, (version, (bump(version),)))


def print_counts(counts: Counter[str]) -> None:
    """Print the verdicts and how often each came up, for whoever runs the tests with -s or -rP."""
    print(", ".join(f"{what}: {count}" for what, count in sorted(counts.items())))
