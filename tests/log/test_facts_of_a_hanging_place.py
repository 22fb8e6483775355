"""What one backup says about itself is found out while another one hangs."""

import threading
from pathlib import Path

from backends.log.facts import Facts
from backends.storage.local import LocalStorage
from tests.log.histories import backup_in, source


def test_facts_of_one_place_are_read_while_another_place_hangs(tmp_path: Path) -> None:
    """Until Python 3.12, `cached_property` had one lock for the same property of all objects."""
    entered, release = threading.Event(), threading.Event()

    class Hanging(LocalStorage):
        def names(self) -> list[str]:
            entered.set()
            release.wait(60)
            return super().names()

    for name in ("hangs", "answers"):
        backup_in(LocalStorage(tmp_path / name)).create(source())
    hung = Facts(Hanging(tmp_path / "hangs"))
    ends: list[object] = []
    threads = [
        threading.Thread(target=lambda: ends.append(hung.end), daemon=True),
        threading.Thread(target=lambda: ends.append(Facts(LocalStorage(tmp_path / "answers")).end), daemon=True),
    ]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    threads[1].join(20)
    assert len(ends) == 1
    release.set()
    threads[0].join(20)
    assert len(ends) == 2
