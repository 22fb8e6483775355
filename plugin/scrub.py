"""The weekly scrub of a backup with several members: every byte of all of them is read, and what has rotted is mended.

A separate process of the lowest priority does it (plugin/scrubber.py), so that neither a commit nor the maintenance
thread waits. It mends files that the running node never writes to again. What is wrong with any other file is handed to
`found`, which puts that member out of sync, so that it is caught up from the others.

When the next one is due is in the node's directory, so a node that is restarted daily is scrubbed weekly, too.
"""

import json
import random
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Report
from backends.errors import BackupError
from backends.members.repair import Mending
from backends.node.files import read_small_file, replace_file
from backends.text import counted, printable
from plugin.process_watch import HANGS_AFTER, ProcessWatch, start_beside, why_it_failed
from plugin.told import number_told

SCRUB_FILE = "backup.scrub"
"""The file in the node's directory with the time at which the next scrub is due, in seconds since 1970."""

Found = Callable[[str, str, str], None]
"""Called with the name of a member, of a file, and what is wrong with it (a clause): put the member out of sync."""

_SCRUBBER = (
    "from plugin.low_priority import lower_priority; lower_priority(); "  # importing the rest is work already
    "from plugin.scrubber import main; sys.exit(main())"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a scrub is due; all times in seconds."""

    every: float = 7 * 86400.0
    spread: float = 86400.0
    """The first one comes within this time, and each later one up to this much early, so that not all nodes of one
    machine or server scrub at once."""
    settle: float = 600.0
    """After the start of the node, before the first one begins: a start has enough to do."""
    retry: float = 6 * 3600.0
    """After one that could not be done."""


class Scrub:
    """Starts a scrub when one is due, and sees it through. Only the maintenance thread calls its methods."""

    def __init__(self, directory: Path, report: Report, found: Found, schedule: Schedule | None = None) -> None:
        self._directory, self._report, self._found = directory, report, found
        self._schedule = schedule or schedule_told()
        self._not_before = time.monotonic() + self._schedule.settle
        self._due: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch = ProcessWatch()
        self._given_up = False

    @property
    def running(self) -> bool:
        """Whether a scrub is running."""
        return self._process is not None

    def tick(self, in_sync: Collection[str]) -> None:
        """Begin a scrub if one is due and there are at least two members `in_sync` (their names); take the findings of
        one that has ended. A failure is reported, never raised."""
        if self._process is not None:
            self._see_through(self._process)
        elif len(in_sync) > 1 and time.monotonic() >= self._not_before and time.time() >= self._when():
            self._start(in_sync)

    def stop(self) -> None:
        """The plugin is ending: kill the process. The scrub begins again after the next start."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    # When

    def _when(self) -> float:
        """The time at which the next scrub is due."""
        if self._due is None:
            self._due = self._noted()
            if self._due is None:
                self._set_due(random.uniform(0, self._schedule.spread))
                assert self._due is not None
        return self._due

    def _noted(self) -> float | None:
        """What the file says; None without one, and for a time that was written when the clock was wrong."""
        try:
            due = float(json.loads(read_small_file(self._directory / SCRUB_FILE))["due"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return due if due <= time.time() + self._schedule.every else None

    def _set_due(self, wait: float) -> None:
        self._due = time.time() + wait
        self._not_before = max(self._not_before, time.monotonic() + min(wait, self._schedule.retry))
        data = json.dumps({"due": round(self._due)}).encode() + b"\n"
        try:
            replace_file(self._directory / SCRUB_FILE, data, durably=False)
        except OSError as error:
            self._report("unusual", f"the time of the next scrub could not be noted: {error.strerror or error}")

    # The process

    def _start(self, in_sync: Collection[str]) -> None:
        self._given_up, self._watch = False, ProcessWatch()
        self._report("info", f"the weekly scrub of {counted(len(in_sync), 'member')} begins")
        try:
            self._process = start_beside(_SCRUBBER, *in_sync, directory=self._directory)
        except OSError as error:
            self._failed(f"its process could not be started: {error.strerror or error}")

    def _see_through(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is not None:
            self._process = None
            out, err = process.communicate()
            if not self._given_up:
                self._end(process.returncode, out, err)
        elif not self._given_up and self._watch.stopped(process.pid):
            self._given_up = True
            process.kill()
            self._failed(f"its process has done nothing for {HANGS_AFTER / 60:.0f} minutes and was ended")

    def _end(self, code: int, out: bytes, err: bytes) -> None:
        try:
            if code != 0:
                raise BackupError(why_it_failed(code, err))
            *findings, summary = [json.loads(line) for line in out.splitlines()]
            files, members = int(summary["files"]), [str(name) for name in summary["compared"]]
            for finding in findings:
                self._take(finding)
        except (BackupError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._failed(str(error))
            return
        self._report("info", f"scrub: {counted(files, 'file')} read at {counted(len(members), 'member')}")
        self._set_due(self._schedule.every - random.uniform(0, self._schedule.spread))

    def _take(self, finding: dict[str, Any]) -> None:
        file, member, what = (printable(str(finding[key]), 300) for key in ("file", "member", "what"))
        outcome, source, why = (printable(str(finding[key]), 300) for key in ("outcome", "source", "why"))
        where = f"{file} in the member {member} (byte {int(finding['offset'])}: {what})"
        if outcome == Mending.MENDED.value:
            self._report("unusual", f"{where} was damaged, and has been replaced by the good copy of {source}")
        elif outcome == Mending.NO_GOOD_COPY.value:
            self._report(
                "broken",
                f"{where} is damaged, and no other member holds a good copy. The node's own database is whole, and "
                "changes are still appended. Restart the node soon (lightning-cli stop), then run: backup-cli resync",
            )
        else:
            self._report("unusual", f"{where} is damaged{f', and was not replaced: {why}' if why else ''}")
            self._found(member, file, what)

    def _failed(self, why: str) -> None:
        self._set_due(self._schedule.retry)
        hours = self._schedule.retry / 3600
        self._report("unusual", f"the members could not be scrubbed, and will be in {hours:.0f} hours: {why}")


def schedule_told() -> Schedule:
    """The usual Schedule; an experiment or a test sets how many seconds after a start the first scrub comes."""
    told = number_told("LIGHTNINGD_BACKUP_SCRUB_AFTER")
    return Schedule() if told is None else Schedule(settle=float(told), spread=0.0)
