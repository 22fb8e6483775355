"""What a restore would give up: the database that it replaces, and the state in the backup that the node there uses."""

from collections.abc import Sequence
from pathlib import Path

from backends.node.directory import DATABASE
from backends.node.memory import Memory, remembered
from backends.node.memory_text import BOTH_OLDER, NOT_ITS_OWN, what_is_wrong
from backends.node.pairing import BackupEnd, Found, Identity, NodeDatabase, Pairing, Relation, pair
from backends.node.present import inspect_database
from backup_cli.consent.newest import State, demand_consent, demand_newest
from backup_cli.pairing_text import both


def demand_no_newer(target: Path, url: str, end: BackupEnd, older: bool, consent: Sequence[str]) -> None:
    """Raise WouldDiscard if a restore of `end` would replace a newer state, or one that cannot be compared, unless the
    user has consented.

    Called before a restore with what the backup says about itself, and again with what was really restored. `older`:
    `url` is a file of the older plugin.
    """
    _demand_older(target, url, end, consent)
    if target.name == DATABASE:
        restored = NodeDatabase(Found.VERSION, end.version, end.node_id)
        what = f"what {url} would bring back is at version {end.version}"
        demand_newest(target.parent, restored, what, consent, restored="" if older else end.backup_id)
        _demand_remembered(target.parent, url, end, consent)


def _demand_remembered(directory: Path, url: str, end: BackupEnd, consent: Sequence[str]) -> None:
    """Demand consent if the node's own record (in `directory`, if still there) disagrees with the backup at `url`.

    Neither an older state nor changes that this node did not write are restored to its directory silently.
    """
    memory = remembered(directory, end.backup_id, end.end, end.writer)
    if memory.verdict is Memory.AGREES:
        return
    if memory.verdict is Memory.OLDER:
        lost = State(f"what this node had acknowledged up to version {memory.version}", memory.version)
        demand_consent(what_is_wrong(memory, url, end.version), lost, BOTH_OLDER, consent)
        return
    lost = State(f"what this node itself wrote last (version {memory.version})", memory.version)
    demand_consent(what_is_wrong(memory, url, end.version), lost, NOT_ITS_OWN, consent)


def _demand_older(target: Path, url: str, end: BackupEnd, consent: Sequence[str]) -> None:
    database = inspect_database(target)
    pairing = pair(database, end, None, None)
    if pairing.backup_surely_newest:
        return
    why, lost = both(pairing, url, target), State(f"the database {target}", database.version)
    if pairing.identity is Identity.OTHER_NODE:
        why += f": they belong to two nodes ({database.node_id} and {end.node_id})"
        lost = State(lost.what, None)
        advice = "Restore to another directory; each node needs one of its own"
    elif pairing.relation is Relation.AHEAD:
        why += ": the database is the newer state, and a node that runs from an older one can lose every channel"
        advice = (
            "No restore is needed: the database is the one to go on with; to see whether the node can, run: backup-cli "
            "check-config. To look at the backup, restore it to another directory"
        )
    else:
        why += f": {_INCOMPARABLE.get(pairing.relation, 'nobody can tell which is newer')}"
        lost = State(lost.what, None)
        advice = (
            "Find out whether the node last ran with that file, and with the plugin: if so, the backup is just as new"
        )
    demand_consent(why, lost, advice, consent)


_INCOMPARABLE = {
    Relation.CORRUPT: "which of the two is newer cannot be told from a damaged file",
    Relation.UNREADABLE: "a file that cannot be read may be the newer state",
}


def which_is_newer(pairing: Pairing) -> str | None:
    """Whether the existing database or the backup is the newer state, as a sentence; None when nobody can tell."""
    there, saved = pairing.database.version, pairing.backup.version
    if there is None or pairing.identity is Identity.OTHER_NODE:
        return None
    if pairing.relation is Relation.AHEAD:
        return f"It holds version {there}, the backup only {saved}: it is the newer state, and the one to go on with"
    which = "the same as" if pairing.relation is Relation.EQUAL else "older than"
    return f"It holds version {there}, {which} the backup's {saved}"
