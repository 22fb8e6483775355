"""What a bucket costs a month: the estimate that `init` gives, and what docs/s3.md says of it."""

from pathlib import Path

import pytest

from backends.storage.s3.cost import AMAZON, NOTHING_FOR_READING_BACK, SPACE_ONLY, Prices, Usage, estimate, usage
from backup_cli.drill.report import CALLS_PER_PAYMENT

PAGE = (Path(__file__).parents[2] / "docs" / "s3.md").read_text()


def test_each_commit_is_a_request_that_writes_and_one_that_reads() -> None:
    quiet, busy = usage(0), usage(1000)
    commits = 1000 * 30 * CALLS_PER_PAYMENT
    assert busy.puts - quiet.puts == pytest.approx(commits, rel=0.001)
    assert busy.gets - quiet.gets == pytest.approx(commits, rel=0.001)


def test_idle_node_asks_three_times_a_minute() -> None:
    assert usage(0).gets == 30 * 86400 / 60 * 3
    assert usage(0).puts == 0


def test_requests_space_and_what_is_read_back_are_paid_for() -> None:
    prices = Prices("one", "2025", put=1.0, get=0.1, stored=10.0, sent=100.0)
    assert Usage(puts=2000, gets=3000, stored=2e9, sent=1e8).cost(prices) == pytest.approx(2 + 0.3 + 20 + 10)


def test_estimate_is_one_line_with_what_it_is_based_on() -> None:
    said = estimate()
    assert "\n" not in said
    assert "1,000 payments a day" in said
    assert "0.9 million requests a month" in said
    assert f"{usage().cost(AMAZON):.2f} USD" in said
    assert said.isascii()


@pytest.mark.parametrize("prices", [AMAZON, NOTHING_FOR_READING_BACK, SPACE_ONLY], ids=lambda prices: prices.provider)
def test_page_shows_what_the_estimate_gives(prices: Prices) -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {prices.provider}"))
    costs = [
        f"{usage(payments, snapshot).cost(prices):.2f}" for payments, snapshot in ((10, 20 << 20), (1000, 100 << 20))
    ]
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == costs
