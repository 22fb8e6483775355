"""lightningd's protocol, from pyln-client, without what the rest of that package loads.

`import pyln.client` also loads a reader of gossip, and with that ciphers, curves and message types that no call needs:
12 MiB of a node's memory for good, and more than half of the time until the manifest, for which all of lightningd
waits. So the package is entered without executing its `__init__`, which is executed once somebody asks for anything
else in it. Where a release of pyln-client does not allow that, it is imported as usual.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyln.client.lightning import LightningRpc
    from pyln.client.plugin import Plugin, Request, RequestState, RpcException
else:
    _PACKAGE = "pyln.client"

    def _without_the_rest() -> ModuleType:
        """The module `pyln.client.plugin`, imported alone unless the package is loaded. Raises ImportError."""
        found = None if _PACKAGE in sys.modules else importlib.util.find_spec(_PACKAGE)
        if found is None or found.loader is None:
            return importlib.import_module(f"{_PACKAGE}.plugin")
        package = importlib.util.module_from_spec(found)

        def all_of_it(name: str) -> Any:
            """Execute the package, once, for a name that it lacks so far."""
            del package.__getattr__
            found.loader.exec_module(package)
            return getattr(package, name)

        package.__getattr__ = all_of_it
        sys.modules[_PACKAGE] = sys.modules["pyln"].client = package
        try:
            return importlib.import_module(f"{_PACKAGE}.plugin")
        except Exception:
            for name in [each for each in sys.modules if each == _PACKAGE or each.startswith(f"{_PACKAGE}.")]:
                del sys.modules[name]
            return importlib.import_module(f"{_PACKAGE}.plugin")

    _plugin = _without_the_rest()
    Plugin, Request = _plugin.Plugin, _plugin.Request
    RequestState, RpcException = _plugin.RequestState, _plugin.RpcException
    LightningRpc = _plugin.LightningRpc

__all__ = ["LightningRpc", "Plugin", "Request", "RequestState", "RpcException"]
