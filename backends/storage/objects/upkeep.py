"""Work that nothing waits for: merging extents and deleting what nobody needs, in a thread that ends when all is done.

It runs beside commits. A process that ends does not wait for it either: whatever was begun is whole at any moment.
"""

import threading
from collections.abc import Callable

from backends.system.memory import give_back


class Upkeep:
    """Does one job after another. A job that is asked for again before it begins is done once.

    When all is done, memory goes back to the system: merging a thousand objects leaves more than a MiB of it behind.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Callable[[], None]] = {}
        self._change = threading.Condition()
        self._running = False
        self._error: OSError | None = None

    def ask(self, name: str, job: Callable[[], None]) -> None:
        """Have this done soon."""
        with self._change:
            self._jobs.setdefault(name, job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="upkeep", daemon=True).start()

    def check(self) -> None:
        """Raise the OSError with which a job failed since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until all is done."""
        with self._change:
            self._change.wait_for(lambda: not self._running)

    def _run(self) -> None:
        while True:
            if not self._jobs:
                give_back()
            with self._change:
                if not self._jobs:
                    self._running = False
                    self._change.notify_all()
                    return
                name = next(iter(self._jobs))
                job = self._jobs.pop(name)
            try:
                job()
            except OSError as error:
                self._error = error
