"""What a person is told about a bucket whose store is reached without encryption."""

from pathlib import Path

import pytest

from backends import place_at


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [
        ("http://nas.local:9000", True),
        ("http://[fd00::1]:9000", True),
        ("https://nas.local:9000", False),
        ("http://127.0.0.1:9000", False),
        ("http://127.0.0.2", False),
        ("http://LOCALHOST:9000", False),
        ("http://[::1]", False),
        ("http://[::1]:9000", False),
    ],
)
def test_store_without_encryption_is_warned_of_unless_it_is_on_this_machine(
    endpoint: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody's")
    found = place_at(f"s3://bucket/lightning.bkp?endpoint={endpoint}").warnings(Path("/"))
    assert [each for each in found if "is not encrypted on the way" in each] == (found if warned else [])
    assert bool(found) == warned
