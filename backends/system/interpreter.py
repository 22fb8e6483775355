"""The command line for running this program's own Python code in another process."""

import sys


def python(program: str) -> list[str]:
    """The command line of a process that runs the Python code `program` with the same modules as this process.

    By default Python would search PYTHONPATH, and before that its working directory. That may be the node's directory,
    and nothing in it may be run.
    """
    flags = [
        flag for flag, set_here in (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site)) if set_here
    ]
    path = [path for path in sys.path if path]
    return [sys.executable, *flags, "-c", f"import sys; sys.path[:] = {path!r}; {program}"]
