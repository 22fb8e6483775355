"""How lightningd's parameters reach the hook, through pyln-client."""

import inspect
from typing import Any

import pytest
from pyln.client.plugin import Request

from plugin.answers import answer
from plugin.main import _ByName

pytestmark = pytest.mark.usefixtures("cold")


def hook(request: str, data_version: int, writes: list[str], **_: Any) -> tuple[str, int, list[str]]:
    return request, data_version, writes


SIGNATURE = _ByName(list(inspect.signature(hook).parameters.values()))


def test_hook_parameters_by_name_are_bound_despite_unknown_ones() -> None:
    bound = SIGNATURE.bind(writes=["x"], data_version=7, request="r", of_a_later_release=True)
    assert hook(*bound.args, **bound.kwargs) == ("r", 7, ["x"])
    bound.arguments["data_version"] = 8  # as pyln-client does with amounts
    assert hook(*bound.args, **bound.kwargs) == ("r", 8, ["x"])


def test_hook_parameters_by_position_are_bound() -> None:
    bound = SIGNATURE.bind("r", 7, writes=["x"])
    assert hook(*bound.args, **bound.kwargs) == ("r", 7, ["x"])


def test_hook_parameter_that_is_missing_raises_type_error() -> None:
    bound = SIGNATURE.bind(request="r", data_version=7)
    with pytest.raises(TypeError, match="writes"):
        hook(*bound.args, **bound.kwargs)


class Written:
    """As much of a Plugin as a Request needs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.answers: list[Any] = []
        self.error = error

    def _write_locked(self, answer: Any) -> None:
        if self.error is not None:
            raise self.error
        self.answers.append(answer)


def test_answer_already_given_by_the_watchdog_is_dropped_without_an_exception() -> None:
    """From a real failure: the second answer's ValueError reached the interpreter's exit and was dumped on stderr."""
    plugin = Written()
    request = Request(plugin, "x", "db_write", {}, background=True)
    request.set_result({"result": "fail"})
    answer(request, {"result": "continue"})
    assert [each["result"] for each in plugin.answers] == [{"result": "fail"}]


def test_answer_that_cannot_be_written_raises() -> None:
    request = Request(Written(BrokenPipeError()), "x", "db_write", {}, background=True)
    with pytest.raises(BrokenPipeError):
        answer(request, {"result": "continue"})
    with pytest.raises(ValueError, match="surrogates"):
        answer(Request(Written(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")), "x", "y", {}), {})
