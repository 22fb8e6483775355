"""A short run of the model of several destinations; `make members-model` is the long one. A failure names the seed."""

import pytest

from tests.members.history import History
from tests.members.model import first_that_loses

CAUGHT_WITHIN = {
    "no-epoch": 300,
    "longest-wins": 50,
    "start-alone": 50,
    "ack-before-epoch": 50,
    "rejoin-early": 50,
    "no-intent": 200,
    "in-sync-only": 50,
    "no-session-in-epoch": 50,
    "overwrite-unknown": 200,
    "trailing-document-early": 100,
    "copy-before-document": 100,
    "join-acks-without-old": 200,
    "join-acks-without-new": 200,
    "resuming-without-adopting": 50,
    "numbers-only": 50,
    "epoch-0-counts": 100,
}
"""The rules whose absence a few histories show, and how many they may be. `make members-model` does all of them."""


def test_random_histories_with_all_rules_lose_nothing() -> None:
    lost = {seed: outcome.lost for seed in range(400) if (outcome := History(seed).run()).lost}
    assert lost == {}


@pytest.mark.parametrize("variant", CAUGHT_WITHIN)
def test_rule_stubbed_out_loses_in_some_history(variant: str) -> None:
    assert first_that_loses(variant, CAUGHT_WITHIN[variant]) is not None


def test_histories_acknowledge_restore_and_tell_two_nodes_apart() -> None:
    outcomes = [History(seed).run() for seed in range(100)]
    assert sum(outcome.acknowledged for outcome in outcomes) > 300
    assert sum(outcome.restored for outcome in outcomes) > 100
    assert sum(outcome.diverged for outcome in outcomes) > 10
