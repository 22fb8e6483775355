"""Answering a call from lightningd."""

from typing import Any

from plugin.pyln_client import Request, RequestState, RpcException


def answer(request: Request, result: dict[str, Any]) -> None:
    """Write the answer; `continue` lets lightningd commit. Does nothing when the watchdog has answered already."""
    try:
        request.set_result(result)
    except (ValueError, AssertionError):
        if request.state is RequestState.PENDING:
            raise


def refuse(request: Request, code: int, why: str) -> None:
    """Answer with a JSON-RPC error."""
    try:
        raise RpcException(why, code)
    except RpcException as error:  # pyln-client adds the traceback of the exception being handled
        request.set_exception(error)
