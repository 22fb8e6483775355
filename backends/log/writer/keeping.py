"""Keeping a generation that was replaced because the database disagreed with it, for a while: people make mistakes.

Its files stay where they are, under their own names, which are never used again. The document `kept` is its manifest.
A compaction keeps nothing in it, because the generation that it replaces holds the same history.

With `keep` in the URL, every generation that is replaced, by a compaction too, is kept for its history. The document
`history` lists them. Nothing is copied: a generation is kept by not removing its files. A generation is first listed,
then replaced; and first struck off the list, then removed. So a crash leaves files that no list names, which the next
tidying removes, or an entry for the generation in use, which is ignored and struck off.

A fenced writer must neither change the list nor remove a file: both are its successor's by then, which may keep more.
So `check`, which raises Fenced, is called before each of these steps.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import TypeVar

from backends.base import Report
from backends.errors import BackupError
from backends.keep import Keep
from backends.log.format.documents import KEPT, Kept, Manifest
from backends.log.format.history import HISTORY, MAX_ENTRIES, History
from backends.log.format.records import segment_index, snapshot_name, time_now
from backends.log.reader.kept import history_in, is_kept, is_over, read_history, read_kept, stored_history
from backends.storage.base import Storage, is_full


def keep_generation(storage: Storage, kept: Kept) -> None:
    """Note durably that the current generation is to be kept when the next one is published. Raises OSError."""
    storage.publish(KEPT, kept.encode())


def still_kept(storage: Storage, current: Manifest) -> Kept | None:
    """The kept generation, or None. For the writer: removes a note that is too old or invalid. Raises OSError.

    A note about the current generation is invalid: its writer died before the next generation was published.
    """
    kept = read_kept(storage, current)
    if kept is not None and not is_over(kept):
        return kept
    with suppress(FileNotFoundError):
        storage.remove(KEPT)
    return None


def wanted_keep(history: History, said: Keep | None) -> Keep:
    """How much is to be kept: what the URL says, or else what is noted in the backup."""
    return history.keep if said is None else said


def add_to_history(
    storage: Storage, current: Manifest, kept: Kept, said: Keep | None, lived: int, check: Callable[[], None]
) -> None:
    """Note durably that the current generation is kept for its history once the next one is published; `kept` says how
    it ends, and `lived` is as in `tidy_history`. Does nothing if nothing is to be kept. Raises OSError, or
    Fenced."""
    history = read_history(storage, current).aged(lived, time_now())
    keep = wanted_keep(history, said)
    if keep.seconds:
        generations = (*history.generations, replace(kept, since=history.clock))[-MAX_ENTRIES:]
        check()
        storage.publish(HISTORY, replace(history, keep=keep, generations=generations).encode())


def tidy_history(
    storage: Storage,
    current: Manifest,
    said: Keep | None,
    names: Sequence[str],
    check: Callable[[], None],
    size_of: Callable[[str], int] | None = None,
    lived: int = 0,
) -> History:
    """Strike off the list what is not to be kept any more, and return what is left of it. Raises OSError, or Fenced.

    `lived` are the seconds for which the writer has been open since it last said so: what is kept ages by them rather
    than by a clock that may jump (`History.aged`).

    That is what is too old, what has lost its snapshot, and the oldest beyond the size (if `size_of`, which returns the
    size of a file, is given). The files are the caller's to remove. `names` are those of all files.
    """
    if HISTORY not in names and not (said and said.seconds):
        return History(current.backup_id, current.key)
    before = stored_history(storage)
    history = history_in(before, current).aged(lived, time_now())
    keep = wanted_keep(history, said)
    kept = [each for each in history.generations if history.clock - each.since <= keep.seconds]
    kept = [each for each in kept if snapshot_name(each.manifest.generation) in names]
    if size_of is not None and kept:
        sizes = {name: size_of(name) for name in names if _is_of_history(name, kept, current)}
        while kept and sum(size for name, size in sizes.items() if _is_of_history(name, kept, current)) > keep.bytes:
            del kept[0]
    clock = history.clock if kept else 0  # nothing has an age then, and no start needs to write the list again
    left = replace(history, keep=keep, generations=tuple(kept) if keep.seconds else (), clock=clock)
    if keep.seconds:
        if before is None or _differs(before, left):
            check()
            storage.publish(HISTORY, left.encode())
    elif before is not None:
        check()
        storage.remove(HISTORY)
        storage.sync_names()
    return left


def give_up_oldest(storage: Storage, current: Manifest, check: Callable[[], None]) -> Kept | None:
    """Give up the oldest generation that is kept for its history, and return it; None if there is none.

    Its snapshot is removed first, then its other files: that frees space even where the disk is too full for a new
    list, and an entry without its snapshot counts no more. `tidy_history` must follow. Raises OSError, or Fenced.

    A generation that is also kept because the database disagreed with it stays: it may be the newest state, which
    somebody has replaced by mistake.
    """
    names = storage.names()
    if HISTORY not in names:
        return None
    generations, disagreed = read_history(storage, current).generations, read_kept(storage, current)
    snapshots = [(each, snapshot_name(each.manifest.generation)) for each in generations]
    there = [each for each, snapshot in snapshots if snapshot in names and not is_kept(snapshot, disagreed)]
    if not there:
        return None
    oldest = there[0]
    check()
    storage.remove(snapshot_name(oldest.manifest.generation))
    storage.sync_names()
    others = [each for each in (disagreed, *there[1:]) if each is not None]
    for name in names:
        own = _is_of_history(name, [oldest], current) and not any(is_kept(name, each) for each in others)
        if own and name != snapshot_name(oldest.manifest.generation):
            check()
            with suppress(FileNotFoundError):  # a fenced writer has removed it meanwhile
                storage.remove(name)
    storage.sync_names()
    return oldest


def make_room(storage: Storage, current: Manifest, needed: int, check: Callable[[], None], report: Report) -> bool:
    """Give up generations that are kept for their history, the oldest first, until so many bytes are free.

    Returns whether any was: then `tidy_history` must follow. Raises OSError, or Fenced.
    """
    any_yet = False
    while storage.space().free < needed and (oldest := give_up_oldest(storage, current, check)) is not None:
        any_yet = True
        report("unusual", given_up(storage, oldest))
    return any_yet


_T = TypeVar("_T")


def with_room(
    storage: Storage, current: Callable[[], Manifest], check: Callable[[], None], report: Report, work: Callable[[], _T]
) -> _T:
    """What `work` returns. It is repeated each time that a generation was given up because there is no space for it.

    A quota shows in no number of free bytes: only trying tells. Where nothing is kept for its history, this raises what
    `work` raises. `tidy_history` must follow.
    """
    while True:
        try:
            return work()
        except OSError as error:
            if not is_full(error):
                raise
            oldest = give_up_oldest(storage, current(), check)
            if oldest is None:
                raise
            report("unusual", given_up(storage, oldest))


def given_up(storage: Storage, kept: Kept) -> str:
    """For the node's log: that this generation was given up."""
    return (
        f"{storage.describe()} is nearly full: generation {kept.manifest.generation}, which was kept for its history "
        f"(versions {kept.manifest.base.data_version} to {kept.data_version}), was given up. The newest state is safe; "
        "make room there, or keep less (docs/history.md)"
    )


def not_kept(storage: Storage, ended: Kept) -> str:
    """For the node's log: that this generation, which is about to be replaced, is not kept for its history."""
    return (
        f"{storage.describe()} is full: generation {ended.manifest.generation}, which was to be kept for its history "
        f"(versions {ended.manifest.base.data_version} to {ended.data_version}), is not kept. The newest state is "
        "safe; make room there, or keep less (docs/history.md)"
    )


def _differs(stored: bytes, history: History) -> bool:
    try:
        return History.decode(stored) != history
    except BackupError:
        return True


def _is_of_history(name: str, kept: Sequence[Kept], current: Manifest) -> bool:
    """Whether this is a file of one of these generations alone, which the current one does not need."""
    index = segment_index(name)
    if index is not None and index >= current.first_segment:
        return False
    return any(is_kept(name, each) for each in kept)


def history_bytes(history: History, current: Manifest, names: Sequence[str], size_of: Callable[[str], int]) -> int:
    """The bytes that are stored for the history alone. Raises OSError."""
    return sum(size_of(name) for name in names if _is_of_history(name, history.generations, current))


def size_of(storage: Storage, name: str) -> int:
    """The bytes of this file; 0 if it has just been removed. Raises OSError."""
    try:
        with closing(storage.open(name)) as handle:
            return handle.size()
    except FileNotFoundError:
        return 0


def remove_kept(storage: Storage, kept: Kept, history: History, check: Callable[[], None]) -> None:
    """Remove the kept generation's files, unless the history needs them, then the note. Raises OSError, or Fenced."""
    for name in storage.names():
        if is_kept(name, kept) and not any(is_kept(name, each) for each in history.generations):
            check()
            storage.remove(name)
    check()
    storage.remove(KEPT)
    storage.sync_names()
