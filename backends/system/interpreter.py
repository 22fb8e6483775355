"""A Python of our own in a process of its own."""

import sys


def python(program: str) -> list[str]:
    """The command line of a process that runs `program` with the very modules that this process would use.

    Python itself would look into PYTHONPATH, and first of all into its working directory, which may be the node's:
    nothing in it may be run.
    """
    flags = [
        flag for flag, set_here in (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site)) if set_here
    ]
    path = [path for path in sys.path if path]
    return [sys.executable, *flags, "-c", f"import sys; sys.path[:] = {path!r}; {program}"]
