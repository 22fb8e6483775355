"""Two processes that take the same file over, one after the other: the first must not undo what the second did.

Each was held up between what it saw and what it did next, for as long as the other one needed.
"""

import pytest

from backends.storage.base import FileFenced
from tests.storage.object_processes import Process, append, content, get, segment
from tests.storage.simulated_objects import ObjectWorld


def _copy(process: Process, count: int) -> str:
    """Take the segment over as a start does: seal it, and copy it under a temporary name, which is returned."""
    process.storage.seal("segment")
    name = process.storage.temporary("segment")
    handle = process.storage.create(name)
    handle.write(0, content(count))
    handle.write(len(content(count)), bytes(10_000))
    handle.sync()
    process.copy = handle  # type: ignore[attr-defined]
    return name


@pytest.mark.parametrize("kind", ["get", "replace"])
def test_replaced_successor_does_not_put_its_copy_over_the_next_ones(
    world: ObjectWorld, ours: Process, theirs: Process, kind: str
) -> None:
    segment(Process(world), 3)
    copy = _copy(ours, 3)

    def take_over() -> None:
        other = _copy(theirs, 3)
        theirs.storage.rename(other, "segment")
        append(theirs.copy, 3)  # type: ignore[attr-defined]

    ours.once(kind, take_over, "names/segment")
    with pytest.raises(FileFenced):
        ours.storage.rename(copy, "segment")
    append(theirs.copy, 4)  # type: ignore[attr-defined]
    assert get(Process(world).storage, "segment").rstrip(b"\0") == content(5)


def test_replaced_successor_does_not_remove_file_that_it_had_sealed(
    world: ObjectWorld, ours: Process, theirs: Process
) -> None:
    """It was about to remove a segment that its predecessor had made ahead of use; the next one has used the name."""
    segment(Process(world))
    ours.storage.seal("segment")
    theirs.storage.seal("segment")
    theirs.storage.remove("segment")
    other = segment(theirs, 3)
    with pytest.raises(FileFenced):
        ours.storage.remove("segment")
    append(other, 3)
    assert get(Process(world).storage, "segment").rstrip(b"\0") == content(4)
