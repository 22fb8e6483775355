"""libpq, as psycopg brings it: nothing but its functions is needed.

`import psycopg` loads much more than that (all of its second, asynchronous half, adapters for every type), which costs
a node 5 MiB for good, and each start 60 ms. So the package is entered without executing its `__init__`. What is left
loads three large modules for a name or two each (asyncio for one exception, importlib.metadata for the package's own
version, typing_extensions for annotations), which are 6 MiB more: it gets these names from stand-ins, which are gone
when it is loaded. Where a release of psycopg does not allow that, it is imported as usual.
"""

import importlib
import importlib.util
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backends.errors import MissingExtra


def _type_variable(name: str, *constraints: Any, default: object = None, **named: Any) -> object:
    """typing's, which knows no default before Python 3.13. Nothing asks for one while a program runs."""
    return typing.TypeVar(name, *constraints, **named)


class _CancelledError(BaseException):
    """Raised by nobody: nothing here is asynchronous."""


_STAND_INS: dict[str, dict[str, object]] = {
    "asyncio": {"CancelledError": _CancelledError},
    "importlib.metadata": {"version": lambda _: "0", "PackageNotFoundError": ImportError},
    "typing_extensions": {"TypeVar": _type_variable, "Self": Any, "LiteralString": str},
}
"""Modules, and what psycopg.pq and psycopg.errors take from them."""


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Instead of these modules, as far as nobody has loaded them yet, let others import what stands in for them."""
    missing = [name for name in _STAND_INS if name not in sys.modules]
    for name in missing:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(_STAND_INS[name])
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


if TYPE_CHECKING:
    from psycopg import pq
    from psycopg.errors import Error
else:
    _PACKAGE = "psycopg"
    _IMPLEMENTATIONS = ("psycopg_c", "psycopg_binary")

    def _without_the_rest() -> None:
        """Import `psycopg.pq` alone, unless something of the package is loaded. Raises ImportError."""
        if _PACKAGE in sys.modules:
            return
        found = importlib.util.find_spec(_PACKAGE)
        if found is None:
            raise ImportError(f"no {_PACKAGE}")
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(found)
        try:
            with _stand_ins():
                importlib.import_module(f"{_PACKAGE}.pq")
                importlib.import_module(f"{_PACKAGE}.errors")
        except Exception:
            for name in [each for each in sys.modules if each.partition(".")[0] in (_PACKAGE, *_IMPLEMENTATIONS)]:
                del sys.modules[name]

    try:
        _without_the_rest()
        pq = importlib.import_module(f"{_PACKAGE}.pq")
        Error = importlib.import_module(f"{_PACKAGE}.errors").Error
    except ImportError as error:
        raise MissingExtra("postgres://", "psycopg", "postgres") from error

__all__ = ["Error", "pq"]
