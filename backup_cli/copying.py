"""How commands copy the node's database, with a progress bar, before they write a snapshot of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backends.base import SnapshotSource
from backends.sqlite.copy import consistent_copy
from backup_cli.console import progress
from backup_cli.options import ELSEWHERE


@contextmanager
def copied(database: Path, scratch: Path) -> Iterator[SnapshotSource]:
    """A copy of a stopped node's database as it is now; the copy is in `scratch` until the context ends."""
    with ExitStack() as copy:
        with progress("Copying the database") as show:
            source = copy.enter_context(
                consistent_copy(database, scratch, writable=True, progress=show, instead=ELSEWHERE)
            )
        yield source
