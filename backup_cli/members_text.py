"""The table of `backup-cli members`: a paragraph for each member of a backup."""

from collections.abc import Iterator

from backends.log.member_status import MemberStatus
from backends.log.status import Status
from backup_cli.console import show_line, show_row, size
from backup_cli.members_lines import lag_in_words, state_in_words

_WIDTH = 9


def show_members_in_full(seen: Status) -> None:
    """Show each member with its URL, state, lag and space."""
    for number, member in enumerate(seen.members):
        if number:
            show_line("")
        show_line(member.name + (" (trailing: never waited for)" if member.trailing else ""), bold=True)
        for name, text in _rows(member):
            show_row(f"  {name}", text, _WIDTH)


def _rows(member: MemberStatus) -> Iterator[tuple[str, str]]:
    yield "URL", member.url
    yield "state", state_in_words(member)
    if member.why:
        yield "why", member.why
    behind = lag_in_words(member)
    if behind:
        yield "lag", behind
    space = [] if member.stored_bytes is None else [f"{size(member.stored_bytes)} stored"]
    if member.free_bytes is not None and member.total_bytes is not None:
        space.append(f"{size(member.free_bytes)} of {size(member.total_bytes)} free")
    if space:
        yield "space", ", ".join(space)
