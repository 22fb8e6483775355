"""The place of a backup with several members: what each member's place says, in one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from backends.places.base import Place
from backends.storage.mirror.storage import MirrorStorage

T = TypeVar("T")


class MembersPlace(Place):
    """The places of the members that are in sync when the backup is opened. Each was checked before."""

    def __init__(self, places: Mapping[str, Place], storage: MirrorStorage) -> None:
        self._places, self._storage = places, storage

    @property
    def storage(self) -> MirrorStorage:
        return self._storage

    def about(self) -> list[str]:
        return [f"{name}: {line}" for name, place in self._places.items() for line in place.about()]

    def check_present(self) -> None:
        self._each(lambda place: place.check_present())

    def check_writable(self) -> None:
        self._each(lambda place: place.check_writable())

    def warnings(self, node_directory: Path) -> list[str]:
        return [line for place in self._places.values() for line in place.warnings(node_directory)]

    def remarks(self) -> list[str]:
        return [line for lines in self._each(lambda place: place.remarks()).values() for line in lines]

    def only_this_machine_writes(self) -> bool:
        return all(self._each(lambda place: place.only_this_machine_writes()).values())

    def _each(self, ask: Callable[[Place], T]) -> dict[str, T]:
        places = self._places
        return self._storage.each(lambda name, _: ask(places[name]))
