"""The Unix socket of a server on this machine, which a URL names by its directory and the server's port."""

import os
import stat
from pathlib import Path

MAX_PATH = 107
"""Bytes that the path of a Unix socket may have."""

_PREFIX = ".s.PGSQL."


def socket_path(directory: str, port: int) -> Path:
    """Where a server makes its socket."""
    return Path(directory, f"{_PREFIX}{port}")


def why_no_socket(directory: str, port: int) -> str | None:
    """Why nobody can connect there, as a clause; None if there is a socket that this user may use."""
    path = socket_path(directory, port)
    try:
        if stat.S_ISSOCK(path.stat().st_mode):
            return None if os.access(path, os.W_OK) else f"this user may not use the socket {path}"
        return f"{path} is not a socket"
    except PermissionError:
        return f"this user may not look into the directory {directory}"
    except OSError:
        return _what_is_there_instead(path)


def _what_is_there_instead(path: Path) -> str:
    directory = path.parent
    if directory.name.startswith(_PREFIX):
        return f"the URL must name the directory of the socket, not the socket itself: {directory.parent}"
    if not directory.is_dir():
        return f"there is no directory {directory} on this machine; a server's is often /run/postgresql"
    ports = _ports_in(directory)
    if ports:
        return f"there is no socket for port {path.name.removeprefix(_PREFIX)} in {directory}, but one for {ports}"
    return f"there is no server's socket in {directory} ({path.name}): is the server running on this machine?"


def _ports_in(directory: Path) -> str:
    """The ports of up to three sockets there, in words; empty if there are none."""
    try:
        names = [each.name.removeprefix(_PREFIX) for each in directory.glob(f"{_PREFIX}*") if each.is_socket()]
    except OSError:
        return ""
    return " and ".join(sorted(name for name in names if name.isascii() and name.isdigit())[:3])
