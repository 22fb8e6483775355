"""Numbers in sentences."""

import pytest

from backends.words import counted
from backup_cli.console import age


@pytest.mark.parametrize(("count", "text"), [(0, "0 changes"), (1, "1 change"), (2, "2 changes")])
def test_one_of_them_has_no_plural(count: int, text: str) -> None:
    assert counted(count, "change") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 seconds"), (0.4, "0 seconds"), (1.2, "1 second"), (61, "1 minute"), (7200, "2 hours")],
)
def test_an_age_has_no_wrong_plural(seconds: float, text: str) -> None:
    assert age(seconds) == text
