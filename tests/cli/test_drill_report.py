"""The report of a drill: a histogram, figures, and a sentence to act on."""

import re

import pytest

from backup_cli.drill.report import DrillReport, histogram, tell, verdict


def seen(latencies: list[float], differences: list[str]) -> DrillReport:
    return DrillReport(latencies, 2048, 93, 1000, 0.25, 1008, 4096, 36, 410, differences)


@pytest.mark.parametrize(
    ("median", "word"),
    [
        (0.0005, "good. This destination keeps up"),
        (0.005, "good"),
        (0.006, "fair. Good for a home node"),
        (0.020, "fair"),
        (0.050, "slow. Each commit waits 50.0 ms"),
        (0.100, "slow"),
        (0.300, "unfit. A commit takes 300.0 ms (at times 900.0 ms)"),
    ],
)
def test_verdict_follows_the_median_latency(median: float, word: str) -> None:
    assert verdict(median, 3 * median, []).startswith(f"Verdict: {word}")


def test_verdict_with_a_good_median_still_names_stalls() -> None:
    assert verdict(0.001, 0.6, []).startswith(
        "Verdict: uneven. A commit mostly takes 1.0 ms, but one in a hundred 600.0"
    )
    assert "every 7th payment" in verdict(0.001, 0.6, [])
    assert verdict(0.001, 0.4, []).startswith("Verdict: good")
    assert verdict(0.3, 4.0, []).startswith("Verdict: unfit")


def test_verdict_on_a_restore_that_differs_is_never_good() -> None:
    assert "do not use this destination" in verdict(0.0001, 0.0001, ["vars: one row is missing"])


def test_report_names_latencies_sizes_and_restored_version(capsys: pytest.CaptureFixture[str]) -> None:
    tell(seen([0.001] * 98 + [0.003, 0.2], []))
    said = capsys.readouterr().out
    assert "1.0 ms median, 200.0 ms at 99 %, 200.0 ms at most" in said
    assert "about 75 a second" in said, "a payment makes 13.4 changes: 1 s / (1 ms × 13.4)"
    assert "a snapshot of 2.0 KiB; after it 93 bytes for 1000 bytes of SQL (9.3 %)" in said
    assert "version 1008, 4.0 KiB in 0.25 s" in said
    assert said.splitlines()[-2] == "identical" and said.splitlines()[-1].startswith("Verdict: good")


def test_report_lists_the_differences_of_a_restore(capsys: pytest.CaptureFixture[str]) -> None:
    tell(seen([0.001], ["vars: one row is missing"]))
    said = capsys.readouterr().out
    assert "DIFFERENT: vars: one row is missing" in said and "\nnot identical\n" in said


def test_histogram_counts_every_commit_once_and_has_no_empty_ends(capsys: pytest.CaptureFixture[str]) -> None:
    histogram(sorted([0.0003] * 40 + [0.0015] * 20 + [0.0005] + [2.0]))
    rows = re.findall(r"^ *(to|over) ([\d.]+) ms (#*) +(\d+)$", capsys.readouterr().out, re.M)
    assert [(word, edge, len(bar), int(count)) for word, edge, bar, count in rows if count != "0"] == [
        ("to", "0.5", 40, 40),
        ("to", "1.0", 1, 1),
        ("to", "2.0", 20, 20),
        ("over", "1000.0", 1, 1),
    ]
    assert sum(int(count) for *_, count in rows) == 62
