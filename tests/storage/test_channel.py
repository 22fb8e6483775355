"""Calls on a connection that breaks: what is in doubt, what is tried again, and for how long."""

import time
from collections.abc import Callable

import pytest

from backends.storage.channel import Channel, Disconnected, Refused, Unanswered, outcome_unknown
from backends.storage.deadline import for_a_message, not_after

TIMEOUT = 1.0


class Server:
    """A server that cannot be reached again while `away` is an error."""

    until = 0.0

    def __init__(self) -> None:
        self.sent = self.reconnected = 0
        self.away: Disconnected | None = None

    def reconnect(self, why: Disconnected) -> None:
        if self.away is not None:
            raise self.away
        self.reconnected += 1

    def close(self) -> None:
        pass


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def channel(server: Server) -> Channel[Server]:
    return Channel(lambda until: server, TIMEOUT)


def breaking(*, sent: bool) -> Callable[[Server], str]:
    """An operation during which the connection breaks, once it is sent or before that; the next time it works."""
    tried = []

    def operation(server: Server) -> str:
        tried.append(server)
        if len(tried) > 1:
            return "done"
        server.sent += sent
        raise Disconnected("the connection broke")

    return operation


def test_operation_of_which_a_part_may_have_been_sent_is_in_doubt(channel: Channel[Server]) -> None:
    assert channel.do(breaking(sent=True), lambda server: "settled") == "settled"


def test_operation_of_which_nothing_was_sent_is_in_no_doubt(channel: Channel[Server], server: Server) -> None:
    assert channel.do(breaking(sent=False), lambda server: "settled") == "done"
    assert server.reconnected == 1


def test_operation_is_in_no_doubt_when_what_was_put_off_before_it_fails(channel: Channel[Server]) -> None:
    channel.before_next(breaking(sent=True))
    assert channel.do(lambda server: "done", lambda server: "settled") == "done"


@pytest.mark.parametrize("sent", [True, False])
def test_unanswered_operation_is_in_doubt_only_if_it_was_sent(
    sent: bool, channel: Channel[Server], server: Server
) -> None:
    server.away = Disconnected("nobody is there")
    with pytest.raises(Unanswered, match="nobody is there") as caught:
        channel.do(breaking(sent=sent))
    assert outcome_unknown(caught.value) == sent


def test_server_that_refuses_is_tried_again_only_when_it_may_be(channel: Channel[Server], server: Server) -> None:
    began = time.monotonic()
    server.away = Refused("the key is refused", began + TIMEOUT / 2)
    tried = []

    def reconnect(why: Disconnected) -> None:
        tried.append(time.monotonic() - began)
        if len(tried) == 1:
            assert server.away is not None
            raise server.away

    server.reconnect = reconnect  # type: ignore[method-assign]
    channel.do(breaking(sent=True))
    assert len(tried) == 2
    assert tried[1] >= TIMEOUT / 2


def test_server_that_refuses_for_longer_than_the_timeout_is_given_up_at_once(
    channel: Channel[Server], server: Server
) -> None:
    began = time.monotonic()
    server.away = Refused("the key is refused", began + 2 * TIMEOUT)
    with pytest.raises(Unanswered, match="the key is refused"):
        channel.do(breaking(sent=True))
    assert time.monotonic() - began < TIMEOUT / 2


def test_thread_with_less_time_gives_up_earlier(channel: Channel[Server], server: Server) -> None:
    server.away = Disconnected("nobody is there")
    began = time.monotonic()
    with pytest.raises(Unanswered), not_after(began + TIMEOUT / 5), for_a_message():
        channel.do(breaking(sent=True))
    assert time.monotonic() - began < TIMEOUT / 2
    server.away = None
    assert channel.do(lambda server: server.until) > time.monotonic() + TIMEOUT / 2


def test_connection_that_works_is_not_used_without_time_for_an_answer(channel: Channel[Server], server: Server) -> None:
    """It would be given up while its answer is on the way."""
    channel.do(lambda server: None)
    with pytest.raises(Unanswered, match="no time left") as caught, not_after(time.monotonic()):
        channel.do(breaking(sent=True))
    assert not outcome_unknown(caught.value)
    assert server.sent == 0
