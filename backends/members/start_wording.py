"""What a refused start says about the members: what is wrong with each, and what to do about it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from backends.keyring import init_command
from backends.log.format.members import Member
from backends.members.missing import Missing
from backends.members.newest import SeenMember
from backends.text import printable, shell_line


@dataclass(frozen=True, slots=True)
class Wording:
    """About the members `configured`, of which some were `seen` and others are `missing`."""

    configured: Sequence[Member]
    seen: Sequence[SeenMember]
    missing: Mapping[str, Missing]
    early: Collection[str]
    """The members in sync whose log ends before that of one that trails."""

    def listed(self, names: Iterable[str]) -> str:
        """These members, each with its URL and what is wrong with it."""
        return "; ".join(f"{name} ({self._url(name)}: {self._state(name)})" for name in names)

    def connect(self, names: Collection[str]) -> str:
        """What to do about members that are away."""
        which, only = ("it", "if it is") if len(names) == 1 else ("them", "for those that are")
        return f"Connect {which}, then start the node again. Only {only} lost for good, run: {removal(names)}"

    def last_resort(self, names: Collection[str]) -> str:
        """What to type if no other member can take their place."""
        which = "it is" if len(names) == 1 else "all of them are"
        return (
            "Connect the right disks, then start the node again. Only if "
            f"{which} lost for good, and this database is surely the newest, make a new backup: {init_command()}, "
            "with a new URL"
        )

    def _state(self, name: str) -> str:
        member = next((member for member in self.seen if member.name == name), None)
        if member is None:
            return printable(self.missing[name].why) if name in self.missing else "not connected"
        if member.document.name != name:
            return f"where the files of {member.document.name} are"
        if member.end is None:
            return f"damaged: {printable(member.why)}"
        if name in self.early:
            return "whose log ends before that of a member that trails, so it is an older copy of itself"
        return f"whose files are of epoch {member.document.epoch.number}"

    def _url(self, name: str) -> str:
        return printable(next((member.url for member in self.configured if member.name == name), _NO_LONGER))


_NO_LONGER = "no longer in backup.lock"


def removal(names: Iterable[str]) -> str:
    """The commands that remove these members."""
    return ", ".join(shell_line("backup-cli", "member-remove", name) for name in names)
