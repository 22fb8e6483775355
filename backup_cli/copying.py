"""The node's database copied aside, before a snapshot of it is written: by commands, with what a person sees of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backends.base import SnapshotSource
from backends.database.taking import taken
from backup_cli.console import progress


@contextmanager
def copied(database: Path, directory: Path) -> Iterator[SnapshotSource]:
    """The database of a stopped node as it is now; the copy lies in `directory` meanwhile."""
    with ExitStack() as copy:
        with progress("Copying the database") as show:
            source = copy.enter_context(taken(database, directory, writable=True, progress=show))
        yield source
