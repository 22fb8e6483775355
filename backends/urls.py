"""Parsing the URL that names a destination."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, urlsplit
from urllib.parse import quote as _quote
from urllib.parse import unquote as _unquote

from backends import near_miss as meant
from backends.errors import BackupError

EXAMPLE = "file:///mnt/backup/lightning.bkp"

KEEP = "keep"
"""The option that every kind of destination has (`backends.keep`): it is about the log, not about the place."""


class BadURL(BackupError):
    """The URL cannot name a destination: a mistake in what was typed."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL: scheme, host (a server or a filesystem label; may be empty), absolute path, options."""

    scheme: str
    host: str
    path: PurePosixPath
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        query = "?" + "&".join(_option(*each) for each in self.options) if self.options else ""
        return f"{self.scheme}://{quote(self.host, safe=':[]@,')}{quote(str(self.path))}{query}"

    @property
    def shown(self) -> str:
        """The URL for an error: without passwords, and without the values of options that no kind of destination has.

        What was typed under a wrong name may be a password, and errors are printed, pasted and logged.
        """
        return meant.without_secrets(str(self))

    @property
    def shown_host(self) -> str:
        """The host for an error, as in `shown`."""
        return meant.without_secrets(f"//{self.host}").removeprefix("//")

    def option(self, name: str, default: str) -> str:
        """The value of an option in the query, or `default`. If the option is given twice, the last value counts."""
        return dict(self.options).get(name, default)

    def allow_options(self, *known: str) -> None:
        """Raise BadURL for an option that is not among `known`: it is probably a misspelling of one that is."""
        for name, _ in self.options:
            if name not in known:
                raise BadURL(f"{self.shown}: there is no option {name!r}; the options are: {options_listed(known)}")

    def below(self, name: str) -> "Destination":
        """The destination in the directory `name` inside this one."""
        return Destination(self.scheme, self.host, self.path / name, self.options)

    @property
    def directory(self) -> Path | None:
        """The path of this machine that the URL names; None if it names a server, a bucket, or a stick by its label.

        In a `file` URL the host `localhost` means the same as none (RFC 8089). In an `nfs` URL each host is a server
        that is spoken to without a mount, also one on this machine: its path is an export of that server.
        """
        hosts = {"file": ("", "localhost"), "nfs": ("",)}
        return Path(self.path) if self.host in hosts.get(self.scheme, ()) else None

    @property
    def is_mounted(self) -> bool:
        """Whether it is reached through a mount of this machine: a disk, a stick, a mounted share."""
        return self.scheme in ("file", "usb") or self.directory is not None


_MARKS = ("single-server",)
"""Options that have no value: being there is what they say."""


def options_listed(known: Iterable[str]) -> str:
    """The options that a person may write: those of this kind of destination, and the one that all have."""
    return ", ".join((*known, KEEP))


def _option(name: str, value: str) -> str:
    return name if name in _MARKS and not value else f"{name}={quote(value, safe='/:')}"


def _marked(query: str) -> str:
    """The query with an empty value for each option that has none, as the parser wants it."""
    return "&".join(f"{each}=" if each in _MARKS else each for each in query.split("&"))


def quote(text: str, safe: str = "/") -> str:
    """The text percent-encoded for a URL; works for a path that is not UTF-8, too."""
    return _quote(os.fsencode(text), safe)


def unquote(text: str) -> str:
    """Undo `quote`."""
    return _unquote(text, errors="surrogateescape")


def is_port(text: str) -> bool:
    """Whether this is the number of a port."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


_NO_HOST = "its server's name cannot be one (an IPv6 address is in brackets)"
_NO_OPTIONS = "what follows the ? must be NAME=VALUE, with & between two of them"
"""Instead of Python's own texts, which quote parts of the URL: they may be a password."""


def names_a_mount(url: str) -> bool:
    """Whether what this URL names is reached through a mount of this machine. Text that is no URL is taken for that."""
    try:
        return parse_url(url).is_mounted
    except BadURL:
        return True


def parse_url(url: str) -> Destination:
    """The destination that a URL names. Raises BadURL, whose message repeats no password (see `shown`)."""
    shown, why = meant.without_secrets(url), _NO_HOST
    try:
        parts = urlsplit(url)
        host = unquote(parts.netloc)
        why = _NO_OPTIONS
        options = tuple(
            parse_qsl(
                _marked(parts.query), keep_blank_values=True, strict_parsing=bool(parts.query), errors="surrogateescape"
            )
        )
    except ValueError:
        raise BadURL(f"{shown!r} is not a URL: {why}; write it like {EXAMPLE}") from None
    if not parts.scheme:
        if not url:
            raise BadURL(f"an empty URL names no destination; write it like {EXAMPLE}")
        raise BadURL(f"{shown!r} is not a URL: {meant.without_scheme(shown)}")
    path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        if parts.netloc and parts.scheme != "file":  # with three slashes the server's name would become a directory
            raise BadURL(f"{shown!r} {meant.without_rest(parts)}")
        raise BadURL(f"{shown!r} names no destination: {meant.without_path(parts, EXAMPLE)}")
    if parts.fragment:
        raise BadURL(f"{shown!r} contains a #, which would cut the path off; write it as %23")
    return Destination(parts.scheme, host, PurePosixPath(path), options)
