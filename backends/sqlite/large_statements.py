"""Memory for a statement that is larger than all else that is replayed: a node may send up to 1 GiB at once.

While it is executed, it is in memory several times: as Python's text, as SQLite's copy of that, as the value in it, and
as the row that is made from it. The limits of this process are raised before any of that is made, and where the
machine lacks the memory, the error says how much is needed.
"""

from collections.abc import Sequence

from backends.log.reader.statements import SpooledStatements
from backends.sqlite.connection import largest_value, raise_memory_limit
from backends.sqlite.limits import long_statement
from backends.system.pulse import pulse

LARGE = 8 << 20
"""Bytes. The limits of any process allow for a smaller statement."""


def allow(statements: Sequence[str], data_version: int) -> None:
    """Before the change with this data version is executed: allow the memory that its largest statement takes.

    Raises BeyondLimits for a statement that is out of all proportion to its backup.
    """
    size = statements.largest if isinstance(statements, SpooledStatements) else 0
    pulse.statement = size if size >= LARGE else 0
    if not pulse.statement:
        return
    if size > largest_value():
        raise long_statement(data_version, size)
    raise_memory_limit(size)
