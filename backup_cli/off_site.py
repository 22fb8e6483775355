"""Destinations that are not mounted: their URLs, whether this machine has what they need, and names that this user's
own configuration offers. Nobody is contacted, and nothing secret is read out of those files."""

import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from backends.errors import install_extra
from backends.storage.s3.credentials import usable_profiles
from backends.text import shell_word
from backends.urls import quote

MAX_CANDIDATES = 20
"""At most this many names of each kind: a large file of hosts must not hide the rest."""

_MAX_FILE = 256 << 10
"""Bytes of a configuration file that are read."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_])?")
"""A name that is shown and put into a URL. Any other (a pattern, a name with spaces) is passed over."""

_SECTION = re.compile(r"\[\s*([^\]]*?)\s*\]\s*(?:[#;].*)?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server or account that this user has configured."""

    name: str
    url: str
    """A URL for a backup there; words in capitals are to be filled in."""


@dataclass(frozen=True, slots=True)
class OffSite:
    """A kind of destination that needs no mount."""

    kind: str
    what: str
    """What it is, as a noun."""
    form: str
    """What its URLs consist of; optional parts are in brackets."""
    example: str
    ready: bool
    """Whether this installation has what it needs."""
    remedy: str | None
    """What to type if it has not, as a sentence."""
    candidates: list[Candidate]
    candidates_from: str
    """Where the candidates were looked for."""


def off_site() -> list[OffSite]:
    """Every kind, whether it can be used at once or not."""
    return [_sftp(), _s3(), _postgres()]


def _sftp() -> OffSite:
    ready = shutil.which("ssh") is not None
    return OffSite(
        "sftp",
        "a directory on any SSH server, through this machine's ssh",
        "sftp://[USER@]HOST[:PORT]/PATH/lightning.bkp",
        "sftp://me@server.example/~/lightning.bkp",
        ready,
        None if ready else "The program ssh is missing; on Debian, as root: apt install openssh-client",
        _bounded(Candidate(host, f"sftp://{host}/~/lightning.bkp") for host in ssh_hosts()),
        "~/.ssh/config",
    )


def _s3() -> OffSite:
    return OffSite(
        "s3",
        "a bucket at Amazon or any S3 service with conditional puts, Google (gs://) or Azure (az://)",
        "s3://BUCKET/PREFIX[?endpoint=URL&region=REGION&profile=NAME], gs://BUCKET/PREFIX, "
        "az://CONTAINER/PREFIX?account=NAME",
        "s3://my-bucket/lightning.bkp?endpoint=https://s3.server.example&region=eu-1",
        *_extra("s3", "obstore"),
        _bounded(_aws_profiles()),
        "~/.aws",
    )


def _postgres() -> OffSite:
    return OffSite(
        "postgres",
        "a PostgreSQL cluster with a synchronous standby",
        "postgres://[USER@]HOST[:PORT][,HOST2[:PORT]]/DATABASE[/NAME][?schema=SCHEMA]",
        "postgres://backup@db1.example,db2.example/lightning",
        *_extra("postgres", "psycopg"),
        _bounded(_postgres_services()),
        "~/.pg_service.conf",
    )


def _extra(extra: str, package: str) -> tuple[bool, str | None]:
    """Whether the package of an extra is installed, found out without importing it; and if not, what to type."""
    if find_spec(package) is not None:
        return True, None
    return False, f"Its package is not installed; in the directory of this project, type: {install_extra(extra)}"


def _bounded(candidates: Iterator[Candidate]) -> list[Candidate]:
    """The first of them, each name once."""
    return list(islice({each.name: each for each in islice(candidates, 10 * MAX_CANDIDATES)}.values(), MAX_CANDIDATES))


def ssh_hosts() -> Iterator[str]:
    """The names after `Host`, without patterns. ssh itself takes the home directory from the list of users."""
    try:
        home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return
    for line in _lines(home / ".ssh" / "config"):
        keyword, _, names = line.replace("=", " ", 1).replace("\t", " ").partition(" ")
        if keyword.lower() == "host":
            yield from (name for word in names.split() if _NAME.fullmatch(name := word.strip('"')))


def _aws_profiles() -> Iterator[Candidate]:
    for name in usable_profiles():
        if _NAME.fullmatch(name):
            option = "" if name == "default" else f"?profile={name}"
            yield Candidate(name, f"s3://BUCKET/lightning.bkp{option}")


def _postgres_services() -> Iterator[Candidate]:
    service, fields = "", dict[str, str]()
    for line in (*_lines(_service_file()), "[]"):
        section = _SECTION.fullmatch(line)
        if section is None:
            key, _, value = line.partition("=")
            fields[key.strip()] = value.strip()
            continue
        if _NAME.fullmatch(service):
            yield Candidate(service, _postgres_url(fields))
        service, fields = section[1], {}


def _postgres_url(fields: dict[str, str]) -> str:
    """The URL for a service. Only these four fields are looked at: another one may be a password."""
    user, host, port, database = (fields.get(name, "") for name in ("user", "host", "port", "dbname"))
    server = f"{quote(host, safe=',')}{f':{quote(port)}' if port and port != '5432' else ''}" if host else "HOST"
    return f"postgres://{f'{quote(user)}@' if user else ''}{server}/{quote(database, safe='') or 'DATABASE'}"


def _service_file() -> Path:
    given, name = os.environ.get("PGSERVICEFILE"), ".pg_service.conf"
    with suppress(RuntimeError):  # nobody knows this user's home directory
        return Path(given) if given else Path.home() / name
    return Path("/") / name


def _lines(path: Path) -> list[str]:
    """The lines of a configuration file that are not comments; none if it cannot be read."""
    try:
        if not path.is_file():  # opening a FIFO would wait for ever
            return []
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode(errors="replace")
    except OSError:
        return []
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith(("#", ";"))]


Show = Callable[[str], None]


def show_off_site(kinds: list[OffSite], heading: Show, show: Show) -> None:
    """Show them to a person: each kind's URL as a heading, and lines about it."""
    for kind in kinds:
        heading(shell_word(kind.example))
        show(f"    {kind.what}: {kind.form}")
        if kind.remedy is not None:
            show(f"    not ready. {kind.remedy}")
        for candidate in kind.candidates:
            show(f"    in {kind.candidates_from}: {shell_word(candidate.url)}")
