"""A short history of a node, and what the refusal of a damaged legacy backup must say."""

import pytest

from backends.legacy import LegacyDamaged
from tests.fake_lightningd import Call, History
from tests.legacy.conftest import Bench
from tests.legacy.written import Written


def history(notes: int = 4) -> tuple[History, list[Call]]:
    life = History()
    return life, [life.first(), *life.notes(notes)]


def refused(bench: Bench, file: Written | bytes, last_good: int | None, tail: bytes = b"") -> LegacyDamaged:
    with pytest.raises(LegacyDamaged) as caught:
        bench.restore(file, tail)
    assert caught.value.last_good == last_good, caught.value
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert "backup-cli init" in said
    assert str(last_good) in said or last_good is None
    return caught.value
