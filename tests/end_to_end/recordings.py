"""What real nodes did: the recording that is shipped with the project, and others where they are available."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.world import World
from tests.fake_lightningd import RECORDED_CALLS, RECORDED_DATABASE, Call, read_recording, recorded_database

_ELSEWHERE = Path(__file__).parents[3] / "shared" / "traces"


@dataclass(frozen=True, slots=True)
class Recording:
    """A node's calls, its database after a clean stop and, for an upgrade, before the first call."""

    name: str
    path: Path
    after: Path
    before: Path | None

    def calls(self, limit: int | None = None) -> Iterator[Call]:
        """The recorded calls in sequence; only the first `limit` if given."""
        return read_recording(self.path, limit)

    def prepare(self, world: World) -> World:
        """Give the node the database that it began with, and a backup."""
        if not self.path.exists():
            pytest.skip(f"the recording {self.name} is not at hand: {self.path}")
        if self.before is not None:
            recorded_database(world.database, self.before)
        return world.init()

    def expected(self, world: World) -> Path:
        """The recorded database after the stop."""
        path = world.root / "recorded.sqlite3"
        return path if path.exists() else recorded_database(path, self.after)


def _upgrade(name: str) -> Recording:
    place = _ELSEWHERE / name
    return Recording(name, place / "db_write.jsonl.gz", place / "after.sqlite3.gz", place / "before.sqlite3.gz")


FRESH = Recording("fresh-channel", RECORDED_CALLS, RECORDED_DATABASE, None)

UPGRADES = [_upgrade(f"upgrade-{name}") for name in ("v135", "v199", "v277", "no-data-version")]

RECORDINGS = [FRESH, *UPGRADES]
