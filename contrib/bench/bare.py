"""(e) A plugin that only writes 512 bytes and syncs: the minimum cost of any durable hook on this machine."""

import os
from typing import Any

from pyln.client import Plugin

CALLS = 1 << 14

plugin = Plugin(dynamic=False)
descriptor = os.open("bare.bkp", os.O_RDWR | os.O_CREAT, 0o600)
os.pwrite(descriptor, bytes(512 * CALLS), 0)
os.fsync(descriptor)
calls = 0


@plugin.hook("db_write")  # type: ignore[untyped-decorator]
def db_write(data_version: int, writes: list[str], **_: Any) -> dict[str, str]:
    """Write 512 bytes that mean nothing, sync them, and answer `continue`."""
    global calls
    os.pwrite(descriptor, b"x" * 512, 512 * (calls % CALLS))
    os.fdatasync(descriptor)
    calls += 1
    return {"result": "continue"}


plugin.run()
