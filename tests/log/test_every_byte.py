"""Torn against corrupt: every byte of a small backup flipped, and its last segment cut at every byte.

After a clean close, the session marker says how far the log was acknowledged. Then nothing is ever lost silently: each
damage is reported, or leaves everything as it was.

After a kill the marker is out of date by up to a minute. Changed bytes are still always found. One thing is *not*
found, because a power cut may leave the same bytes: a cut within the last minute of the last segment, by zeros or by
the file's end.
- Exactly between two records: a log that simply is that long ("shorter").
- Within a record, so that its rest or one of its sectors is gone: a record that was never acknowledged ("torn"). It is
  reported, and its bytes are put aside.
In a segment before the last one, or before the position in the marker, both are damage.

Without LIGHTNINGD_BACKUP_CAMPAIGN=1 (`make fuzz`), bytes in the middle of a large payload or of preallocated zeros,
each of which is like its neighbours, stand for each other: every sixth of them, others in every run.
"""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, SECTOR, segment_index
from tests.log.corruption import Files, Made, flipped, make, open_verdict, print_counts, read_verdict, record_bounds
from tests.log.histories import CAMPAIGN

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

SPARSE = 6 if CAMPAIGN == 1 else 1
"""Of how many neighbours in the middle of a payload one is damaged."""

NEAR = 8
"""Bytes on both sides of an edge that are all damaged."""

Verdict = Callable[[Made, Files], str]
VERDICTS = pytest.mark.parametrize("verdict", [read_verdict, open_verdict], ids=["read", "open"])


@pytest.fixture(params=["closed", "killed"])
def made(request: pytest.FixtureRequest) -> Made:
    """A backup that was closed cleanly, and one whose writer was killed."""
    return make(closed=request.param == "closed")


def places(segment: bytes) -> list[int]:
    """The offsets of a segment to damage: every byte of each header, both ends of each payload, what is at the edge of
    a sector, and of all others one in SPARSE, or each in a campaign."""
    bounds = record_bounds(segment)
    edges = {0, *bounds, *range(0, len(segment), SECTOR), len(segment)}
    near = {edge + step for edge in edges for step in range(-NEAR, NEAR)}
    near |= {bound + step for bound in (0, *bounds) for step in range(FILE_HEADER_SIZE + RECORD_HEADER_SIZE + NEAR)}
    between = random.randrange(SPARSE)
    return [offset for offset in range(len(segment)) if offset in near or offset % SPARSE == between]


def masks(offset: int) -> list[int]:
    """Bits of this byte to flip: one random mask, or every mask in a campaign."""
    return [random.Random(offset).randrange(1, 256)] if CAMPAIGN == 1 else list(range(1, 256))


@VERDICTS
def test_flip_of_any_byte_is_named_or_loses_nothing(made: Made, verdict: Verdict) -> None:
    counts: Counter[str] = Counter()
    for name, data in made.files.items():
        if verdict is open_verdict and name.startswith("snapshot"):
            continue  # a start does not read it
        for offset in places(data) if segment_index(name) is not None else range(len(data)):
            for mask in masks(offset):
                found = verdict(made, {**made.files, name: flipped(data, offset, mask)})
                counts[f"{name}: {found}"] += 1
    print_counts(counts)
    found_at_all = {what.partition(": ")[2] for what in counts}
    assert found_at_all <= {"damaged", "found by readers", "same", "torn, nothing lost"}
    assert "manifest: same" not in counts
    assert "session: same" not in counts


def fills(data: bytes, cut: int) -> dict[str, bytes]:
    """What may be left of a file cut at this byte: its end, zeros, or noise from there on."""
    rest = len(data) - cut
    noise = random.Random(cut).randbytes(rest)
    return {"end": data[:cut], "zeros": data[:cut] + bytes(rest), "noise": data[:cut] + noise}


@VERDICTS
def test_cut_at_any_byte_of_closed_session_is_damage(verdict: Verdict) -> None:
    made = make(closed=True)
    counts = cut_everywhere(made, verdict)
    assert set(counts) == {"end: damaged", "zeros: damaged", "noise: damaged"}


@VERDICTS
def test_cut_at_any_byte_after_kill_is_damage_or_torn_or_shorter_log(verdict: Verdict) -> None:
    made = make(closed=False)
    bounds = record_bounds(made.files[made.last])
    counts = cut_everywhere(made, verdict)
    assert {what for what in counts if what.startswith("noise")} <= {"noise: damaged", "noise: torn, nothing lost"}
    for fill in ("end", "zeros"):
        assert counts[f"{fill}: shorter"] == len(bounds) - 1  # after the last record nothing is lost
        assert counts[f"{fill}: same"] > 0
        assert counts[f"{fill}: torn"] > 0
    data = made.files[made.last]
    for end in bounds[:-1]:
        assert verdict(made, {**made.files, made.last: data[:end]}) == "shorter"


def cut_everywhere(made: Made, verdict: Verdict) -> Counter[str]:
    """Cut the last segment at every one of its `places`, and count the verdicts."""
    counts: Counter[str] = Counter()
    data = made.files[made.last]
    for cut in places(data):
        for fill, left in fills(data, cut).items():
            counts[f"{fill}: {verdict(made, {**made.files, made.last: left})}"] += 1
    print_counts(counts)
    return counts
