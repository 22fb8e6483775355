"""`postgres://`: a table in a PostgreSQL cluster, on other machines."""

from pathlib import Path

from backends.places.base import Place
from backends.storage.objects.storage import ObjectStorage
from backends.storage.postgres.address import address_of
from backends.storage.postgres.store import PostgresStore
from backends.storage.unreachable import reaching
from backends.urls import Destination


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

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        if not self._address.checks_server and not all(host.is_here for host in self._address.hosts):
            found.append(
                "anybody on the way could pretend to be the server, and confirm what nobody stores: add "
                "sslmode=verify-full to the URL, and the authority's certificate as sslrootcert=/path (docs/postgres.md)"
            )
        if self._address.single_server:
            found.append(
                "the URL says single-server: a change may be confirmed that is on one server only, and is lost if that "
                "server's disk dies. Another destination beside it (backup-cli member-add) or a synchronous standby helps"
            )
        return found
