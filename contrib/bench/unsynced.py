"""(d) A plugin that appends each change to a file, uncompressed and never synced, as the older plugin does."""

import os
from typing import Any

from pyln.client import Plugin

plugin = Plugin(dynamic=False)
descriptor = os.open("unsynced.bkp", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@plugin.hook("db_write")  # type: ignore[untyped-decorator]
def db_write(data_version: int, writes: list[str], **_: Any) -> dict[str, str]:
    """Append the change, which is lost if the power fails, and answer `continue`."""
    text = "\0".join(writes).encode()
    os.write(descriptor, b"%08x%08x" % (len(text), data_version) + text)
    return {"result": "continue"}


plugin.run()
