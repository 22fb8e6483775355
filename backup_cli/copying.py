"""How commands read a stopped node's database, to write a snapshot of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from backends.base import SnapshotSource
from backends.sqlite.copy import consistent_copy
from backends.sqlite.in_place import in_place
from backup_cli.console import progress
from backup_cli.options import ELSEWHERE


@contextmanager
def snapshot_source(database: Path, scratch: Path, *, check_first: bool = False) -> Iterator[SnapshotSource]:
    """A stopped node's database as it is now; checked before this yields with `check_first`, otherwise meanwhile.

    What cannot be read from its own file is copied to `scratch` first, until the context ends.
    """
    with ExitStack() as held:
        with progress("Checking the database") if check_first else nullcontext():
            source = held.enter_context(in_place(database, beside=not check_first))
        if source is not None:
            yield source
            return
    with ExitStack() as copy:
        with progress("Copying the database") as show:
            source = copy.enter_context(
                consistent_copy(database, scratch, writable=True, progress=show, instead=ELSEWHERE)
            )
        yield source
