"""From backup.lock to an open backup with several members: which are here, may the node start, take-over."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from backends import place_at
from backends.base import Report
from backends.errors import BackupError
from backends.keep import keep_of_all
from backends.log.backup import Backup
from backends.log.facts import Facts
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.writer import Writer
from backends.members.adopting import adopted
from backends.members.epochs import Epochs, clause
from backends.members.events import Events
from backends.members.missing import Missing, missing_members
from backends.members.newest import SeenMember, newest
from backends.members.place import MembersPlace
from backends.members.running import RunningMembers
from backends.members.start import StartRefused, StartWith, may_start
from backends.members.survey import ask_all, key_needed_for, left_by, look_at, why_not_seen
from backends.members.where import mount_point
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote, read_members_note, write_members_note
from backends.node.session import known_sessions
from backends.places.base import Place
from backends.storage.mirror.workers import Workers

SURVEY_WITHIN = 15.0
"""Seconds that each member has to answer at a start, all at once. A disk that has to spin up takes ten."""


class Members:
    """The members of the backup of the node in `directory`, before it is opened.

    `survey_within` is how many seconds the members have to answer. `places` are those of the members, by name: by
    default, those that their URLs name.
    """

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        *,
        survey_within: float = SURVEY_WITHIN,
        options: LogOptions = DEFAULT_OPTIONS,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        self._directory, self.settings, self._within = directory, settings, survey_within
        self._options = replace(options, keep=options.keep or keep_of_all(member.url for member in settings.members))
        self.places = places or {member.name: place_at(member.url) for member in settings.members}
        self._workers = Workers()
        self.url = ""
        """The URL of the member that `look` has returned."""
        self.seen: tuple[SeenMember, ...] = ()
        self.missing: Mapping[str, Missing] = {}
        """The members that were not seen, by their names."""

    def look(self) -> Backup:
        """Look at all members, and return the newest as a backup to read.

        Raises KeyNeeded, or another BackupError if none can be used.
        """
        found, failures = ask_all(
            {member.name: self._question(member.name) for member in self.settings.members}, self._within
        )
        self.seen = tuple(found[member.name] for member in self.settings.members if member.name in found)
        why = {name: why_not_seen(error, self._within) for name, error in failures.items()}
        self.missing = missing_members(why, left_by(failures))
        needed = key_needed_for(self.seen, failures)
        if needed is not None:
            raise needed
        name = self._newest().name
        self.url = self.settings.member(name).url
        return Backup(self.places[name], self._options)

    def _question(self, name: str) -> Callable[[], SeenMember]:
        return lambda: look_at(Backup(self.places[name]), self.settings.backup_id, name)

    def _newest(self) -> SeenMember:
        """Of the members that were seen, the one that a start would go on from. Raises BackupError."""
        try:
            return self.start(proven=True, changed_ago=0.0).source
        except StartRefused:  # `start` says so; until then, look at what there is
            return newest(self.seen)

    def start(self, *, proven: bool, changed_ago: float | None, without: Collection[str] = ()) -> StartWith:
        """Which members the node starts with. `proven` and `changed_ago` are as in `may_start`. Raises BackupError."""
        return may_start(
            self.seen,
            self.settings.members,
            self.settings.need,
            read_members_note(self._directory),
            proven=proven,
            changed_ago=changed_ago,
            without=without,
            missing=self.missing,
        )

    def open(
        self,
        start: StartWith,
        session: str,
        seen: Facts | None,
        report: Report,
        events: Events,
        *,
        compacted: CompactedSnapshot | None = None,
        catch_up: bool = True,
    ) -> tuple[Writer, RunningMembers]:
        """Become the writer of all members that `start` names; one that fails meanwhile is put out of sync.

        `session` is the id of the new session, `seen` what the newest member says. `compacted` waits at that member to
        be published. Unless `catch_up`, members that are not in sync stay as they are. Raises BackupError.
        """
        note = self._noted(start, session)
        in_sync, missing = list(start.in_sync), {name: each.why for name, each in self.missing.items()}
        while True:
            epochs = Epochs(self._directory, self.settings, note, session, start.in_sync if start.by_consent else ())
            source = start.source.name if start.source.name in in_sync else in_sync[0]
            running = RunningMembers(epochs, self.places, in_sync, source, events, missing, self._workers)
            try:
                backup = self._backup(running, in_sync)
                facts = seen if source == start.source.name else None
                writer = backup.open(report, session, seen=facts, compacted=compacted)
            except BackupError:
                lost = running.lost_at_start
                in_sync = [name for name in in_sync if name not in lost]
                if not lost or len(in_sync) < self.settings.need:
                    raise
                missing.update({name: clause(error) for name, error in lost.items()})
                note = epochs.note
                continue
            running.begin(writer, catch_up=catch_up)
            return writer, running

    def _backup(self, running: RunningMembers, in_sync: Collection[str]) -> Backup:
        return Backup(MembersPlace({name: self.places[name] for name in in_sync}, running.mirror), self._options)

    def _noted(self, start: StartWith, session: str) -> MembersNote:
        """The node's note, durable with the new session in it before any member carries that session."""
        note = read_members_note(self._directory)
        document = start.source.document
        if note is None or note.backup_id != document.backup_id:
            sessions = tuple(known_sessions(self._directory, document.backup_id) or ())
            note = adopted(MembersNote(document.backup_id, document.epoch, (), sessions=sessions), document)
        elif note.newest < document.epoch.number:
            # The directory was set back, and all members are here: the next epoch must be above theirs.
            note = adopted(note, document)
        mounts = {name: mount for name in start.in_sync if (mount := self._mount(name)) is not None}
        note = replace(note, sessions=(*note.sessions, session), mounts={**note.mounts, **mounts})
        write_members_note(self._directory, note)
        return note

    def adopt(self) -> None:
        """Take what the newest member says for the node's own history, although another node has written it.

        For a person who has decided so. Raises BackupError or OSError.
        """
        document = newest(self.seen).document
        note = read_members_note(self._directory)
        if note is None or note.backup_id != document.backup_id:
            note = MembersNote(document.backup_id, document.epoch, ())
        write_members_note(self._directory, adopted(note, document))

    def _mount(self, name: str) -> str | None:
        url = self.settings.member(name).url
        with suppress(OSError, BackupError):  # it has just failed; what was noted before stays
            return mount_point(url)
        return None
