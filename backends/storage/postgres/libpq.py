"""libpq, as psycopg brings it: nothing but its functions is needed.

`import psycopg` loads much more than that (all of its second, asynchronous half, adapters for every type), which costs
a node 5 MiB for good, and each start 60 ms. So the package is entered without executing its `__init__`. Where a release
of psycopg does not allow that, it is imported as usual.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

from backends.errors import MissingExtra

if TYPE_CHECKING:
    from psycopg import pq
    from psycopg.errors import Error
else:
    _PACKAGE = "psycopg"

    def _without_the_rest() -> None:
        """Import `psycopg.pq` alone, unless something of the package is loaded. Raises ImportError."""
        if _PACKAGE in sys.modules:
            return
        found = importlib.util.find_spec(_PACKAGE)
        if found is None:
            raise ImportError(f"no {_PACKAGE}")
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(found)
        try:
            importlib.import_module(f"{_PACKAGE}.pq")
            importlib.import_module(f"{_PACKAGE}.errors")
        except Exception:
            for name in [each for each in sys.modules if each.partition(".")[0] == _PACKAGE]:
                del sys.modules[name]

    try:
        _without_the_rest()
        pq = importlib.import_module(f"{_PACKAGE}.pq")
        Error = importlib.import_module(f"{_PACKAGE}.errors").Error
    except ImportError as error:
        raise MissingExtra("postgres://", "psycopg", "postgres") from error

__all__ = ["Error", "pq"]
