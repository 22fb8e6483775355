"""What the commands say about the `hsm_secret` next to a database, so that a wrong one is noticed before a disaster."""

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
from backup_cli.seen_members import newest_url
from backup_cli.waiting import answered


@dataclass(frozen=True, slots=True)
class KnownNode:
    """The node's id in hex, and where it comes from, in words for the middle of a sentence."""

    node_id: str
    source: str


def known_node(directory: Path) -> KnownNode | None:
    """The node whose directory this is, from its database, else from its backup; None when neither tells."""
    database = inspect_node(directory).node_id
    if database is not None:
        return KnownNode(database, "the database")
    with suppress(BackupError, OSError):  # that the backup cannot be reached is reported elsewhere
        url = newest_url(read_settings(directory))
        of_backup = answered(url, backup_at(url).node_id)
        if of_backup is not None:
            return KnownNode(of_backup, f"the backup at {printable(url)}")
    return None


def why_wrong(path: Path, checked: Checked, source: str) -> str | None:
    """Why the node must not be started with the secret at `path`, and what to do; None if nothing is known against it.

    `source` says where the expected node id comes from.
    """
    if checked.verdict is Verdict.DIFFERS:
        return (
            f"{path} is ANOTHER NODE'S: it belongs to the node {checked.made}, and {source} to the node "
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
    """Check the secret in this directory, if there is one, and warn if it is not this node's."""
    path = directory / HSM_SECRET
    checked = check_secret(path, node_id)
    wrong = why_wrong(path, checked, source)
    if wrong is not None:
        warn(wrong)
    return checked


def about_secret(directory: Path, checked: Checked, stored: bool) -> str:
    """What to know about the secret before a node is started from a database restored to this directory.

    `stored`: the backup holds the secret, too.
    """
    path = directory / HSM_SECRET
    match checked.verdict:
        case Verdict.MATCHES:
            return (
                f"{path} is this node's. Keep copies of it elsewhere{'' if stored else ': it is not in this backup'}."
            )
        case Verdict.DIFFERS | Verdict.MALFORMED:
            return f"{path} is the wrong one, as said above: do not start the node with it."
        case Verdict.NEEDS_PASSPHRASE:
            return f"{path} is there; {how_to_tell(path, checked)}."
        case Verdict.UNREADABLE:
            return f"{path} is there, but could not be compared with this node's id: {checked.why}."
        case Verdict.NOT_COMPARED:
            return f"{path} is there, and belongs to the node {checked.made}: this backup does not name its node."
        case Verdict.MISSING:
            lacks = "it is in this backup, but was not restored here;" if stored else "this backup lacks it, and"
            return (
                f"hsm_secret belongs next to the database: {lacks} without it the node cannot run at all, and nothing "
                "can be spent."
            )


def how_to_tell(path: Path, checked: Checked) -> str:
    """How to find out whose a secret with a passphrase is, as the middle of a sentence."""
    command = shell_line("lightning-hsmtool", "getnodeid", path)
    should = "" if checked.expected is None else f", which should be {checked.expected}"
    return f"only its passphrase tells which node it belongs to: {command} asks for it, and shows the node's id{should}"
