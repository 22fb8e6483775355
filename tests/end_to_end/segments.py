"""A node whose log goes on in a second segment, however busy the machine is."""

from collections.abc import Iterable
from itertools import islice

from backends.log.format.records import segment_name
from tests.end_to_end.world import World
from tests.fake_lightningd import Call, Node
from tests.members.world import eventually


def play_past_a_segment(world: World, node: Node, calls: Iterable[Call]) -> None:
    """Play these calls of a MiB each. After six, the maintenance makes the next segment: it is waited for, because
    without it the writer would go on in the first one."""
    rest = iter(calls)
    node.play(list(islice(rest, 6)))
    eventually(lambda: (world.backup / segment_name(2)).exists())
    node.play(list(rest))
