"""The process that `warm.py` forks plugins from: it has imported the plugin's modules, and has done nothing else.

    python -I zygote.py SOCKET_DESCRIPTOR OTHER_MODULE …

Each message is a plugin to start, with the descriptors that are its stdin, stdout and stderr, and one to which the exit
code is written when it has ended. The answer is its number and a descriptor of the process itself.
"""

import ctypes
import gc
import json
import os
import selectors
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

_PR_SET_NAME = 15


def main(number: int, modules: list[str]) -> None:
    """Serve until the tests' process closes its side."""
    import plugin

    for module in (*modules, *(f"plugin.{each.name}" for each in iter_modules(plugin.__path__))):
        import_module(module)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as control, selectors.DefaultSelector() as waiting:
        control.setblocking(True)
        waiting.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not control:
                    waiting.unregister(key.fileobj)
                    _report(key.fd, *key.data)
                elif (started := _start(control)) is None:
                    return
                else:
                    waiting.register(started[0], selectors.EVENT_READ, started[1:])


def _start(control: socket.socket) -> tuple[int, int, int] | None:
    """Start what the next message says; None if there is no more."""
    data, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
    if not data:
        return None
    pid = os.fork()
    if pid == 0:
        _become(json.loads(data), descriptors)
    process, result = os.pidfd_open(pid), descriptors.pop()
    for each in descriptors:
        os.close(each)
    socket.send_fds(control, [str(pid).encode()], [process])
    return process, pid, result


def _report(process: int, pid: int, result: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(process)
    with suppress(BrokenPipeError):  # the test has not waited for the end
        os.write(result, b"%d" % os.waitstatus_to_exitcode(status))
    os.close(result)


def _become(start: dict[str, Any], descriptors: list[int]) -> None:
    """Be that plugin, as if it had just been executed."""
    code = 1
    try:
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
        os.closerange(3, 4096)
        os.chdir(start["directory"])
        os.umask(start["umask"])
        os.environ.clear()
        os.environ.update(start["environment"])
        sys.argv = start["words"]
        ctypes.CDLL(None).prctl(_PR_SET_NAME, Path(sys.argv[0]).name.encode()[:15])
        gc.unfreeze()
        from plugin.main import main as run

        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
