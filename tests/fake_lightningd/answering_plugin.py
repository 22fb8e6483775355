#!/usr/bin/env python3
"""A plugin whose hook only answers: what any `db_write` plugin on pyln-client costs at the least."""

from typing import Any

from pyln.client import Plugin


def db_write(plugin: Plugin, data_version: int, writes: list[str], **kwargs: Any) -> dict[str, str]:
    return {"result": "continue"}


plugin = Plugin(dynamic=False)
plugin.add_hook("db_write", db_write)
plugin.run()
