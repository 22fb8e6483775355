"""What somebody meant who typed a URL that names nothing: a near miss gets the URL that was meant, not an example."""

import os
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, quote

from backends.text import printable

_NFS_MOUNT = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\]):(?P<path>/(?!/).+)")
"""As `mount` takes an NFS share: `nas:/volume1/backup`."""

_SCP = re.compile(r"[^/@\s]+@[^/:\s]+:.*")

_SHARE = "mount that share, and name a directory on it: nfs:///mnt/SHARE/lightning.bkp"
_SSHFS = "mount that server with sshfs, and name a directory on it: file:///mnt/SERVER/lightning.bkp"

_ELSEWHERE = {"smb": _SHARE, "cifs": _SHARE, "afp": _SHARE, "sftp": _SSHFS, "ssh": _SSHFS}
"""What is reached through the system's own mounts."""


def path_meant(path: str) -> str:
    """The URL of a path that was typed instead of one: from the home directory, or from where the command runs."""
    meant = Path(path)
    try:
        meant = meant.expanduser()
    except RuntimeError:  # no such user
        return "file:///home/USER/lightning.bkp"
    return meant.absolute().as_uri()


def without_scheme(url: str) -> str:
    """A sentence for what has no scheme at all: a path, or what `mount` and `scp` take."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    if _SCP.fullmatch(url):
        return f"this is how scp names a place; {_SSHFS}"
    return f"it has no scheme; write it as a URL: {printable(path_meant(url), 1000)}"


def without_path(parts: SplitResult, example: str) -> str:
    """A sentence for a scheme that no absolute path follows."""
    if parts.scheme == "socket":
        return (
            "this is how the older backup plugin named its own server, which this one has not. Where that server's "
            "disk is on a NAS, name it by NFS: nfs://SERVER/EXPORT/lightning.bkp; or mount it, and use: "
            "file:///mnt/SERVER/lightning.bkp"
        )
    if parts.scheme == "file" and parts.path.startswith("~"):
        return f"write it as: {printable(path_meant(parts.path), 1000)}"
    if parts.scheme == "file" and parts.path and "\0" not in parts.path:
        return f"it has no absolute path; write it as: {printable(path_meant('/' + parts.path), 1000)}"
    return f"it has no absolute path; write it with three slashes, like {example}"


def of_a_file_with_host(host: str, path: str) -> str:
    """The URL that was meant with file://HOST/PATH, which reaches no other machine."""
    if host.startswith("~"):
        return path_meant(f"{host}{path}")
    if host in (socket.gethostname(), socket.gethostname().partition(".")[0], "127.0.0.1", "[::1]", "."):
        return Path(path).as_uri()
    return Path(f"/{host}{path}").as_uri()  # two slashes where three belong: the first directory became a host


def unknown_scheme(url: str, scheme: str, known: list[str]) -> str:
    """A sentence for a scheme that there is none of."""
    mount = _NFS_MOUNT.fullmatch(url)
    if mount is not None:
        return _nfs(mount)
    there = f"there is no kind of destination {printable(scheme, 40)}://; there are {', '.join(known)}"
    return f"{there}. For this one, {_ELSEWHERE[scheme]}" if scheme in _ELSEWHERE else there


def _nfs(mount: "re.Match[str]") -> str:
    return (
        "this is how mount names an NFS share. Without mounting it, it is "
        f"nfs://{mount['host']}{quote(os.fsencode(mount['path']))}; mounted, name a directory on it: "
        "nfs:///mnt/SHARE/lightning.bkp"
    )
