"""(a) A plugin that only answers: what pyln-client and the pipe cost."""

from typing import Any

from pyln.client import Plugin

plugin = Plugin(dynamic=False)


@plugin.hook("db_write")  # type: ignore[untyped-decorator]
def db_write(data_version: int, writes: list[str], **_: Any) -> dict[str, str]:
    """Answer `continue` and save nothing."""
    return {"result": "continue"}


plugin.run()
