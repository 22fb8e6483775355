"""The statements of a large change, spooled to a file between the log and the replay."""

import sys

import pytest

from backends.log.reader.statements import spooled


@pytest.mark.parametrize("size", [100_000, 10 << 20])
def test_discarding_spooled_statements_runs_no_python(size: int) -> None:
    """A Ctrl-C that arrives in a Python destructor is swallowed there, with a traceback, and the command continues."""
    begun: list[str] = []
    statements = spooled([b"x" * size], size)
    assert list(statements) == ["x" * size]
    sys.setprofile(lambda frame, event, _: begun.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del statements
    finally:
        sys.setprofile(None)
    assert begun == []
