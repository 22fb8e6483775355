"""The errors of a legacy backup."""

from pathlib import Path

from backends.errors import Damaged


class LegacyDamaged(Damaged):
    """Something in a legacy backup cannot be trusted; `last_good` is the last data version that can (None: none)."""

    def __init__(self, what: str, path: Path, offset: int, last_good: int | None) -> None:
        super().__init__(what, str(path), offset, last_good)
        good = (
            "no version in it can be trusted"
            if last_good is None
            else f"the last version in it that can be trusted is {last_good}, which is not the newest"
        )
        # In place of the message of Damaged, whose advice (resync) is for a backup that can be written to again.
        self.args = (
            f"this backup of the older plugin is damaged: {what} ({path} at byte {offset}); {good}. Do not start a "
            "node from it: an old state loses money. Keep the file and every disk; if the node's own database is "
            "intact, it is the better source: stop the node and run: backup-cli init URL",
        )


class Unfit(Exception):
    """The bytes at some offset are not a change that can follow the changes before; `what` says why, for people."""

    def __init__(self, what: str, meant: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.meant = meant
        """The version that a change begun there would have led to; None if that cannot be told."""
