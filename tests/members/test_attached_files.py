"""Files of the node that members hold: copied, compared and mended like other documents, never lost to a bad copy."""

import random
from pathlib import Path

import pytest

from backends.log.attachments import publish_attachment, read_attachment
from backends.log.format.attachments import Attachment
from backends.log.format.members import MEMBERS, Epoch
from backends.members.compare import compare_members
from backends.members.comparison import State
from backends.members.differences import Differences, differences
from backends.members.examine import _of_a_backup
from backends.members.files import copy_backup, make_equal
from backends.members.repair import Mending, mend
from backends.members.shared_files import DOCUMENTS, shared_names
from backends.storage.base import Storage
from tests.log.histories import backup_in
from tests.members.pairs import Pair, document, equal_members, flip, held, peer
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

EMERGENCY = Attachment.EMERGENCY
NAME = EMERGENCY.value
LARGEST = random.Random(1).randbytes(EMERGENCY.limit)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(tmp_path)
    pair.commit(3)
    publish_attachment(pair.ahead, EMERGENCY, b"one channel")
    pair.part()
    return pair


def stored(storage: Storage) -> bytes | None:
    return read_attachment(storage, EMERGENCY)


def test_both_files_count_as_shared_and_as_files_of_a_backup() -> None:
    for each in Attachment:
        assert each.value in DOCUMENTS
        assert shared_names([each.value, "lock", f"{each.value}-00.tmp"]) == [each.value]
        assert _of_a_backup(each.value)


@pytest.mark.parametrize("content", [b"two channels", LARGEST])
def test_newer_file_is_copied_whatever_else_has_changed(pair: Pair, content: bytes) -> None:
    publish_attachment(pair.ahead, EMERGENCY, content)
    assert differences(pair.ahead, pair.behind, deep=False) == Differences((NAME,), ())
    make_equal(pair.ahead, pair.behind, deep=False)
    assert stored(pair.behind) == content
    publish_attachment(pair.ahead, EMERGENCY, content[:-1])
    pair.snapshot()
    pair.commit(2)
    make_equal(pair.ahead, pair.behind, deep=False)
    assert stored(pair.behind) == content[:-1]
    assert held(pair.ahead) == held(pair.behind)


def test_new_member_gets_the_file(pair: Pair) -> None:
    new = SimulatedStorage(SimulatedDisk())
    copy_backup(pair.ahead, new)
    assert stored(new) == b"one channel"


def test_damaged_file_replaces_no_good_copy_and_stops_nothing(pair: Pair) -> None:
    pair.commit(2)
    flip(pair.ahead, NAME, 30)
    make_equal(pair.ahead, pair.behind, deep=True)
    assert stored(pair.behind) == b"one channel"
    assert differences(pair.ahead, pair.behind, deep=True) == Differences((NAME,), ())


def test_file_that_only_the_target_has_is_kept(pair: Pair) -> None:
    pair.commit(2)
    pair.ahead.remove(NAME)
    make_equal(pair.ahead, pair.behind, deep=True)
    assert stored(pair.behind) == b"one channel"
    assert differences(pair.ahead, pair.behind, deep=True) == Differences((), ())


def test_missing_or_damaged_file_is_mended_from_the_other_member(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    for content in (stored(pair.ahead), LARGEST):
        assert content is not None
        for each in peers:
            publish_attachment(each.storage, EMERGENCY, content)
        assert compare_members(peers).faults == ()
        pair.behind.remove(NAME)
        for state in (State.MISSING, State.DAMAGED):
            (fault,) = compare_members(peers).faults
            assert (fault.name, fault.good, fault.bad[0].state) == (NAME, ("a",), state)
            (done,) = mend(compare_members(peers), peers, running=False)
            assert done.outcome is Mending.MENDED
            assert stored(pair.behind) == content
            if len(content) < 1000:
                flip(pair.behind, NAME, 40)
            else:
                pair.behind.publish(NAME, b"rubbish")


def test_member_that_trails_may_lack_the_file(tmp_path: Path) -> None:
    pair, _ = equal_members(tmp_path)
    backup_id = backup_in(pair.ahead).id()
    for name, storage in (("a", pair.ahead), ("b", pair.behind)):
        storage.publish(MEMBERS, document(name, backup_id, Epoch(4, "one"), in_sync=("a",)))
    pair.behind.remove(NAME)
    assert compare_members([peer("a", pair.ahead), peer("b", pair.behind)]).faults == ()
