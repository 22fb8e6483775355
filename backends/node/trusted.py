"""Whether a program in the node's directory may be run: only if nobody but its user and root can change it.

It would run beside the node's keys, and the node's directory may be in a place where others can write. So the path to
it is walked from the root down, link by link, through held descriptors. Once every directory and link on the path
belongs to root or to the user, and nobody else may write there, its name is stable: it leads to the same file when the
program is started.
"""

import os
import stat
from pathlib import Path

from backends.system.owners import BY_OTHERS, Step, Walk, user_name
from backends.text import printable, shell_line


class Untrusted(Exception):
    """The program must not be run; the message says why, and what to do."""


def trusted_program(path: Path, user: int) -> Path:
    """The real path of the program that `path` leads to, safe to start for the user with the id `user`.

    Raises Untrusted when anybody other than `user` and root owns it, may write to it, or could put something else in
    its place; FileNotFoundError when there is nothing; another OSError when it cannot be examined.
    """
    walk = Walk(path)
    try:
        _look_at(walk.last, user)
        while walk.names:
            walk.go_on()
            _look_at(walk.last, user)
    finally:
        walk.close()
    place = walk.last.path
    if not stat.S_ISREG(walk.last.mode):
        raise Untrusted(f"{printable(place)} is not a file")
    if walk.last.mode & BY_OTHERS:
        raise Untrusted(f"{printable(place)} can be written by other users: {shell_line('chmod', '700', place)}")
    if not os.access(place, os.X_OK):
        raise Untrusted(f"{printable(place)} is not executable: {shell_line('chmod', '700', place)}")
    return place


def _look_at(step: Step, user: int) -> None:
    """Check the owner of one step of the path, and who may write there. Raises Untrusted."""
    place = step.path
    if step.uid not in (0, user):
        found = f"{printable(place)} belongs to {user_name(step.uid)}, neither to {user_name(user)} nor to root"
        if stat.S_ISDIR(step.mode):
            raise Untrusted(f"{found}, so another program can be put there: only those two may own the path to it")
        advice = shell_line("sudo", "chown", "-h", user_name(user), place)
        raise Untrusted(f"{found}: check that it is what you put there, then {advice}")
    # In a sticky directory such as /tmp, nobody can rename or remove another user's files.
    if stat.S_ISDIR(step.mode) and step.mode & BY_OTHERS and not step.mode & stat.S_ISVTX:
        advice = shell_line("chmod", "go-w", place)
        raise Untrusted(f"other users may write in {printable(place)} and put another program there: {advice}")
