"""What every command says about a node's database compared with its backup."""

from collections.abc import Callable
from pathlib import Path

from backends.keyring import init_command
from backends.node.bring_back import bring_back
from backends.node.directory import database_path
from backends.node.hand_over import restore_command
from backends.node.lockfile import LOCK_FILE
from backends.node.memory import Memory
from backends.node.memory_text import BOTH_OLDER, NOT_ITS_OWN, what_is_wrong
from backends.node.pairing import DISPUTED, Found, Identity, NextStart, NodeDatabase, Pairing, Relation
from backends.text import counted
from backup_cli.console import ago
from backup_cli.findings import Finding, ok, problem, warning

TWO_NODES = "two nodes with the same keys lose money"


def finding(pairing: Pairing, url: str, directory: Path, provable: Callable[[], bool]) -> Finding:
    """One line about database and backup, with what to type. `provable` is passed on to `Pairing.next_start`."""
    if pairing.identity is not Identity.OURS:
        return problem(*_whose(pairing, url))
    if pairing.memory.verdict is not Memory.AGREES:
        return problem("version", remembered_otherwise(pairing, url, directory))
    if pairing.copied and pairing.relation in DISPUTED:
        return problem("version", _copied(pairing, url, directory))
    if pairing.relation is Relation.BEHIND:
        return _behind(pairing, url, directory, provable)
    return _FINDINGS[pairing.relation](pairing, url, directory)


def _whose(pairing: Pairing, url: str) -> tuple[str, str]:
    backup = pairing.backup
    if pairing.identity is Identity.OTHER_BACKUP:
        return "destination", (
            f"{url} holds the backup {backup.backup_id}, and {LOCK_FILE} expects another one: this one belongs to "
            "another node, or was recreated. The next start is refused. Put the right one back; if that is lost for "
            f"good, run: {init_command()}, with a new URL"
        )
    if pairing.identity is Identity.OTHER_NODE:
        return "destination", (
            f"the backup at {url} belongs to the node {backup.node_id}, and the database to "
            f"{pairing.database.node_id}. Give this node a backup of its own: {init_command()}, with a new URL"
        )
    return "version", taken_over(pairing, url)


def taken_over(pairing: Pairing, url: str) -> str:
    """The text for a backup that another machine has written to. It names no command: the right one depends on whether
    that machine still runs."""
    writer, last = pairing.backup.writer, ago(pairing.backup.last_change)
    host = "another machine" if writer is None else f"another node ({writer.host}, {writer.process})"
    return (
        f"{host} has written to the backup at {url} since this directory last did (last change {last}, version "
        f"{pairing.backup.version}). The next start is refused. If that node is in use, never start this one again: "
        f"{TWO_NODES}. Only if that node is off for good, move the node here (docs/recovery.md, from step 3)"
    )


def _copied(pairing: Pairing, url: str, directory: Path) -> str:
    """The text for a directory that did not write last. It advises no restore: nobody knows which state is newer."""
    return (
        f"{both(pairing, url, database_path(directory))}; {why_copied(pairing)}. The next start is refused. If that "
        f"node is in use, never start this one: {TWO_NODES}. Only if it is off for good and this database is surely "
        "the newest, run: backup-cli resync"
    )


def remembered_otherwise(pairing: Pairing, url: str, directory: Path) -> str:
    """The text for a destination that contradicts what the node remembers; the advice depends on the database."""
    wrong = what_is_wrong(pairing.memory, url, pairing.backup.version)
    here = in_words(pairing.database, database_path(directory))
    if pairing.both_older:
        return f"{wrong}; and {here}. {BOTH_OLDER}"
    if pairing.relation is Relation.BEHIND or pairing.database.found is not Found.VERSION:
        resync = (
            ""
            if pairing.database.found is not Found.VERSION
            else (
                f" Only if {here}, and that is surely the state that the node last ran from, make the backup hold it "
                f"(what is there now is kept for a week): backup-cli resync --discard-newer {pairing.backup.version}"
            )
        )
        return f"{wrong}; {here}. {NOT_ITS_OWN}.{resync}"
    return (
        f"{wrong}. {here[0].upper()}{here[1:]}, which is not older than what the node remembers: its next start takes "
        "a new snapshot by itself, or run now: backup-cli resync. Check what can write to the destination"
    )


def why_copied(pairing: Pairing) -> str:
    """Why the higher version may not be the newer state, as the middle of a sentence."""
    writer = pairing.backup.writer
    who = "" if writer is None else f" ({writer.host}, {writer.process})"
    return (
        f"the node that wrote last{who} did not work in this directory, which looks like a copy that has gone its own "
        "way: of two such states the higher version is not surely the newer one"
    )


def _behind(pairing: Pairing, url: str, directory: Path, provable: Callable[[], bool]) -> Finding:
    lost, known = counted(-pairing.distance, "change"), pairing.backup.known
    if pairing.next_start(provable) is NextStart.ROLL_FORWARD:
        unless = "" if known is None or known.doubt else f" ({_UNLESS})"
        return ok(
            "version",
            f"the database is at {pairing.database.version} and lacks the backup's last {lost}, as after a "
            f"power cut; the node's next start brings it forward by itself{unless}",
        )
    if known is not None:
        back = bring_back(known, url, directory, replace=True, give_up=pairing.backup.version)
        return problem(
            "version",
            f"{both(pairing, url, database_path(directory))}: the database has lost changes, or is an old copy. A node "
            f"that runs from it can lose every channel, and the next start is refused. Keep it. {back}",
        )
    if pairing.backup.damaged:
        return problem(
            "version",
            f"{both(pairing, url, database_path(directory))}: the database has lost changes, or is an old copy. A node "
            "that runs from it can lose every channel, so do not start it. To see whether the newest state can still "
            f"be brought back, run: {restore_command(url, directory, replace=True)} (if it cannot, that "
            'changes nothing); docs/recovery.md, "When the backup is damaged", says what else can be tried',
        )
    found = "keeps no version" if pairing.database.version is None else f"is at version {pairing.database.version}"
    return problem(
        "version",
        f"the database {found}, and its backup is at {pairing.backup.version}: it has lost {lost}, or is an "
        "old copy. A node that runs from it can lose every channel, and the next start is refused. Bring back the "
        f"newest state, which keeps this file aside: {restore_command(url, directory, replace=True)}",
    )


_UNLESS = "unless what was found is in one of these changes: then it is refused, and says what is safe"


def _equal(pairing: Pairing, url: str, directory: Path) -> Finding:
    return ok("version", f"the database and its backup are both at version {pairing.database.version}")


def _ahead(pairing: Pairing, url: str, directory: Path) -> Finding:
    return warning(
        "version",
        f"the database is {counted(pairing.distance, 'change')} ahead of its backup: the node ran without the "
        "plugin; its next start with it takes a new snapshot by itself, or run now: backup-cli resync",
    )


def _both_empty(pairing: Pairing, url: str, directory: Path) -> Finding:
    return ok("version", "there is no database yet, and the backup begins with the node's first start")


def _no_database(pairing: Pairing, url: str, directory: Path) -> Finding:
    there, known = database_path(directory).exists(), pairing.backup.known
    back = f"bring the database back with: {restore_command(url, directory, replace=there)}"
    if known is not None:
        back = f"and {known.sentence()}. {bring_back(known, url, directory, replace=there)}"
    return problem(
        "version",
        f"there is no database at {database_path(directory)}, and its backup holds version {pairing.backup.version}: "
        f"do not start an empty node; {back}",
    )


def _no_version(pairing: Pairing, url: str, directory: Path) -> Finding:
    return warning(
        "version",
        "the database dates from before lightningd kept a version, so it cannot be compared with its backup; the next "
        "start with the plugin compares their content",
    )


def _corrupt(pairing: Pairing, url: str, directory: Path) -> Finding:
    anyway, known = " --discard-newer unknown", pairing.backup.known
    back = f"bring it back with: {restore_command(url, directory, replace=True)}{anyway} ({_ASIDE})"
    if known is not None:
        back = f"but {known.sentence()}. {bring_back(known, url, directory, replace=True, extra=anyway)}"
    return problem(
        "version",
        f"{database_path(directory)} is damaged: do not start the node. Keep that file and its disk; the newest state "
        f"is in the backup (version {pairing.backup.version}), {back}",
    )


_ASIDE = "which keeps the damaged file aside: its version cannot be told"


def _unreadable(pairing: Pairing, url: str, directory: Path) -> Finding:
    return warning("version", pairing.database.why)


def _running(pairing: Pairing, url: str, directory: Path) -> Finding:
    return ok("version", "the node runs, and its plugin has compared the two")


_FINDINGS: dict[Relation, Callable[[Pairing, str, Path], Finding]] = {
    Relation.EQUAL: _equal,
    Relation.AHEAD: _ahead,
    Relation.BOTH_EMPTY: _both_empty,
    Relation.NO_DATABASE: _no_database,
    Relation.NO_VERSION: _no_version,
    Relation.CORRUPT: _corrupt,
    Relation.UNREADABLE: _unreadable,
    Relation.RUNNING: _running,
}


def in_words(database: NodeDatabase, path: Path) -> str:
    """The database's version, or why there is none, as the middle of a sentence."""
    words = {
        Found.VERSION: f"the database {path} is at version {database.version}",
        Found.NO_VERSION: f"the database {path} keeps no version",
        Found.NOTHING: f"there is no database at {path}",
    }
    return words.get(database.found) or database.why or f"the database {path} is in use"


def both(pairing: Pairing, url: str, path: Path) -> str:
    """The versions of database and backup, as the middle of a sentence."""
    backup = pairing.backup
    holds = "holds nothing yet" if backup.empty else f"is at version {backup.version}"
    if backup.damaged:
        holds = f"is damaged, and shows that version {backup.version} was once saved"
    return f"{in_words(pairing.database, path)}, and the backup at {url} {holds}"
