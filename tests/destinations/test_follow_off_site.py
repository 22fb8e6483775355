"""A copy that follows a backup on an SSH server, in a bucket and in a cluster."""

import json
import os

import pytest

from backends.node.following import COPY
from tests.cli.conftest import jobs_here
from tests.cli.following import once, promote
from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.end_to_end.db_compare import compared, everything
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History, Refused

__all__ = ["jobs_here"]

KINDS = ("openssh", "s3", "postgres")
CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"


@pytest.mark.usefixtures("jobs_here")
@pytest.mark.parametrize("kind", KINDS if CAMPAIGN else ["s3"])
def test_copy_follows_a_backup_off_site_across_a_compaction_and_is_promoted(
    kind: str, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url(kind)).init()
    warm = world.root / "warm"
    world.run([history.first(), *history.notes(3)])
    for built, calls in ((True, 3), (False, 4)):
        said = once(world, warm, "--json")
        assert said.code == 0, said
        assert json.loads(said.out)["built"] is built
        assert compared(everything(warm / COPY), everything(world.database)) == []
        world.run(history.notes(calls))
        assert backup_cli("compact", *world.key_options, world.url).code == 0
    said = promote(world, warm, "--json")
    assert said.code == 0, said
    with pytest.raises(Refused, match="another node"):
        world.run(history.notes(1))
    (world.root / "promoted").mkdir()
    promoted = World(world.root / "promoted")
    promoted.directory = warm
    promoted.run(History(promoted.version).notes(2))
    assert promoted.version == 13
