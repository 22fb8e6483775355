#!/usr/bin/env python3
"""A plugin whose hook only answers: the minimal cost of any `db_write` plugin based on pyln-client."""

from typing import Any

from pyln.client import Plugin


def db_write(plugin: Plugin, data_version: int, writes: list[str], **kwargs: Any) -> dict[str, str]:
    return {"result": "continue"}


plugin = Plugin(dynamic=False)
plugin.add_hook("db_write", db_write)
plugin.run()
