"""The node's database copied aside, before a snapshot of it is written: by commands, with what a person sees of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backends.base import SnapshotSource
from backends.sqlite.copy import consistent_copy
from backup_cli.console import progress
from backup_cli.options import ELSEWHERE


@contextmanager
def copied(database: Path, scratch: Path) -> Iterator[SnapshotSource]:
    """The database of a stopped node as it is now; the copy lies in `scratch` meanwhile."""
    with ExitStack() as copy:
        with progress("Copying the database") as show:
            source = copy.enter_context(
                consistent_copy(database, scratch, writable=True, progress=show, instead=ELSEWHERE)
            )
        yield source
