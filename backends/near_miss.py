"""What a person meant by a URL that names no destination: the error suggests that URL instead of an example."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from backends.text import printable
from backends.this_machine import is_this_machine

_NFS_MOUNT = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\]):(?P<path>/(?!/).+)")
"""An NFS share as it is written for `mount`: `nas:/volume1/backup`."""

_SCP = r"(?P<host>[^/@\s]+@[^/:\s]+):(?P<path>.*)"
"""A place on an SSH server as `scp` takes it: `me@server:backup`. Compiled only if it is needed: the plugin loads this
module before it answers lightningd."""

_PASSWORD = r"(?<=//)([^/?#@:\[]*?)(?::|%3[Aa])(?!\d*(?:[/,?#]|$)).*(?:@|%40)"
"""The user and the password in a URL. A password may hold any character, so it ends at the last @."""

_OPTIONS = frozenset(
    {
        *("timeout", "ephemeral", "share", "trailing", "keep"),
        *("version", "nfsport", "mountport", "uid", "gid", "noresvport"),
        "config",
        *("endpoint", "region", "style", "profile", "account"),
        *("schema", "single-server", "sslmode", "sslrootcert", "sslcert", "sslkey"),
    }
)
"""The options of all kinds of destinations. None of them is a secret."""

_SHARE = "mount that share, and name a directory on it: nfs:///mnt/SHARE/lightning.bkp"
_MOUNT = "mount that server, and name a directory on it: file:///mnt/SERVER/lightning.bkp"

_ELSEWHERE = {
    **dict.fromkeys(("smb", "cifs", "afp"), _SHARE),
    **dict.fromkeys(("ftp", "ftps", "dav", "davs", "webdav", "rsync"), _MOUNT),
}
"""Schemes that this program does not have: such a destination is reached through a mount of the system."""

_OTHER_NAMES = {
    **dict.fromkeys(("ssh", "scp", "sshfs"), "sftp"),
    **dict.fromkeys(("s3a", "s3n"), "s3"),
    **dict.fromkeys(("gcs", "gcp"), "gs"),
    **dict.fromkeys(("azure", "abfs", "abfss", "wasb", "wasbs"), "az"),
    **dict.fromkeys(("postgresql", "psql", "pg"), "postgres"),
}
"""What other programs call a kind of destination, and its scheme here. There is one spelling of each, so that a backup
has one URL in backup.lock and in what is printed."""

_BUCKETS = ("s3", "gs", "az")

_AMAZON = r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]*)\.)?s3[.-](?:(?P<region>[a-z0-9-]+)\.)?amazonaws\.com"
"""The servers of Amazon's buckets: `s3.REGION.amazonaws.com`, with the bucket before it or in the path."""

_GOOGLE = "storage.googleapis.com"
_AZURE = ".blob.core.windows.net"


def path_meant(path: str) -> str:
    """The URL for a path that was typed instead of a URL, relative to the home directory or the working directory."""
    meant = Path(path)
    try:
        meant = meant.expanduser()
    except RuntimeError:  # no such user
        return "file:///home/USER/lightning.bkp"
    return meant.absolute().as_uri()


def without_secrets(url: str) -> str:
    """The URL as it may be shown: without a password, and with dots for the values of options that do not exist."""
    shown = re.sub(_PASSWORD, r"\1@", url, flags=re.DOTALL) if "@" in url or "%40" in url else url
    before, question, query = shown.partition("?")
    return f"{before}{question}{'&'.join(_option_shown(each) for each in query.split('&'))}"


def _option_shown(option: str) -> str:
    name, equals, value = option.partition("=")
    secret = name not in _OPTIONS or "@" in unquote(value)
    return f"{name}{equals}..." if equals and secret else option


def without_scheme(url: str) -> str:
    """A sentence for text that has no scheme at all: a path, or a name as `mount` and `scp` take it."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    scp = re.fullmatch(_SCP, url)
    if scp is not None:
        return f"this is how scp names a place; write it as: {_sftp(scp)}"
    return f"it has no scheme; write it as a URL: {printable(path_meant(url), 1000)}"


def without_path(parts: SplitResult, example: str) -> str:
    """A sentence for a URL whose scheme is not followed by an absolute path."""
    if parts.scheme == "socket":
        return (
            "this is how the older backup plugin named its own server, and this plugin has no such server. If that "
            "server's disk is on a NAS, name it by NFS: nfs://SERVER/EXPORT/lightning.bkp; or mount it, and use: "
            "file:///mnt/SERVER/lightning.bkp"
        )
    if parts.scheme == "file" and parts.path.startswith("~"):
        return f"write it as: {printable(path_meant(parts.path), 1000)}"
    if parts.scheme == "file" and parts.path and "\0" not in parts.path:
        return f"it has no absolute path; write it as: {printable(path_meant('/' + parts.path), 1000)}"
    if parts.scheme in _BUCKETS and parts.path and "\0" not in parts.path:
        return f"write it as: {printable(_bucket(parts.scheme, parts.path), 1000)}"
    return f"it has no absolute path; write it with three slashes, like {example}"


def without_rest(parts: SplitResult) -> str:
    """The end of a sentence about a URL that ends after the host."""
    host = without_secrets(f"{parts.scheme}://{parts.netloc}")
    if parts.scheme == "postgres":
        return f"names no database; write it like {host}/DATABASE"
    if parts.scheme in _BUCKETS:
        return f"says nothing about where in the bucket; write it like {host}/lightning.bkp"
    return f"names no directory; write it like {host}/path/lightning.bkp"


def of_a_file_with_host(host: str, path: str) -> str:
    """The URL that was probably meant by file://HOST/PATH, since file:// reaches no other machine."""
    if host.startswith("~"):
        return path_meant(f"{host}{path}")
    if host == "." or is_this_machine(host):
        return Path(path).as_uri()
    return Path(f"/{host}{path}").as_uri()  # two slashes instead of three: the first directory became the host


def unknown_scheme(url: str, scheme: str, known: list[str]) -> str:
    """A sentence for a scheme that does not exist; `known` are those that do, each with `://`."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    sentence = f"there is no kind of destination {printable(scheme, 40)}://; there are {', '.join(known)}"
    if scheme in _OTHER_NAMES:
        return f"{sentence}. Write this one as: {printable(_renamed(url, scheme), 1000)}"
    if scheme in ("http", "https"):
        return f"{sentence}. If this is a bucket, write it as: {printable(_bucket_at(urlsplit(url)), 1000)}"
    return f"{sentence}. For this one, {_ELSEWHERE[scheme]}" if scheme in _ELSEWHERE else sentence


def _nfs(mount: "re.Match[str]") -> str:
    return (
        "this is how mount names an NFS share. Without mounting it, it is "
        f"nfs://{mount['host']}{quote(os.fsencode(mount['path']))}; mounted, name a directory on it: "
        "nfs:///mnt/SHARE/lightning.bkp"
    )


def _sftp(scp: "re.Match[str]") -> str:
    """The URL for what scp takes. There, a path that does not begin with a slash is below the home directory."""
    path = scp["path"] or "lightning.bkp"
    below_home = path if path.startswith("/") else f"/~/{path.removeprefix('~/')}"
    return printable(f"sftp://{scp['host']}{quote(os.fsencode(below_home), safe='/~')}", 1000)


def _renamed(url: str, scheme: str) -> str:
    return _OTHER_NAMES[scheme] + without_secrets(url)[len(scheme) :]


def _bucket(scheme: str, path: str) -> str:
    """The URL for `s3:bucket/prefix`, as rclone takes it, and `s3:https://server/bucket/prefix`, as restic does."""
    if path.startswith(("http://", "https://")):
        return _bucket_at(urlsplit(path))
    bucket, _, prefix = path.strip("/").partition("/")
    return f"{scheme}://{bucket or 'BUCKET'}/{prefix or 'lightning.bkp'}"


def _bucket_at(parts: SplitResult) -> str:
    """The URL for a bucket that is named by the web address of its server."""
    server = (parts.hostname or "").lower()
    first, _, rest = parts.path.strip("/").partition("/")
    amazon = re.fullmatch(_AMAZON, server)
    if amazon is not None:
        bucket, prefix = (amazon["bucket"], parts.path.strip("/")) if amazon["bucket"] else (first, rest)
        region = f"?region={amazon['region']}" if amazon["region"] else ""
        return f"s3://{bucket or 'BUCKET'}/{prefix or 'lightning.bkp'}{region}"
    if server.endswith(_AZURE):
        account = server.removesuffix(_AZURE)
        return f"az://{first or 'CONTAINER'}/{rest or 'lightning.bkp'}?account={account}"
    scheme, option = ("gs", "") if server == _GOOGLE else ("s3", f"?endpoint={_origin(parts)}")
    return f"{scheme}://{first or 'BUCKET'}/{rest or 'lightning.bkp'}{option}"


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2] or 'SERVER'}"
