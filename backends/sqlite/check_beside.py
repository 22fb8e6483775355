"""The check of a whole database in a thread of its own, while somebody reads the same file."""

import threading
from pathlib import Path

from backends.sqlite.connection import STEPS_BETWEEN_CALLS
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.in_step import InStep
from backends.sqlite.sparing import opened_sparingly
from backends.system.pulse import pulse


class CheckBeside:
    """`integrity_check` over a connection of its own, whose pages come from `descriptor` if they do not fit in memory.

    `step` is given if somebody reads the file in step with it. Use it as a context manager: at the end, the check is
    stopped if it still runs.
    """

    def __init__(self, database: Path, descriptor: int, step: InStep | None) -> None:
        self._database, self._descriptor, self._step = database, descriptor, step
        self._fault: str | None = None
        self._error: BaseException | None = None
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="integrity check", daemon=True)

    def __enter__(self) -> "CheckBeside":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._unwanted.set()
        if self._step is not None:
            self._step.end_reading()
        self._thread.join()

    def result(self) -> str | None:
        """Wait for the check, and return the first faults, or None. Raises what went wrong with it (apsw.Error)."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._fault

    def _run(self) -> None:
        try:
            with opened_sparingly(self._database, self._descriptor) as connection:
                connection.set_progress_handler(self._stops, STEPS_BETWEEN_CALLS)
                self._fault = whole_errors(connection, stops=self._stops, step=self._step)
        except BaseException as error:
            self._error = error
        finally:
            if self._step is not None:
                self._step.end_check()

    def _stops(self) -> bool:
        pulse.signs += 1
        return self._unwanted.is_set()
