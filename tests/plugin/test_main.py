"""How lightningd's parameters reach the hook, through pyln-client."""

import inspect
from typing import Any

import pytest

from plugin.main import _ByName


def hook(request: str, data_version: int, writes: list[str], **_: Any) -> tuple[str, int, list[str]]:
    return request, data_version, writes


SIGNATURE = _ByName(list(inspect.signature(hook).parameters.values()))


def test_by_their_names_whatever_comes_besides() -> None:
    bound = SIGNATURE.bind(writes=["x"], data_version=7, request="r", of_a_later_release=True)
    assert hook(*bound.args, **bound.kwargs) == ("r", 7, ["x"])
    bound.arguments["data_version"] = 8  # as pyln-client does with amounts
    assert hook(*bound.args, **bound.kwargs) == ("r", 8, ["x"])


def test_by_their_places() -> None:
    bound = SIGNATURE.bind("r", 7, writes=["x"])
    assert hook(*bound.args, **bound.kwargs) == ("r", 7, ["x"])


def test_one_that_is_missing() -> None:
    bound = SIGNATURE.bind(request="r", data_version=7)
    with pytest.raises(TypeError, match="writes"):
        hook(*bound.args, **bound.kwargs)
