"""Schema objects in a restored database that no lightningd makes: refused, and named, unless the user accepts them."""

import click

from backends.errors import BackupError
from backends.sqlite.functions import ALLOWED
from backends.sqlite.schema import UnknownObjects
from backup_cli.console import warn

accept_schema = click.option(
    "--accept-schema",
    "accepted",
    is_flag=True,
    help="Accept triggers, views and the like that no lightningd makes; only if you made all those that are named.",
)


class UnknownSchema(BackupError):
    """A database holds objects that no lightningd makes, and the user has not accepted them."""


def demand_known_schema(unknown: UnknownObjects, accepted: bool, where: str, untouched: str) -> None:
    """Raise UnknownSchema if there are unknown objects that were not `accepted`.

    `where` names the backup, `untouched` says that nothing was done. The acceptance is not recorded: the user gives the
    flag each time, and is told each time what it accepts.
    """
    if not unknown:
        return
    if accepted:
        warn(f"the database in {where} holds objects that no lightningd makes, and you accepted: {unknown.sentence()}")
        return
    raise UnknownSchema(
        f"the database in {where} holds objects that no lightningd makes, and they would run inside the node: "
        f"{unknown.sentence()}. Somebody added them to the node's database, or altered the backup; {untouched}. "
        "Only if you made all of them yourself, repeat this with --accept-schema; otherwise start no node from this "
        "backup, and look for another copy of it"
    )


def tell_unknown_schema(unknown: UnknownObjects) -> None:
    """Warn of unknown objects in the node's own database when a backup of it is made, not only in a disaster."""
    if not unknown:
        return
    warn(
        f"the node's database holds objects that no lightningd makes: {unknown.sentence()}. If you did not add them, "
        "somebody else has changed the database. If you did: restore and verify refuse them unless given "
        "--accept-schema; or drop them with the node stopped and repeat this. What runs at each change (a trigger, a "
        "CHECK) may only call the functions "
        f"{', '.join(sorted(ALLOWED))}: with any other, the backup cannot be restored"
    )
