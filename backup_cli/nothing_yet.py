"""A backup that holds no database yet: nothing can be made of it, and no command says that it made something."""

from backends.errors import BackupError
from backends.sqlite.source import DatabaseState


class NothingYet(BackupError):
    """The backup holds no database: the node has never started with it."""

    kind = "nothing_yet"


def demand_database(state: DatabaseState, undone: str) -> None:
    """Raise NothingYet if the database that was rebuilt from a backup is none. `undone` says what was not done."""
    if state.empty:
        raise NothingYet(f"the backup holds no database yet: the node has never started with it. {undone}")
