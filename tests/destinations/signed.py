"""Requests of the S3 protocol, signed (AWS Signature Version 4): for what a test wants of a server directly."""

import hashlib
import hmac
import http.client
import time
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key and its secret."""

    key_id: str
    secret: str


class Response(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


def signed(
    port: int, keys: Keys, method: str, path: str, query: dict[str, str], body: bytes, headers: dict[str, str]
) -> Response:
    """Make one request to 127.0.0.1, on a connection of its own. `headers` have lower-case names. Raises OSError."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    digest = hashlib.sha256(body).hexdigest()
    sent = {"host": f"127.0.0.1:{port}", "x-amz-date": moment, "x-amz-content-sha256": digest, **headers}
    asked = "&".join(f"{quote(name, '')}={quote(value, '')}" for name, value in sorted(query.items()))
    names = ";".join(sorted(sent))
    lines = [method, quote(path), asked, *(f"{name}:{sent[name]}" for name in sorted(sent)), "", names, digest]
    scope = f"{moment[:8]}/{_REGION}/s3/aws4_request"
    request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for part in (moment[:8], _REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{request}".encode(), "sha256").hexdigest()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, quote(path) + (f"?{asked}" if asked else ""), body, sent)
        response = connection.getresponse()
        return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
