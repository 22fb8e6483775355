"""`postgres://`: a table in a PostgreSQL cluster, on other machines."""

import os
from pathlib import Path

from backends.places.base import Place
from backends.storage.objects.storage import ObjectStorage
from backends.storage.postgres.address import address_of
from backends.storage.postgres.store import PostgresStore
from backends.storage.unreachable import reaching
from backends.urls import Destination

_OPENING = ("PGPASSWORD", "PGPASSFILE", "PGSSLCERT", "PGSSLKEY")
"""What libpq takes from the environment to prove who it is, or to find the file that does."""


class PostgresPlace(Place):
    """A backup in a schema of a database, named by its servers."""

    strangers = True

    def __init__(self, destination: Destination) -> None:
        self._address = address_of(destination)
        self._store = PostgresStore(self._address)
        self._storage = ObjectStorage(self._store)

    @property
    def storage(self) -> ObjectStorage:
        return self._storage

    def why_unwritable(self) -> str | None:
        with reaching(self._storage):
            return self._store.why_unwritable()

    def opened_by_environment(self) -> tuple[str, ...]:
        known = (*_OPENING, *(() if self._address.user else ("PGUSER",)))
        return tuple(name for name in known if os.environ.get(name))

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        if not self._address.checks_server and not all(host.is_here for host in self._address.hosts):
            found.append(
                "somebody on the way could pretend to be the server, and confirm what nobody stores: add "
                "sslmode=verify-full and sslrootcert=/path/of/the/authority's.crt to the URL (docs/postgres.md)"
            )
        if self._address.single_server:
            found.append(
                "the URL says single-server: what the server confirms may be on its disk only, and is lost with that "
                "disk. A synchronous standby helps, or another destination beside it (backup-cli member-add)"
            )
        return found
