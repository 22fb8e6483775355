"""How often a running plugin looks whether somebody has found damage in its backup."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from backends.log.writer.writer import Writer
from plugin.damage_watch import DamageWatch
from plugin.renewal import Renewal


@pytest.mark.parametrize(("costly", "looks"), [(False, 120), (True, 10)])
def test_damage_is_looked_for_rarely_where_each_request_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costly: bool, looks: int
) -> None:
    """In ten minutes with a tick each second."""
    clock, read = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    damage = SimpleNamespace(read=lambda: read.append(clock[0]))
    writer = cast("Writer", SimpleNamespace(damage=damage, storage=SimpleNamespace(costly=costly)))
    watch = DamageWatch(tmp_path, lambda *_: None, cast("Renewal", SimpleNamespace(running=False)))
    for _ in range(600):
        watch.tick(writer)
        clock[0] += 1
    assert len(read) == looks
