"""Where a node's changes are saved: one backup, or several members of one. Looked at first, and opened later."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from backends import backup_at
from backends.base import Report
from backends.commit_timeout import commit_timeout_of
from backends.errors import BackupError
from backends.keyring import init_command
from backends.log.backup import Backup
from backends.log.facts import Facts
from backends.log.format.documents import Manifest
from backends.log.reader.opening import read_manifest
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.writer import Writer
from backends.members.opening import SURVEY_WITHIN, Members
from backends.members.running import RunningMembers
from backends.members.start import StartWith
from backends.members.survey import ask_all
from backends.node.lockfile import LOCK_FILE, Settings
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.urls import BadURL, parse_url
from plugin.member_events import MemberEvents
from plugin.node_key import raise_key_error


class Destination(ABC):
    """What backup.lock names. Nothing in it is changed before `open`."""

    backup: Backup
    """The backup to read from; of several members, the one that holds the newest state."""
    url: str
    """Its URL."""
    commit_timeout: float
    """Seconds that a commit may wait."""
    members: RunningMembers | None = None
    """The members of an open backup that has several; otherwise None."""

    @abstractmethod
    def check_start(self, *, proven: bool, changed_ago: float | None) -> None:
        """Raise BackupError if the node may not start with what is here.

        `proven`: the sync point shows that the database holds what `backup` ends with. `changed_ago`: seconds since the
        database changed, None if unknown.
        """

    @abstractmethod
    def storages(self) -> Mapping[str, Storage]:
        """The places that the node starts with, by name; `check_start` has returned."""

    @abstractmethod
    def open(
        self,
        report: Report,
        session: str,
        seen: Facts | None,
        *,
        compacted: CompactedSnapshot | None = None,
        catch_up: bool = True,
    ) -> Writer:
        """Become the writer; `check_start` has returned. `seen` is what `backup` says, if that is known.

        `compacted` waits in `backup` to be published. Unless `catch_up`, members out of sync stay as they are: for
        commands. Raises BackupError.
        """

    def adopt(self) -> None:  # noqa: B027 (one destination notes no epochs)
        """Take what is there for the node's own history: a person has decided so. Raises BackupError or OSError."""

    @abstractmethod
    def open_anew(self, report: Report, session: str) -> Writer:
        """Become the writer of a backup whose log is damaged, to take a new snapshot. Raises BackupError."""


class OneDestination(Destination):
    """A backup at one place."""

    def __init__(self, url: str) -> None:
        self.url, self.backup, self.commit_timeout = url, backup_at(url), commit_timeout_of(parse_url(url))

    def check_start(self, *, proven: bool, changed_ago: float | None) -> None:
        pass

    def storages(self) -> Mapping[str, Storage]:
        return {self.backup.describe(): self.backup.storage}

    def open(
        self,
        report: Report,
        session: str,
        seen: Facts | None,
        *,
        compacted: CompactedSnapshot | None = None,
        catch_up: bool = True,
    ) -> Writer:
        return self.backup.open(report, session, seen=seen, compacted=compacted)

    def open_anew(self, report: Report, session: str) -> Writer:
        return self.backup.open_anew(report, session)


class SeveralMembers(Destination):
    """A backup with several members, all of which are looked at when this is made. Raises BackupError."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._members = Members(directory, settings)
        try:
            self.backup = self._members.look()
        except BackupError:
            self._raise_key_error(directory, settings)
            raise
        self.url = self._members.url
        self.commit_timeout = max(commit_timeout_of(parse_url(member.url)) for member in settings.members)
        self._start: StartWith | None = None

    def check_start(self, *, proven: bool, changed_ago: float | None) -> None:
        self._start = self._members.start(proven=proven, changed_ago=changed_ago)

    def storages(self) -> Mapping[str, Storage]:
        assert self._start is not None
        return {name: self._members.places[name].storage for name in self._start.in_sync}

    def open(
        self,
        report: Report,
        session: str,
        seen: Facts | None,
        *,
        compacted: CompactedSnapshot | None = None,
        catch_up: bool = True,
    ) -> Writer:
        assert self._start is not None
        self.backup.let_go()  # a command may have held the lock of this member; the writer takes those of all
        writer, self.members = self._members.open(
            self._start, session, seen, report, MemberEvents(report), compacted=compacted, catch_up=catch_up
        )
        return writer

    def _raise_key_error(self, directory: Path, settings: Settings) -> None:
        """No member could be read: if that is because of the key, say so."""

        def manifest_of(storage: Storage) -> Manifest:
            with reaching(storage):
                return read_manifest(storage)

        asked = {name: partial(manifest_of, place.storage) for name, place in self._members.places.items()}
        found, failures = ask_all(asked, SURVEY_WITHIN)
        raise_key_error(directory, settings, found.values(), failures.values())

    def adopt(self) -> None:
        self._members.adopt()

    def open_anew(self, report: Report, session: str) -> Writer:
        raise BackupError(
            "every member that holds the newest state is damaged, so none of them can mend the others. Nothing was "
            "changed. Keep all of them, and make a new backup of this database in new directories: "
            f"{init_command()} URL URL"
        )


def destination_of(directory: Path, settings: Settings) -> Destination:
    """The destination that backup.lock names. Raises BackupError."""
    try:
        return SeveralMembers(directory, settings) if settings.members else OneDestination(settings.url)
    except BadURL as error:
        raise BackupError(
            f"{directory / LOCK_FILE} names no destination: {error}. Nothing was changed; stop the node and "
            "run: backup-cli init URL"
        ) from None
