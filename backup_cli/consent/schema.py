"""What a restored database brings along that no lightningd makes: refused by name, unless somebody knows better."""

import click

from backends.errors import BackupError
from backends.sqlite.functions import ALLOWED
from backends.sqlite.schema import UnknownObjects
from backup_cli.console import warn

accept_schema = click.option(
    "--accept-schema",
    "accepted",
    is_flag=True,
    help="Let pass triggers, views and the like that no lightningd makes: only when you have made all that are named.",
)


class UnknownSchema(BackupError):
    """A database holds what no lightningd makes, and nobody has said that it is known."""


def demand_known_schema(unknown: UnknownObjects, accepted: bool, where: str, untouched: str) -> None:
    """Raise UnknownSchema unless there is nothing unknown, or exactly this was accepted.

    `where` names the backup, `untouched` says that nothing was done. Nothing is recorded: who accepts it says so each
    time, and is told each time what it is.
    """
    if not unknown:
        return
    if accepted:
        warn(f"the database in {where} holds what no lightningd makes, and you accepted that: {unknown.sentence()}")
        return
    raise UnknownSchema(
        f"the database in {where} holds what no lightningd makes, and it would run inside the node: "
        f"{unknown.sentence()}. Somebody added it to the node's database, or altered the backup; {untouched}. "
        "Only if you know all of it and have made it yourself, repeat this with --accept-schema; else start no node "
        "from it, and look for another copy of the backup"
    )


def tell_unknown_schema(unknown: UnknownObjects) -> None:
    """When a backup is made of it: better known now than on the worst day."""
    if not unknown:
        return
    warn(
        f"the node's database holds what no lightningd makes: {unknown.sentence()}. If you did not add that, somebody "
        "else has changed the database. If you did: restore and verify refuse it until they are given "
        "--accept-schema; or drop it with the node stopped and repeat this. What runs at each change (a trigger, a "
        "CHECK) may call no other function than "
        f"{', '.join(sorted(ALLOWED))}: with another one, the backup cannot be restored"
    )
