"""Real processes for the tests of locks: Python programs that print a line when they are ready."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(
    program: str,
    *arguments: object,
    directory: Path | None = None,
    executable: Path | None = None,
    name: Sequence[str] = (sys.executable,),
) -> Iterator[subprocess.Popen[str]]:
    """A process that has run `program` (with its arguments in `a`) and now sleeps; it is killed at the end.

    `name` is how its command line begins, `executable` the file that is started (default: this Python).
    """
    source = f"import fcntl, os, subprocess, sys, time\na = sys.argv[1:]\n{program}\nprint('ready', flush=True)\n"
    command = [name[0], "-c", source + "time.sleep(60)", *map(str, arguments), *name[1:]]
    process = subprocess.Popen(
        command,
        executable=executable or sys.executable,
        cwd=directory,
        # Under another name the interpreter does not find its library by itself.
        env=os.environ | {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
