"""What a failed request means. obstore tells it in text only; everything that reads that text is here."""

import errno
import re
from dataclasses import dataclass
from enum import Enum, auto

from backends.storage.s3.bucket import WHERE_SECRETS_BELONG, Bucket
from backends.text import printable


class Kind(Enum):
    """What a caller can do about a failed request."""

    ABSENT = auto()
    """There is no such object."""

    CONDITION = auto()
    """A condition was not met: the object exists, or has another version."""

    CONFLICT = auto()
    """Another request for the same object was being carried out, so this one was not (409): try again."""

    UNREACHED = auto()
    """No connection: nothing was sent, so nothing was done."""

    LOST = auto()
    """No answer, or one that does not say whether it was done: try again, and look."""

    REFUSED = auto()
    """The store said no, and will say so again."""


PASSING = frozenset({Kind.CONFLICT, Kind.UNREACHED, Kind.LOST})
"""The kinds after which a request is tried again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about a failed request. `status` is 0 if there was no answer."""

    kind: Kind
    status: int
    code: str
    """The store's own word for the error, "" if it gave none."""

    detail: str
    """What happened, as a clause for people: no secret, no multi-line text."""

    region: str = ""
    """The region that the store named instead."""


class Fault(Exception):
    """A request that failed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer
        self.kind = answer.kind


_STATUS = re.compile(r"status code: (\d{3})|inner: Status \{\s*status: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>")
_TRANSPORT = re.compile(r"kind: (Connect|Timeout|Interrupted|Decode|Request|Unknown)\b")
_METADATA = re.compile(
    r"169\.254\.\d+\.\d+|metadata\.google\.internal|fd00:ec2::254|/latest/api/token|login\.microsoftonline"
)

_QUERY = re.compile(r"\?\S+")
"""The query of a URL: for some stores, a signature."""

_ABSENT = frozenset({"NoSuchKey", "BlobNotFound"})
_AGAIN = frozenset(
    {
        "RequestTimeout",
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "ServerBusy",
        "OperationTimedOut",
        "OperationAborted",
        "RequestTimeTooSlow",
    }
)
_AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_CONNECTION = (
    ("dns error", "its name cannot be resolved"),
    ("Connection refused", "the connection was refused"),
    ("NotValidForName", "its certificate is for another name"),
    ("UnknownIssuer", "its certificate is from an issuer that this machine does not know"),
    ("Expired", "its certificate has expired"),
    ("InvalidContentType", "it does not speak TLS there: is it http:// instead of https://?"),
    ("NetworkUnreachable", "the network cannot be reached"),
    ("HostUnreachable", "the host cannot be reached"),
    ("timed out", "the connection could not be made in time"),
)


def answer_of(error: Exception) -> Answer:
    """What an exception of obstore means."""
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else 0
    code = match[1] if (match := _CODE.search(text)) else ""
    if _METADATA.search(text):
        return Answer(Kind.REFUSED, 0, NO_CREDENTIALS, "no credentials were found")
    if status:
        region = match[1] if (match := _REGION.search(text)) else ""
        return Answer(_kind(status, code), status, code, f"it answered {status}{f' {code}' if code else ''}", region)
    if "redirect without LOCATION" in text:  # Amazon's answer for a bucket of another region
        return Answer(Kind.REFUSED, 301, "PermanentRedirect", "it answered 301")
    if isinstance(error, FileNotFoundError):
        return Answer(Kind.ABSENT, 404, "", "there is no such object")
    transport = match[1] if (match := _TRANSPORT.search(text)) else ""
    if transport == "Connect":
        why = next((clause for mark, clause in _CONNECTION if mark in text), "no connection could be made")
        return Answer(Kind.UNREACHED, 0, "", why)
    if transport == "Timeout" or "TimedOut" in text:
        return Answer(Kind.LOST, 0, "", "it did not answer in time")
    if transport:
        return Answer(Kind.LOST, 0, "", "the connection was cut")
    first = _QUERY.sub("", text.partition("\n")[0]) or type(error).__name__
    return Answer(Kind.REFUSED, 0, "", printable(first, 200))


NO_CREDENTIALS = "NoCredentials"


def _kind(status: int, code: str) -> Kind:
    if status in (304, 412):
        return Kind.CONDITION
    if status == 409:
        # Azure says "exists" with 409; S3 says that two conditional requests met, or that something else goes on.
        return Kind.CONDITION if code in ("BlobAlreadyExists", "ConditionNotMet") else Kind.CONFLICT
    if status == 404 and code in _ABSENT:
        return Kind.ABSENT
    if status in _AGAIN_STATUS or code in _AGAIN:
        return Kind.LOST
    return Kind.REFUSED


STALE_CREDENTIALS = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"})
"""The codes after which credentials may have been replaced by new ones since they were read."""


def error_of(answer: Answer, bucket: Bucket, who: str, tried: float) -> OSError:
    """The error for people. `who` says which credentials were used; `tried` is for how many seconds."""
    if answer.kind is Kind.ABSENT:
        return FileNotFoundError(errno.ENOENT, "there is no such object")
    if answer.kind is Kind.UNREACHED:
        return TimeoutError(errno.ETIMEDOUT, f"the store cannot be reached: {answer.detail}{_for(tried)}")
    if answer.kind in PASSING:
        doubt = f"nobody knows whether it did, or still will, what was asked{_for(tried)}"
        return TimeoutError(errno.ETIMEDOUT, f"the store does not answer as it should: {answer.detail}, and {doubt}")
    number, sentence = _REFUSALS.get(answer.code, (errno.EIO, f"the store refused: {answer.detail}"))
    if answer.code not in _REFUSALS and answer.status in (401, 403):
        number, sentence = _REFUSALS["AccessDenied"]
    if answer.code not in _REFUSALS and answer.status in (301, 307, 308):
        number, sentence = _REFUSALS["PermanentRedirect"]
    region = f" (the store says: region={answer.region})" if answer.region else ""
    return OSError(
        number,
        sentence.format(
            bucket=bucket.name, who=who, where=WHERE_SECRETS_BELONG[bucket.scheme], region=region, detail=answer.detail
        ),
    )


def _for(tried: float) -> str:
    return f" (tried for {tried:.0f} s)" if tried >= 1 else ""


_NEEDS = "it needs to list the bucket, and to get, put and delete objects in it"

_REFUSALS = {
    "AccessDenied": (errno.EKEYREJECTED, "the store refuses {who} here ({detail}): " + _NEEDS),
    "InvalidAccessKeyId": (errno.EKEYREJECTED, "the store does not know the access key of {who}"),
    "SignatureDoesNotMatch": (errno.EKEYREJECTED, "the secret key does not belong to the access key of {who}"),
    "ExpiredToken": (errno.EKEYREJECTED, "the session token of {who} has expired"),
    "NoCredentials": (errno.EKEYREJECTED, "no credentials were found: put them into {where}"),
    "RequestTimeTooSkewed": (
        errno.EKEYREJECTED,
        "this machine's clock differs from the store's by more than 15 minutes, "
        "and the store refuses such requests: set the clock (timedatectl)",
    ),
    "NoSuchBucket": (errno.ENXIO, "there is no bucket {bucket} there: create it first, or correct the URL"),
    "ContainerNotFound": (errno.ENXIO, "there is no container {bucket} there: create it first, or correct the URL"),
    "PermanentRedirect": (errno.ENXIO, "the bucket {bucket} is in another region{region}: name that one with ?region="),
    "AuthorizationHeaderMalformed": (
        errno.ENXIO,
        "the bucket {bucket} is in another region{region}: name that one with ?region=",
    ),
    "InvalidBucketName": (errno.ENXIO, "{bucket} is not the name of a bucket for this store"),
    "QuotaExceeded": (errno.EDQUOT, "the quota of the bucket {bucket} or of its user is used up"),
    "InsufficientCapacity": (errno.ENOSPC, "the store is full"),
    "XMinioStorageFull": (errno.ENOSPC, "the store is full"),
    "NotImplemented": (errno.EOPNOTSUPP, "the store does not have a function that a backup needs ({detail})"),
    "InvalidObjectState": (errno.EIO, "an object of the backup has been moved to an archive: restore it there first"),
}
"""The store's word → errno, and what it means for people."""
