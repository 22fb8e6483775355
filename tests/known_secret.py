"""A known `hsm_secret`, and the recorded node with the id that belongs to it: the recorded node's own secret is
unknown."""

import gzip

from tests.fake_lightningd import RECORDED_DATABASE

SECRET = bytes(range(32))
NODE_ID = "02b2f83174660be98aca0f6ae36ed2c8eb33af0e3783a31b6f6b6816fa074054c7"
"""The node id that lightningd derives from SECRET."""

RECORDED_NODE_ID = "03b2d8e5bddf0fdfeac9cd783d2d90303308d822edab28073fd4c7a6aad02d6329"


def known_database() -> bytes:
    """The recorded node's database, as if SECRET had been its own."""
    recorded = gzip.decompress(RECORDED_DATABASE.read_bytes())
    old = bytes.fromhex(RECORDED_NODE_ID)
    assert recorded.count(old) == 1
    return recorded.replace(old, bytes.fromhex(NODE_ID))


def known_writes(writes: list[str]) -> list[str]:
    """The statements of a recorded call, with NODE_ID instead of the recorded id."""
    return [statement.replace(RECORDED_NODE_ID, NODE_ID) for statement in writes]
