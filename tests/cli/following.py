"""Commands that bring a copy into step with a node's backup, and promote it."""

from pathlib import Path

from tests.end_to_end.world import Said, World, backup_cli


def once(world: World, dest: Path, *options: object) -> Said:
    """Run `backup-cli follow --once` from this node's backup to `dest`."""
    return backup_cli("follow", "--once", *world.key_options, *options, world.url, dest)


def promote(world: World, dest: Path, *options: object) -> Said:
    """Run `backup-cli follow --promote` for the copy of this node's backup in `dest`."""
    return backup_cli("follow", "--promote", *world.key_options, *options, world.url, dest)
