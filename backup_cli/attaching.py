"""Copying the node's `emergency.recover` into a backup that a command has just made, or written to."""

from pathlib import Path

from backends.errors import BackupError
from backends.log.attachments import publish_attachment
from backends.log.format.attachments import Attachment
from backends.members.epochs import clause
from backends.node.attached import Unfit, read_node_file
from backends.storage.base import Storage
from backup_cli.console import size, warn

_EMERGENCY = Attachment.EMERGENCY


def attach_emergency(directory: Path, storage: Storage) -> None:
    """Store the node's `emergency.recover`, if it has one. Raises nothing: a failure is warned of."""
    try:
        publish_attachment(storage, _EMERGENCY, read_node_file(directory, _EMERGENCY).content)
    except FileNotFoundError:
        return  # a node without channels
    except Unfit as error:
        warn(f"{directory / _EMERGENCY.value} was not copied into the backup: {error}")
    except (OSError, BackupError) as error:
        warn(
            f"{directory / _EMERGENCY.value} was not copied into the backup: {clause(error)}. The database is saved "
            "nevertheless, and the running node tries to copy it again"
        )


def would_attach(directory: Path) -> list[str]:
    """The step that a dry run lists for it, if there is one."""
    try:
        file = read_node_file(directory, _EMERGENCY)
    except FileNotFoundError:
        return []
    except (Unfit, OSError) as error:
        why = str(error) if isinstance(error, Unfit) else clause(error)
        return [f"leave {directory / _EMERGENCY.value} out of the backup: {why}"]
    return [f"copy {directory / _EMERGENCY.value} ({size(len(file.content))}) into the backup"]
