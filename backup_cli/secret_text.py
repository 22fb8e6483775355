"""What the commands say of the `hsm_secret` beside a database: a wrong one is found out on the worst day, or before."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError
from backends.node.hsm_secret import HSM_SECRET, Checked, Verdict, check_secret
from backends.node.lockfile import read_settings
from backends.node.present import inspect_node
from backends.text import printable, shell_line
from backup_cli.console import warn
from backup_cli.waiting import answered


@dataclass(frozen=True, slots=True)
class KnownNode:
    """The node's id, in hex, and what says so, in the middle of a sentence."""

    node_id: str
    source: str


def known_node(directory: Path) -> KnownNode | None:
    """Whose directory this is: the database says it, or the backup. None when neither does, or is to be had."""
    database = inspect_node(directory).node_id
    if database is not None:
        return KnownNode(database, "the database")
    with suppress(BackupError, OSError):  # that it cannot be reached is said elsewhere
        url = read_settings(directory).url
        of_backup = answered(url, backup_at(url).node_id)
        if of_backup is not None:
            return KnownNode(of_backup, f"the backup at {printable(url)}")
    return None


def why_wrong(path: Path, checked: Checked, source: str) -> str | None:
    """Why nobody may start a node with this secret, and what to do; None when nothing is known against it."""
    if checked.verdict is Verdict.DIFFERS:
        return (
            f"{path} is ANOTHER NODE'S: it makes the node {checked.made}, and {source} is of the node "
            f"{checked.expected}. Do not start the node with it. {_LOOK_FOR_IT}"
        )
    if checked.verdict is Verdict.MALFORMED:
        return f"lightningd does not start with {path}: {checked.why}. If that does not help: {_LOOK_FOR_IT.lower()}"
    return None


_LOOK_FOR_IT = (
    "Keep this file under another name, and look for the other copies of hsm_secret (or of its words) that you keep; "
    "backup-cli check-config says which one is the right one"
)


def warn_of_secret(directory: Path, node_id: str | None, source: str) -> Checked:
    """Look at the secret in this directory, if there is one, and say so when it is not the one of this node."""
    path = directory / HSM_SECRET
    checked = check_secret(path, node_id)
    wrong = why_wrong(path, checked, source)
    if wrong is not None:
        warn(wrong)
    return checked


def about_secret(directory: Path, checked: Checked) -> str:
    """A rule for whoever has restored a database to this directory."""
    path = directory / HSM_SECRET
    match checked.verdict:
        case Verdict.MATCHES:
            return f"{path} is this node's. Keep copies of it elsewhere, too: it is not in this backup."
        case Verdict.DIFFERS | Verdict.MALFORMED:
            return f"{path} is the wrong one, as said above: do not start the node with it."
        case Verdict.NEEDS_PASSPHRASE:
            return f"{path} is there; {how_to_tell(path, checked)}."
        case Verdict.UNREADABLE:
            return f"{path} is there, and could not be compared with this node's id: {checked.why}."
        case Verdict.NOT_COMPARED:
            return f"{path} is there, and makes the node {checked.made}: this backup does not say which one it is of."
        case Verdict.MISSING:
            return (
                "hsm_secret belongs beside the database; it is not in this backup, and without it nothing can be spent."
            )


def how_to_tell(path: Path, checked: Checked) -> str:
    """Of one with a passphrase, in the middle of a sentence."""
    command = shell_line("lightning-hsmtool", "getnodeid", path)
    should = "" if checked.expected is None else f", which should be {checked.expected}"
    return f"whose it is can only be told with its passphrase: {command} asks for that, and shows the node's id{should}"
