"""Which bucket a URL names, and how it is reached."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from backends.commit_timeout import commit_timeout_of
from backends.near_miss import without_secrets
from backends.urls import BadURL, Destination

S3, GOOGLE, AZURE = "s3", "gs", "az"

_OPTIONS = {
    S3: ("endpoint", "region", "style", "profile", "timeout"),
    GOOGLE: ("timeout",),
    AZURE: ("account", "endpoint", "timeout"),
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PREFIX = re.compile(r"[A-Za-z0-9._+=@-]+(/[A-Za-z0-9._+=@-]+)*")

_SECRET = re.compile(r".*(secret|password|access_key|token|sig|signature|account_key)=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, and the prefix in it below which one backup is. Empty fields are left to the environment."""

    scheme: str
    name: str
    prefix: str
    endpoint: str
    region: str
    style: str
    """"path" or "host": whether the bucket's name is part of the path or of the host name; empty by default."""

    profile: str
    account: str
    timeout: float
    """Seconds that a commit may wait."""

    def describe(self) -> str:
        """The place as a person would name it."""
        where = f" at {self.endpoint}" if self.endpoint else ""
        return f"{self.scheme}://{self.name}/{self.prefix}{where}"


def bucket_of(destination: Destination) -> Bucket:
    """The bucket that this URL names. Raises BadURL."""
    _check_no_secret(destination)
    destination.allow_options(*_OPTIONS[destination.scheme])
    prefix = str(destination.path).strip("/")
    if not _NAME.fullmatch(destination.host):
        raise BadURL(
            f"{destination.shown}: {destination.shown_host!r} is not the name of a bucket; {_like(destination.scheme)}"
        )
    if not prefix:
        # The root of a bucket is no place for a backup: what clears a failed `init` away would clear the bucket.
        raise BadURL(f"{destination.shown} names a whole bucket; {_like(destination.scheme)}")
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise BadURL(
            f"{destination.shown}: in a bucket, name the backup by letters, digits and . _ - + = @ between slashes; "
            f"{_like(destination.scheme)}"
        )
    style = destination.option("style", "")
    if style not in ("", "path", "host"):
        raise BadURL(f"{destination.shown}: style={style} is not known; write style=path or style=host")
    return Bucket(
        destination.scheme,
        destination.host,
        prefix,
        checked_endpoint(destination.option("endpoint", ""), destination.shown),
        destination.option("region", ""),
        style,
        destination.option("profile", ""),
        destination.option("account", ""),
        commit_timeout_of(destination),
    )


def checked_endpoint(endpoint: str, where: str) -> str:
    """The endpoint without a slash at its end. `where` is what names it, for the error. Raises BadURL."""
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username is not None:
        shown = without_secrets(f"?endpoint={endpoint}")[1:]
        raise BadURL(f"{where}: {shown} is not like https://s3.example.org or http://127.0.0.1:9000")
    return endpoint.rstrip("/")


def _check_no_secret(destination: Destination) -> None:
    query = "&".join(f"{name}={value}" for name, value in destination.options)
    if {"@", ":"} & set(destination.host) or _SECRET.match(query):
        raise BadURL(
            f"this {destination.scheme}:// URL contains a key or a password. It would be stored in backup.lock and "
            f"shown in messages; leave it out of the URL, and put it into {WHERE_SECRETS_BELONG[destination.scheme]}"
        )


WHERE_SECRETS_BELONG = {
    S3: "~/.aws/credentials of the user that lightningd runs as, or into the environment (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY)",
    GOOGLE: "the file that GOOGLE_APPLICATION_CREDENTIALS names in the environment of lightningd",
    AZURE: "the environment of lightningd (AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY)",
}


def _like(scheme: str) -> str:
    return f"write it like {scheme}://BUCKET/lightning.bkp"
