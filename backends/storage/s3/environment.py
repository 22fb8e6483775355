"""Which variables of this process's environment open a bucket. Their values are no business of this module."""

import os
from contextlib import suppress

from backends.errors import BackupError
from backends.storage.s3.bucket import AZURE, GOOGLE, Bucket
from backends.storage.s3.credentials import FROM_ENVIRONMENT, credentials_for

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_FILES = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")

_OF_LIBRARY = {
    GOOGLE: (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    AZURE: (
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_ID",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_STORAGE_TENANT_ID",
    ),
}
"""What obstore looks for itself."""


def variables_used(bucket: Bucket) -> tuple[str, ...]:
    """The names of those that open this bucket and are set. Raises nothing: who uses the bucket meets the rest."""
    if bucket.scheme in _OF_LIBRARY:
        known = _OF_LIBRARY[bucket.scheme]
        if bucket.account:  # the URL says whose it is
            known = tuple(name for name in known if name != "AZURE_STORAGE_ACCOUNT_NAME")
        return _set(known)
    with suppress(BackupError):
        credentials = credentials_for(bucket)
        if credentials.source == FROM_ENVIRONMENT:
            return _set(_KEYS)
        if credentials.key_id:  # a profile, in a file that the environment may name
            return _set(_FILES)
    return ()


def _set(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if os.environ.get(name))
