"""The URLs of a backup's members: the mark `trailing`, and the name that each member gets from its URL.

A name stays with its member for as long as the member is configured: it is stored in backup.lock and in each member.
Operators type it (`--without nas`), so it is short: lower-case letters, digits and hyphens.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from backends.log.format.members import MAX_MEMBERS, Member
from backends.near_miss import without_secrets
from backends.this_machine import stays_here
from backends.urls import BadURL, Destination, parse_url

TRAILING = "trailing"
"""The mark of a member that is never waited for, in the URL's query: `?trailing` or `&trailing`."""

SUFFIX = ".bkp"
"""How the names of backups' directories end, by custom. What is above such a directory tells more than its name."""

MAX_NAME = 40
_CUT = MAX_NAME - 3
"""The most characters that are taken from a URL: a number may follow (`-16`)."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_BY_HOST = ("usb", "nfs", "sftp", "s3", "gs", "az", "postgres")
"""The schemes in whose URLs the host says where the backup is: a filesystem's label, a server, a bucket."""


def split_trailing(url: str) -> tuple[str, bool]:
    """The URL without the mark `trailing`, as `place_at` takes it, and whether it had the mark.

    Raises BadURL if the mark has a value: `?trailing=no` would otherwise mean the opposite of what it says.
    """
    before, question, query = url.partition("?")
    if not question:
        return url, False
    options = query.split("&")
    for option in options:
        if option.startswith(f"{TRAILING}="):
            raise BadURL(f"{without_secrets(url)!r}: {TRAILING} has no value; write ?{TRAILING}, or leave it out")
    others = [option for option in options if option != TRAILING]
    if len(others) == len(options):
        return url, False
    return before + (f"?{'&'.join(others)}" if others else ""), True


def named(urls: Iterable[str]) -> tuple[Member, ...]:
    """The members of a new backup at these URLs, in this order, each with its name and without the mark `trailing`.

    Raises BadURL for what is no URL.
    """
    members: list[Member] = []
    for given in urls:
        url, trailing = split_trailing(given)
        members.append(Member(new_name(url, [member.name for member in members]), url, trailing))
    if len(members) > MAX_MEMBERS:
        raise BadURL(f"a backup has at most {MAX_MEMBERS} members, and {len(members)} URLs were given")
    return tuple(members)


def new_name(url: str, taken: Collection[str]) -> str:
    """A name for the member at this URL that is not among `taken`. Raises BadURL for what is no URL."""
    name = _proper(_telling(parse_url(url))) or "member"
    if name not in taken:
        return name
    return next(other for number in range(2, len(taken) + 3) if (other := f"{name}-{number}") not in taken)


def is_name(text: str) -> bool:
    """Whether this can be a member's name: lower-case letters, digits and single hyphens between them."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Server:
    """A server that a URL names, without the user: its name in lower case, and its port as text, if it has one."""

    name: str
    port: str = ""


def servers(destination: Destination) -> tuple[Server, ...]:
    """The servers that the URL's host names: one, or several of a cluster. A bucket and a stick count as one, too."""
    return tuple(_server(text) for text in destination.host.rpartition("@")[2].split(",") if text)


def _server(text: str) -> Server:
    found = re.fullmatch(r"(.+?):([0-9]+)", text)
    name, port = (text, "") if found is None else found.groups()
    return Server(name.lower(), port.lstrip("0"))


def _telling(destination: Destination) -> str:
    """The part of the URL that tells this place from others. An address of the loopback or the path of a Unix socket is
    the same on every machine."""
    named = servers(destination) if destination.scheme in _BY_HOST else ()
    if named and not stays_here(named[0].name):
        return named[0].name
    path = destination.path
    if path.name.endswith(SUFFIX):
        return path.parent.name or path.name.removesuffix(SUFFIX)
    return path.name


def _proper(text: str) -> str:
    """The text with everything that a name cannot hold replaced by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_CUT].strip("-")
