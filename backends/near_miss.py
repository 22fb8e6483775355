"""What a person meant by a URL that names no destination: the error suggests that URL instead of an example."""

import os
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, quote

from backends.text import printable

_NFS_MOUNT = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\]):(?P<path>/(?!/).+)")
"""An NFS share as it is written for `mount`: `nas:/volume1/backup`."""

_SCP = re.compile(r"[^/@\s]+@[^/:\s]+:.*")

_SHARE = "mount that share, and name a directory on it: nfs:///mnt/SHARE/lightning.bkp"
_SSHFS = "mount that server with sshfs, and name a directory on it: file:///mnt/SERVER/lightning.bkp"

_POSTGRES = "write postgres:// instead of postgresql://"

_ELSEWHERE = {"postgresql": _POSTGRES, "smb": _SHARE, "cifs": _SHARE, "afp": _SHARE, "sftp": _SSHFS, "ssh": _SSHFS}
"""Schemes that this program does not have: such a destination is reached through a mount of the system."""


def path_meant(path: str) -> str:
    """The URL for a path that was typed instead of a URL, relative to the home directory or the working directory."""
    meant = Path(path)
    try:
        meant = meant.expanduser()
    except RuntimeError:  # no such user
        return "file:///home/USER/lightning.bkp"
    return meant.absolute().as_uri()


def without_scheme(url: str) -> str:
    """A sentence for text that has no scheme at all: a path, or a name as `mount` and `scp` take it."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    if _SCP.fullmatch(url):
        return f"this is how scp names a place; {_SSHFS}"
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
    return f"it has no absolute path; write it with three slashes, like {example}"


def of_a_file_with_host(host: str, path: str) -> str:
    """The URL that was probably meant by file://HOST/PATH, since file:// reaches no other machine."""
    if host.startswith("~"):
        return path_meant(f"{host}{path}")
    if host in (socket.gethostname(), socket.gethostname().partition(".")[0], "127.0.0.1", "[::1]", "."):
        return Path(path).as_uri()
    return Path(f"/{host}{path}").as_uri()  # two slashes instead of three: the first directory became the host


def unknown_scheme(url: str, scheme: str, known: list[str]) -> str:
    """A sentence for a scheme that does not exist; `known` are those that do, each with `://`."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    sentence = f"there is no kind of destination {printable(scheme, 40)}://; there are {', '.join(known)}"
    return f"{sentence}. For this one, {_ELSEWHERE[scheme]}" if scheme in _ELSEWHERE else sentence


def _nfs(mount: "re.Match[str]") -> str:
    return (
        "this is how mount names an NFS share. Without mounting it, it is "
        f"nfs://{mount['host']}{quote(os.fsencode(mount['path']))}; mounted, name a directory on it: "
        "nfs:///mnt/SHARE/lightning.bkp"
    )
