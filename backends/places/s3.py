"""`s3://`, `gs://` and `az://`: a prefix in a bucket of an object store."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from backends.errors import Unreachable
from backends.places.base import Place
from backends.storage.objects.storage import ObjectStorage
from backends.storage.s3.bucket import S3, bucket_of
from backends.storage.s3.cost import estimate
from backends.storage.s3.environment import variables_used
from backends.storage.s3.probe import probe, probe_again
from backends.storage.s3.store import S3Store
from backends.storage.unreachable import reaching
from backends.this_machine import stays_here
from backends.urls import Destination, parse_url


class BucketPlace(Place):
    """A backup in a bucket. Raises BackupError if obstore is not installed, BadURL."""

    strangers = True
    look_every = 30.0

    def __init__(self, destination: Destination) -> None:
        self._bucket = bucket_of(destination)
        self._store = S3Store(self._bucket)
        self._storage = ObjectStorage(self._store)
        self._probed = False

    @property
    def storage(self) -> ObjectStorage:
        return self._storage

    def about(self) -> list[str]:
        found = super().about()
        return [*found, estimate()] if self._bucket.scheme == S3 else found

    def check_present(self) -> None:
        with reaching(self._storage):
            there = self._storage.exists()
        if not there:
            raise Unreachable(
                f"there is no backup at {self.describe()}: is the URL right (bucket, prefix, endpoint)? Nothing "
                "was changed; correct the URL, then try again",
                clause="the bucket holds no such backup",
            )

    def check_writable(self) -> None:
        """Refuse a store that does not keep conditions: tried for all of them before a backup is made, and again, with
        one put that must be refused, before a backup is written to."""
        if self._probed:
            return
        with reaching(self._storage):
            if self._storage.exists():
                probe_again(self._store)
                self._storage.presence.note_marker()
            else:
                probe(self._store)
        self._probed = True

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        endpoint = urlsplit(self._store.reached_by.endpoint)
        if endpoint.scheme == "http" and not stays_here(endpoint.hostname or ""):
            found.append(
                f"{self._store.reached_by.endpoint} is not encrypted on the way (http://): whoever is between here and "
                "there can read, change and repeat what is sent. Use https:// if the store has it"
            )
        return found

    def opened_by_environment(self) -> tuple[str, ...]:
        return variables_used(self._bucket)

    def durable_url(self, url: str) -> str:
        """With the endpoint, the region and the profile that the environment named: it may say something else, or
        nothing, when the node starts."""
        destination = parse_url(url)
        if destination.scheme != S3:
            return url
        known = dict(destination.options)
        reached = self._store.reached_by
        for name, value in (("endpoint", reached.endpoint), ("region", reached.region), ("profile", reached.profile)):
            if value and name not in known:
                known[name] = value
        return str(replace(destination, options=tuple(known.items())))
