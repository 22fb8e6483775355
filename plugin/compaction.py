"""Compaction while the node runs: when it is due, the process that does it, and publishing its result.

The hook never waits for it: a separate process of the lowest priority reads, replays and checks. Only the publication
(one rename) happens here, in the maintenance thread. The same process makes the snapshot of a renewal
(plugin/renewal.py) from a copy of the database; no compaction begins as long as the backup needs one.
"""

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from backends.base import MAX_ROLL_FORWARD, Report
from backends.compaction.compact import LEAVE_OUT_MIN
from backends.compaction.from_copy import CopiedDatabase
from backends.compaction.space_reserve import AT_DESTINATION
from backends.errors import BackupError
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.writer import Writer
from backends.members.running import RunningMembers
from backends.system.commits import commits
from backends.system.scratch import remove_left_over
from backends.text import counted
from plugin.damage_watch import DamageWatch
from plugin.process_watch import HANGS_AFTER, ProcessWatch, start_beside, why_it_failed
from plugin.renewal import Renewal
from plugin.told import number_told

MIN_SEGMENT_BYTES = 16 << 20
"""Bytes of segments below which nothing is compacted."""

NEVER_COMPACTED = LEAVE_OUT_MIN
"""Records that every snapshot leaves out, at least. If there are no others, there is nothing to compact."""

RETRY_AFTER = 600.0
"""Seconds to wait after a failure before the next attempt; doubled by each further failure in a row."""

RETRY_AT_LEAST_EVERY = 6 * 3600.0
"""The longest wait, in seconds. Each attempt may write a whole snapshot to a stick that wears out, and fail again."""

_COMPACTOR = (
    "from plugin.low_priority import lower_priority; lower_priority(); "  # importing the rest is work already
    "from plugin.compactor import main; sys.exit(main())"
)


class Compaction:
    """Starts a compaction when one is due, and sees it through. Only the maintenance thread calls its methods."""

    def __init__(
        self,
        url: str,
        directory: str,
        report: Report,
        damage: DamageWatch,
        renewal: Renewal,
        members: RunningMembers | None = None,
    ) -> None:
        """`members` are those of a backup that has several: one of them is compacted, and the result goes to all."""
        self._url, self._directory, self._report, self._damage = url, directory, report, damage
        self._members, self._member = members, ""
        self._times_out = 0  # how often that member had been out of sync when the process was started
        self._renewal, self._renews = renewal, False
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._not_before = 0.0
        self._pulse = ProcessWatch()
        self._given_up = self._tidied = False
        self._wait = RETRY_AFTER  # seconds to wait after the next failure
        self._not_below = 0  # none is due before this record: there was nothing to compact
        self.wanted = False
        """Set by the RPC method: begin as soon as possible."""
        self.failure: str | None = None
        """Why the last compaction failed, until one succeeds."""

    @property
    def running(self) -> bool:
        """Whether a compaction is running."""
        return self._process is not None

    def tick(self, writer: Writer) -> None:
        """Begin a compaction if one is due; publish one that has ended. A failure is reported, never raised."""
        if not self._tidied:  # after a compaction that died with the previous plugin
            self._tidied = True
            self._tidy(writer)
        if self._process is None:
            if self._damage.known is not None:
                self.wanted = False  # a new snapshot of the database will replace this log
                self._renew(writer)
            elif self.wanted or (self._due(writer) and time.monotonic() >= self._not_before):
                self.wanted = False
                self._start(writer)
        elif self._process.poll() is not None:
            self._end(writer, self._process)
        elif not self._given_up and self._pulse.stopped(self._process.pid):
            self._given_up = True  # no other compaction begins before this one has really ended
            self._process.kill()
            self._fail(writer, f"its process has done nothing for {HANGS_AFTER / 60:.0f} minutes and was ended")

    def _due(self, writer: Writer) -> bool:
        sizes = writer.sizes()
        if writer.position.sequence < self._not_below:
            return False
        return sizes.records > NEVER_COMPACTED and sizes.segments > max(least(), sizes.snapshot)

    def _renew(self, writer: Writer) -> None:
        """Have a snapshot made of the copy of the database, if there is one."""
        try:
            copied = self._renewal.ready()
        except BackupError as error:
            self._renews = True
            self._fail(writer, str(error))
            return
        if copied is not None:
            self._begin(writer, copied)

    def _start(self, writer: Writer) -> None:
        sizes = writer.sizes()
        self._report(
            "info",
            f"compaction begins: {counted(sizes.records, 'record')} in {sizes.segments} bytes, "
            f"snapshot {sizes.snapshot} bytes",
        )
        self._begin(writer)

    def _begin(self, writer: Writer, copied: CopiedDatabase | None = None) -> None:
        sizes = writer.sizes()
        wanted = sizes.snapshot + sizes.segments + AT_DESTINATION if copied is None else self._renewal.wanted
        with suppress(BackupError, OSError):  # then the process itself will say that there is no space
            writer.give_up_history(wanted)
        self._began, self._renews = time.monotonic(), copied is not None
        self._given_up, self._pulse = False, ProcessWatch()
        if self._members is not None:
            self._member, self._url = self._members.to_compact()
            self._times_out = self._members.times_out(self._member)
        try:
            share = commits.share()
            told = [] if share is None and copied is None else ["" if share is None else str(share)]
            told += [] if copied is None else [copied.encode()]
            self._process = start_beside(_COMPACTOR, self._url, *told, directory=self._directory, share=share)
        except OSError as error:
            self._fail(writer, f"its process could not be started: {error.strerror or error}")

    def _end(self, writer: Writer, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        out, err = process.communicate()
        if self._given_up:
            self._tidy(writer)
            return
        unrestorable = process.returncode == UNRESTORABLE and not self._renews and not self._lost_its_member()
        if unrestorable and self._unrestorable(writer, out):
            return
        if process.returncode == NO_SPACE and not self._lost_its_member() and self._gave_up_history(writer):
            self._tidy(writer)
            self.wanted = not self._renews  # the copy of a renewal is still there
            return
        try:
            if process.returncode != 0:
                raise BackupError(why_it_failed(process.returncode, err))
            made = self._published(writer, out.decode().strip())
        except (BackupError, ValueError, KeyError, TypeError, OSError) as error:
            if self._lost_its_member():
                self._begin_again(writer)
            else:
                self._fail(writer, str(error))
            return
        self._succeeded(writer)
        self._tell(writer, made)

    def _published(self, writer: Writer, text: str) -> CompactedSnapshot | None:
        """Publish what the process has made, and return it; None if it has found nothing to compact.

        Raises BackupError, OSError, or what `CompactedSnapshot.decode` raises.
        """
        if text == NOTHING:
            self._not_below = writer.position.sequence + MAX_ROLL_FORWARD
            return None
        if not self._renews:
            known = writer.damage.read()  # by another process, perhaps in what this compaction left out
            if known is not None:
                raise BackupError(known.sentence())
        made, anew = CompactedSnapshot.decode(text), self._renewal.why if self._renews else None
        if self._members is None:
            writer.publish_compaction(made, anew)
        else:
            self._members.publish_compaction(writer, made, self._member, anew)
        return made

    def _tell(self, writer: Writer, made: CompactedSnapshot | None) -> None:
        if made is None:
            self._report("info", "compaction: there is nothing to compact yet")
        elif self._renews:
            self._renewed(made)
        else:
            sizes = writer.sizes()
            self._report(
                "info",
                f"compaction ended after {time.monotonic() - self._began:.1f} s: snapshot {sizes.snapshot} bytes, "
                f"{counted(sizes.records, 'record')} in {sizes.segments} bytes since",
            )

    def _lost_its_member(self) -> bool:
        """Whether the member at which the snapshot was being made went out of sync: what was there may be gone."""
        return self._members is not None and self._members.times_out(self._member) != self._times_out

    def _gave_up_history(self, writer: Writer) -> bool:
        """Whether a generation that was kept for its history was given up, because the destination is full. A quota is
        only known by that: it shows in no number of free bytes."""
        try:
            return writer.sizes().kept > 0 and writer.give_up_oldest()
        except (BackupError, OSError):
            return False

    def _begin_again(self, writer: Writer) -> None:
        """The member at which the snapshot was being made was lost, which is told already. The copy of a renewal is not
        at a member."""
        what = "the new snapshot" if self._renews else "the compaction"
        self._report("info", f"{what} is begun again: {self._member}, where it was made, was out of sync meanwhile")
        self._tidy(writer)
        self.wanted = not self._renews

    def _renewed(self, made: CompactedSnapshot) -> None:
        self._renewal.give_up()
        self._damage.taken()
        self._report(
            "unusual",
            f"new snapshot taken at version {made.base.data_version}, and published with all changes since, after "
            f"{time.monotonic() - self._renewal.began:.1f} s; the backup is complete again",
        )

    def _unrestorable(self, writer: Writer, out: bytes) -> bool:
        """Report what the process has proved. False when its output does not say what that is."""
        try:
            fields = json.loads(out)
            generation, what = int(fields["generation"]), str(fields["what"])
            of_the_files = fields.get("of_the_files") is True
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return False
        self._tidy(writer)
        self._succeeded(writer)  # the compaction did its work; its finding is reported as damage
        if of_the_files and self._members is not None and self._members.damaged(self._member, what):
            return True  # the others hold the same files, and mend them
        self._damage.found(writer, "compaction", what, generation)
        return True

    def _succeeded(self, writer: Writer) -> None:
        self.failure, self._wait = None, RETRY_AFTER
        writer.note_trouble(None)

    def _fail(self, writer: Writer, reason: str) -> None:
        self.failure = reason
        wait, self._wait = self._wait, min(2 * self._wait, RETRY_AT_LEAST_EVERY)
        self._not_before = time.monotonic() + wait
        if self._renews:
            self._renewal.give_up()
            self._damage.failed(reason, wait)
            self._tidy(writer)
            return
        writer.note_trouble(f"the last compaction failed: {reason}")
        self._report(
            "broken",
            f"compaction failed: {reason}. Every change is still saved, but the backup grows; the next attempt is in "
            f"{wait / 60:.0f} minutes, or at once with: lightning-cli backup-compact",
        )
        self._tidy(writer)

    def _tidy(self, writer: Writer) -> None:
        """Remove what a killed process has left: a copy of the database in the node's directory, half a snapshot."""
        with suppress(BackupError, OSError):  # the next call tries again
            remove_left_over(Path(self._directory))
            writer.discard_compaction()

    def stop(self, writer: Writer) -> None:
        """The plugin is ending: kill the process and discard what it has written."""
        self._renewal.give_up()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        elif self._tidied:
            return
        self._tidy(writer)


NOTHING = "nothing"

UNRESTORABLE = 3
"""The process's exit code when it has proved that this backup cannot be restored; its output says what it found."""

NO_SPACE = 4
"""The process's exit code when the destination is full, or a quota there is used up."""


def least() -> int:
    """MIN_SEGMENT_BYTES, or what an experiment or a test sets instead."""
    told = number_told("LIGHTNINGD_BACKUP_COMPACT_AT")
    return MIN_SEGMENT_BYTES if told is None else told
