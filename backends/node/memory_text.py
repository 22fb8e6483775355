"""The sentences about a destination that does not match what the node remembers, shared by the plugin and the commands.

Each is one or two clauses without a full stop at the end. They name no command, except one that is safe in that state.
"""

from backends.node.memory import Memory, Remembered

SOMEBODY = "somebody or something other than this node has changed what is there"


def what_is_wrong(memory: Remembered, place: str, version: int) -> str:
    """What the node remembers, and what the backup at `place` holds, which ends at `version`."""
    if memory.verdict is Memory.OLDER:
        return (
            f"the backup at {place} ends at version {version}, but this node has had version {memory.version} "
            "acknowledged there (its own note, backup.witness, says so): the backup is older than that. It has lost "
            "its end, or was replaced by an older copy"
        )
    if memory.verdict is Memory.REWRITTEN:
        return (
            f"the last change in the backup at {place} is not the one that this node wrote there (its own note, "
            f"backup.witness, says so): {SOMEBODY}"
        )
    return (
        f"the backup at {place} goes on to version {version}, but this node's last session ended there with version "
        f"{memory.version} (its own note, backup.witness, says so): {SOMEBODY}"
    )


BOTH_OLDER = (
    "A node that runs from an older state than its peers know can lose every channel, so do not start it. "
    "Look for the newest state first: another copy of the database or of the backup, the disk that the node last ran "
    "from, what a resync replaced (backup-cli versions)"
)

NOT_ITS_OWN = (
    "Do not restore from it, but keep what is there: changes that the node never made can cost it its money. "
    "Check who and what can write to the destination"
)
