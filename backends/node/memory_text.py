"""The sentences about a destination that does not show what the node remembers: the same in the plugin and everywhere.

Each is a clause or two without a full stop at the end. No command stands in them but for the one that is safe in that
state.
"""

from backends.node.memory import Memory, Remembered

SOMEBODY = "somebody or something else than this node has changed what lies there"


def what_is_wrong(memory: Remembered, place: str, version: int) -> str:
    """What the node remembers and what lies at `place`, which ends at `version`."""
    if memory.verdict is Memory.OLDER:
        return (
            f"the backup at {place} ends at version {version}, and this node has had version {memory.version} "
            "acknowledged there (its own note, backup.witness, says so): the backup is older than that. It has lost "
            "its end, or an older copy was put in its place"
        )
    if memory.verdict is Memory.REWRITTEN:
        return (
            f"the last change in the backup at {place} is not the one that this node has written there (its own note, "
            f"backup.witness, says so): {SOMEBODY}"
        )
    return (
        f"the backup at {place} goes on to version {version}, and this node's last session ended there with version "
        f"{memory.version} (its own note, backup.witness, says so): {SOMEBODY}"
    )


BOTH_OLDER = (
    "A node that runs from an older state than it has told its peers of can lose every channel, so do not start it. "
    "Look for the newest state first: another copy of the database or of the backup, the disk that the node last ran "
    "from, what a resync replaced (backup-cli versions)"
)

NOT_ITS_OWN = (
    "Do not restore from it, and keep what lies there aside: changes that the node never made can cost it its money. "
    "Look at what can write to the destination"
)
