"""Plugins that misbehave: a few methods, and a hook with a line of code from the test."""

import sys
from pathlib import Path

_PLUGIN = """
import os, sys, time
from pyln.client import Plugin
plugin = Plugin(dynamic=False)
seen = []
def db_write(plugin, data_version, writes, **kwargs):
    seen.append(data_version)
    {hook}
    return {{"result": "continue"}}
def heard(plugin, **kwargs): plugin.log("heard " + str(kwargs.get("block")))
plugin.add_hook("db_write", db_write)
plugin.add_method("seen", lambda plugin, **kwargs: {{"seen": seen, "directory": os.getcwd()}})
plugin.add_method("fail", lambda plugin, **kwargs: 1 / 0)
plugin.add_subscription("block_added", heard)
def goodbye(plugin, **kwargs):
    plugin.log("goodbye")
    {shutdown}
plugin.add_subscription("shutdown", goodbye)
plugin.add_option("colour", "blue", "an option")
def init(options, configuration, plugin, **kwargs): plugin.log("init " + options["colour"] + " " + plugin.lightning_dir)
plugin.child_init = init
plugin.run()
"""


def scripted_plugin(directory: Path, hook: str = "pass", shutdown: str = "sys.exit(0)") -> list[str]:
    """The command of a plugin that runs `hook` in its hook, then answers "continue", and runs `shutdown` at the end.

    It is written to `plugin.py` in `directory`. Both lines may use `plugin`, `os`, `sys` and `time`; `hook` also
    `data_version` and `writes`. The plugin logs "init COLOUR DIRECTORY", "heard BLOCK" (of a `block_added`) and
    "goodbye", and has the methods `seen` (the versions so far, and its working directory) and `fail`.
    """
    path = directory / "plugin.py"
    path.write_text(_PLUGIN.format(hook=hook, shutdown=shutdown))
    return [sys.executable, str(path)]
