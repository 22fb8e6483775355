"""What to type when a node's newest state should come from a backup of which something bad is noted.

No sentence here advises a plain restore: where damage is proved, a restore is known to fail; where there is a doubt, it
may give a state that the node never had. The sentences are the plugin's and the commands', so that they cannot differ.
"""

from collections.abc import Sequence
from pathlib import Path

from backends.log.known_damage import KnownDamage
from backends.node.hand_over import restore_command
from backends.node.key_file import KEY_FILE
from backends.text import shell_line


def bring_back(
    known: KnownDamage,
    url: str | Sequence[str],
    directory: Path,
    *,
    replace: bool,
    give_up: int | None = None,
    extra: str = "",
) -> str:
    """What is safe to do about the node in this directory, whose database is missing, unusable or older than its
    backup, about which `known` is noted: sentences without the last full stop.

    `replace` and `extra` (further options) belong to the restore command. `give_up` is the version at which the backup
    ends, if there is a database that could take its place; None if there is none.
    """
    restore = restore_command(url, directory, replace=replace) + extra
    or_resync = "" if give_up is None else f". {_resync(directory, give_up)}"
    if known.doubt:
        return (
            "Do not restore from it yet: that may give a state that the node never had. Look for the database that the "
            "node last ran from, and start the node with that one: it completes the backup. Only if that is lost for "
            f"good, the backup holds the newest state that there is: {restore}{or_resync}"
        )
    return (
        "Keep every disk, and do not restore from it yet. To see whether the newest state can still be brought back, "
        f"run: {verify_command(url, directory)}. Only if that says that the backup is whole, run: {restore}. If it "
        f'does not, docs/recovery.md, "When the backup is damaged", says what else can be tried{or_resync}'
    )


def _resync(directory: Path, give_up: int) -> str:
    command = shell_line("backup-cli", "resync", "--lightning-dir", directory, "--discard-newer", str(give_up))
    return (
        "Only if this database is surely the state that the node last ran from (no older copy was put in its place, "
        f"and no power was cut), make the backup hold it (what is there now is kept for a week): {command}"
    )


def verify_command(url: str | Sequence[str], directory: Path) -> str:
    """The command that proves whether the backup of the node in this directory can be restored, ready to type."""
    key = ("--key-file", directory / KEY_FILE) if (directory / KEY_FILE).exists() else ()
    return shell_line("backup-cli", "verify", *key, *([url] if isinstance(url, str) else url))
