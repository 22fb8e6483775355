"""As whom a bucket is used: the environment, or a profile in the files that AWS's own tools use.

Roles of machines and containers, and web identities, are obstore's business: it finds them when nothing else is there.
obstore does not read ~/.aws, so that is done here. No secret is ever part of a message.
"""

import os
from configparser import ConfigParser, Error
from dataclasses import dataclass
from pathlib import Path

from backends.errors import BackupError
from backends.storage.s3.bucket import Bucket
from backends.text import printable

_ELSEWHERE = ("role_arn", "sso_session", "sso_start_url", "sso_account_id", "credential_process", "source_profile")
"""What a profile may have instead of keys, and needs AWS's own tools."""

_BY_LIBRARY = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Credentials in the environment that obstore uses itself."""

_ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""What names the store in the environment. The last one is known to obstore only, which would go there unasked: it must
be said, and recorded, where the bucket is."""

_MAX_LISTED = 1 << 20
"""Bytes of the largest file whose profiles are listed."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where credentials come from, and the keys if this program has read them itself."""

    source: str
    """As a clause for people: "the profile backup in ~/.aws/credentials"."""

    key_id: str = ""
    secret: str = ""
    token: str = ""
    region: str = ""
    endpoint: str = ""
    profile: str = ""
    """The profile that the environment names, if the keys are from that."""

    def describe(self) -> str:
        """The source and, so that a person can tell keys apart, how the key's id begins."""
        return f"{self.source} (access key {printable(self.key_id[:8])}...)" if self.key_id else self.source

    def __repr__(self) -> str:
        return f"Credentials({self.describe()!r})"


def credentials_for(bucket: Bucket) -> Credentials:
    """The credentials for this S3 bucket, read anew. Raises BackupError if a profile cannot be used."""
    asked = bucket.profile or ("" if _in_environment() else os.environ.get("AWS_PROFILE", ""))
    settings = _profile(asked or "default")
    if asked and settings is None:
        raise BackupError(
            f"there is no profile {asked!r} in {credentials_file()} or {config_file()} (read as the user that runs "
            f"this). Nothing was changed; add it there, or name another with ?profile="
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    endpoint = next((os.environ[name] for name in _ENDPOINT if os.environ.get(name)), "")
    found = settings or {}
    if bucket.profile:  # what was asked for by name comes before what happens to be in the environment
        region, endpoint = found.get("region", region), found.get("endpoint_url", endpoint)
    region, endpoint = region or found.get("region", ""), endpoint or found.get("endpoint_url", "")
    if not bucket.profile and os.environ.get("AWS_ACCESS_KEY_ID"):
        return Credentials(
            FROM_ENVIRONMENT,
            os.environ["AWS_ACCESS_KEY_ID"],
            os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            os.environ.get("AWS_SESSION_TOKEN", ""),
            region,
            endpoint,
        )
    if settings is not None and not (_in_environment() and not bucket.profile):
        return _from_profile(asked or "default", settings, region, endpoint, asked=bool(asked))
    return Credentials(_LIBRARY, region=region, endpoint=endpoint)


FROM_ENVIRONMENT = "AWS_ACCESS_KEY_ID in the environment"

_LIBRARY = "the role of this machine or container"


def _from_profile(name: str, settings: dict[str, str], region: str, endpoint: str, *, asked: bool) -> Credentials:
    if _has_keys(settings):
        key_id, secret = settings["aws_access_key_id"], settings["aws_secret_access_key"]
        token = settings.get("aws_session_token", "")
        source = f"the profile {name} in {credentials_file()}"
        return Credentials(source, key_id, secret, token, region, endpoint, name if asked else "")
    if asked or any(setting in settings for setting in _ELSEWHERE):
        raise BackupError(
            f"the profile {name} has no aws_access_key_id and aws_secret_access_key in {credentials_file()}; profiles "
            "that get their keys by a role, single sign-on or a program are not supported. Nothing was changed; make "
            "an access key for this backup, and put it there"
        )
    return Credentials(_LIBRARY, region=region, endpoint=endpoint)


def _in_environment() -> bool:
    return any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", *_BY_LIBRARY))


def usable_profiles() -> list[str]:
    """The profiles that a URL may name: those that have keys. None of a file that cannot be read or understood."""
    try:
        config, keys = (  # a FIFO is passed over: opening it would wait
            _sections(path) if path.is_file() and path.stat().st_size <= _MAX_LISTED else {}
            for path in (config_file(), credentials_file())
        )
    except (BackupError, OSError):
        return []
    names = [*keys, *(section.removeprefix("profile ").strip() for section in config)]
    return [name for name in dict.fromkeys(names) if _has_keys(_merged(config, keys, name) or {})]


def _has_keys(settings: dict[str, str]) -> bool:
    return bool(settings.get("aws_access_key_id") and settings.get("aws_secret_access_key"))


def _profile(name: str) -> dict[str, str] | None:
    """What both files say of this profile; None if neither knows it."""
    return _merged(_sections(config_file()), _sections(credentials_file()), name)


_Sections = dict[str, dict[str, str]]


def _merged(config: _Sections, keys: _Sections, name: str) -> dict[str, str] | None:
    found = [
        each
        for each in (config.get(name if name == "default" else f"profile {name}"), keys.get(name))
        if each is not None
    ]
    if not found:
        return None
    return {key: value for each in found for key, value in each.items()}


def _sections(path: Path) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, default_section="\0", strict=False)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (Error, UnicodeDecodeError):  # the parser's message quotes the line, which may be a key
        raise BackupError(f"{path} cannot be understood. Nothing was changed; correct it, then try again") from None
    except OSError as error:
        raise BackupError(
            f"{path} cannot be read: {error.strerror}. Nothing was changed; make it readable for the user that "
            "lightningd runs as, then try again"
        ) from error
    return {section: dict(parser[section]) for section in parser.sections()}


def credentials_file() -> Path:
    """Where this user's profiles have their keys, as AWS's own tools look for it."""
    return _file("AWS_SHARED_CREDENTIALS_FILE", "credentials")


def config_file() -> Path:
    """Where this user's profiles have everything else."""
    return _file("AWS_CONFIG_FILE", "config")


def _file(variable: str, name: str) -> Path:
    try:
        return Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser()
    except RuntimeError:  # a user without a home directory
        return Path("/nonexistent") / name
