"""Requests to one bucket through obstore: one attempt each, with a limit of time.

obstore's own retries are off. It does not say whether an attempt may have been carried out, and its default, 10 retries
in 3 minutes, is longer than a commit may wait.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backends.errors import MissingExtra
from backends.storage.objects.store import Content, Listed
from backends.storage.s3.bucket import AZURE, GOOGLE, S3, Bucket, checked_endpoint
from backends.storage.s3.credentials import Credentials, credentials_for
from backends.storage.s3.faults import Fault, answer_of

try:
    import obstore
    from obstore.store import AzureStore, GCSStore, S3Store
except ImportError as missing:
    raise MissingExtra("s3://, gs:// and az://", "obstore", "s3") from missing

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECT = 10.0
"""Seconds to wait for a connection."""

SHORTEST = 2.0
"""Seconds of an attempt that is made when little time is left."""

_IDLE = 45.0
"""Seconds for which an unused connection is kept. Home routers forget one after a few minutes without telling anybody,
and the next commit would wait for an answer that cannot come."""

_CHUNK = 100
"""Objects of a listing that are handed over at a time. S3 gives 1,000 for one request, and each takes a KiB here."""


class Client:
    """Requests that each take at most `limit` seconds. Every method raises Fault."""

    def __init__(self, store: "ObjectStore", limit: float) -> None:
        self._store, self.limit = store, limit

    def create(self, key: str, data: bytes) -> str:
        return self._put(key, data, "create")

    def replace(self, key: str, data: bytes, version: str, *, quoted: bool) -> str:
        """Replace the object if it has this version. `quoted` is how the ETag is written in the request's header."""
        tag, _, number = version.partition("\n")
        mode: dict[str, str] = {"e_tag": tag if quoted else tag.strip('"')}
        if number:
            mode["version"] = number
        return self._put(key, data, mode)

    def _put(self, key: str, data: bytes, mode: Any) -> str:
        try:
            done = obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except Exception as error:
            raise Fault(answer_of(error)) from error
        return _version(done["e_tag"], done["version"])

    def get(self, key: str) -> Content:
        try:
            found = obstore.get(self._store, key)
            data = found.bytes().to_bytes()
        except Exception as error:
            raise Fault(answer_of(error)) from error
        return Content(data, _version(found.meta["e_tag"], found.meta["version"]))

    def read(self, key: str, offset: int, length: int) -> bytes:
        try:
            return obstore.get_range(self._store, key, start=offset, length=length).to_bytes()
        except Exception as error:
            raise Fault(answer_of(error)) from error

    def pages(self, directory: str, after: str) -> Iterator[Sequence[Listed]]:
        """The objects below a directory after a key, some at a time: more are asked for when they are wanted."""
        try:
            stream = obstore.list(self._store, directory or None, offset=after or None, chunk_size=_CHUNK)
            for page in stream:
                yield [Listed(each["path"], each["size"], each["last_modified"].timestamp()) for each in page]
        except Exception as error:
            raise Fault(answer_of(error)) from error

    def prefixes(self, directory: str) -> list[str]:
        try:
            return list(obstore.list_with_delimiter(self._store, directory or None)["common_prefixes"])
        except Exception as error:
            raise Fault(answer_of(error)) from error

    def delete(self, keys: Sequence[str]) -> None:
        try:
            obstore.delete(self._store, list(keys))
        except FileNotFoundError as error:
            if len(keys) == 1:
                return
            raise Fault(answer_of(error)) from error
        except Exception as error:
            raise Fault(answer_of(error)) from error


def _version(tag: str | None, number: str | None) -> str:
    return f"{tag or ''}\n{number}" if number else tag or ""


class Clients:
    """Clients of one bucket that differ in how long an attempt may take, made when the first request wants them."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._made, self._lock = bucket, dict[float, Client](), threading.Lock()
        self._reach: tuple[Bucket, Credentials] | None = None
        quick = max(SHORTEST, bucket.timeout / 12)
        self._limits = (SHORTEST, quick, max(quick, bucket.timeout / 4), bucket.timeout)

    def attempt(self, nth: int, size: int, left: float) -> Client:
        """For the nth attempt, counted from 0, to send or fetch `size` bytes, with `left` seconds left for it.

        The first attempt of a small request is short: a connection that has died silently costs that much. The next is
        longer: perhaps the network is slow.
        """
        wanted = 3 if size > _SMALL else min(nth, 1) + 1
        limit = max((limit for limit in self._limits[: wanted + 1] if limit <= left), default=SHORTEST)
        with self._lock:
            if limit not in self._made:
                self._made[limit] = Client(_store(*self._known(), limit), limit)
            return self._made[limit]

    @property
    def reach(self) -> tuple[Bucket, Credentials]:
        """The bucket with what the environment says of its endpoint and region, and as whom it is used."""
        with self._lock:
            return self._known()

    def _known(self) -> tuple[Bucket, Credentials]:
        if self._reach is None:
            self._reach = _reach(self._bucket)
        return self._reach

    def renew(self) -> bool:
        """Read the credentials again. Returns whether they have changed."""
        with self._lock:
            before, self._reach = self._reach, None
            changed = self._known() != before
            if changed:
                self._made.clear()
            return changed

    def close(self) -> None:
        with self._lock:
            self._made.clear()


_SMALL = 1 << 16
"""Bytes: what is larger may take the whole time for one attempt."""

_REGION = "us-east-1"
"""Where a store has one region only, this is its name to nearly all of them, and what AWS itself begins with."""


def _reach(bucket: Bucket) -> tuple[Bucket, Credentials]:
    if bucket.scheme == GOOGLE:
        return bucket, Credentials("GOOGLE_APPLICATION_CREDENTIALS or the role of this machine")
    if bucket.scheme == AZURE:
        return bucket, Credentials("AZURE_STORAGE_ACCOUNT_NAME and its key in the environment")
    found = credentials_for(bucket)
    endpoint = bucket.endpoint or checked_endpoint(found.endpoint, "the environment or the profile")
    region = bucket.region or found.region or _REGION
    # A name with dots is not covered by the certificate of *.s3.amazonaws.com.
    style = bucket.style or ("path" if endpoint or "." in bucket.name else "host")
    profile = bucket.profile or found.profile
    return replace(bucket, endpoint=endpoint, region=region, style=style, profile=profile), found


_ONCE: "RetryConfig" = {"max_retries": 0}


def _store(bucket: Bucket, credentials: Credentials, limit: float) -> "ObjectStore":
    options: ClientConfig = {
        "timeout": timedelta(seconds=limit),
        "connect_timeout": timedelta(seconds=min(limit, CONNECT)),
        "pool_idle_timeout": timedelta(seconds=_IDLE),
        "allow_http": bucket.endpoint.startswith("http://"),
    }
    make = {S3: _s3_store, GOOGLE: _google_store, AZURE: _azure_store}[bucket.scheme]
    return make(bucket, credentials, options)


def _s3_store(bucket: Bucket, credentials: Credentials, options: "ClientConfig") -> "ObjectStore":
    config: dict[str, Any] = {
        "region": bucket.region,
        "virtual_hosted_style_request": bucket.style == "host",
        "conditional_put": "etag",  # whatever the environment says: without it, nothing would be safe
        "skip_signature": False,
    }
    if bucket.endpoint:
        scheme, _, host = bucket.endpoint.partition("://")
        config["endpoint"] = f"{scheme}://{bucket.name}.{host}" if bucket.style == "host" else bucket.endpoint
    if credentials.key_id:
        config |= {"access_key_id": credentials.key_id, "secret_access_key": credentials.secret}
    if credentials.token:
        config["token"] = credentials.token
    return S3Store(bucket.name, prefix=bucket.prefix, client_options=options, retry_config=_ONCE, **config)


def _google_store(bucket: Bucket, _: Credentials, options: "ClientConfig") -> "ObjectStore":
    return GCSStore(bucket.name, prefix=bucket.prefix, client_options=options, retry_config=_ONCE)


def _azure_store(bucket: Bucket, _: Credentials, options: "ClientConfig") -> "ObjectStore":
    config: dict[str, Any] = {}
    if bucket.account or "AZURE_STORAGE_ACCOUNT_NAME" in os.environ:
        config["account_name"] = bucket.account or os.environ["AZURE_STORAGE_ACCOUNT_NAME"]
    if bucket.endpoint:
        config["endpoint"] = bucket.endpoint
    return AzureStore(bucket.name, prefix=bucket.prefix, client_options=options, retry_config=_ONCE, **config)
