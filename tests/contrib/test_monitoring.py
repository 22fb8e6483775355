"""`status --prometheus`, and the rules and the dashboard that read it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from backends.errors import Damaged, Unreachable
from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import Trouble, TroubleKind
from backends.log.status_of_members import with_members
from backends.storage.local import LocalStorage
from backup_cli.main import cli
from backup_cli.prometheus import HELP, HELP_OF_A_COPY, HELP_OF_A_MEMBER, HELP_OF_MEMBERS, PREFIX, metrics, unreadable
from plugin.compaction import Compaction
from tests.log.histories import backup_in, silent, source
from tests.log.statuses import FINE

ONLY_SOMETIMES = {
    "last_compaction_timestamp_seconds",
    "history_oldest_timestamp_seconds",
    "key_slots",
    "key_slots_damaged",
}
"""The metrics of a backup that FINE, which was never compacted, keeps no history and is plain, does not have."""

EVERY_HELP = {**HELP, **HELP_OF_MEMBERS, **HELP_OF_A_MEMBER, **HELP_OF_A_COPY}
MONITORING = Path(__file__).parents[2] / "contrib" / "monitoring"


def figures(text: str) -> dict[str, float]:
    """The metrics in this text, value by name. Checks the form of each line."""
    found = {}
    lines = text.splitlines()
    for about, kind, line in zip(lines[0::3], lines[1::3], lines[2::3], strict=True):
        match = re.fullmatch(rf'{PREFIX}(\w+){{(?:\w+="(?:[^"\\]|\\.)*",?)+}} (-?[\d.]+)', line)
        assert match is not None, line
        assert about == f"# HELP {PREFIX}{match[1]} {HELP[match[1]]}"
        assert kind == f"# TYPE {PREFIX}{match[1]} gauge"
        found[match[1]] = float(match[2])
    return found


def test_metrics_of_a_healthy_backup() -> None:
    found = figures(metrics(FINE, 1_700_000_060.5))
    assert found["readable"] == 1
    assert found["data_version"] == 1008
    assert found["last_change_timestamp_seconds"] == 1_700_000_000
    assert found["checked_timestamp_seconds"] == 1_700_000_060
    assert {found[name] for name in ("damaged", "troubles", "compaction_failed", "space_low")} == {0}
    assert set(HELP) - set(found) == ONLY_SOMETIMES


def test_metrics_show_damage_troubles_and_low_space() -> None:
    troubles = (Trouble(TroubleKind.DAMAGE, "a"), Trouble(TroubleKind.SPACE_LOW, "b"))
    found = figures(metrics(replace(FINE, damaged=True, free_bytes=1000, last_compaction=7, troubles=troubles), 0))
    assert (found["damaged"], found["troubles"], found["space_low"]) == (1, 2, 1)
    assert found["last_compaction_timestamp_seconds"] == 7


def test_metrics_say_what_is_kept_of_the_history() -> None:
    kept = replace(FINE, history_generations=3, history_bytes=4096, history_oldest=1_690_000_000)
    found = figures(metrics(kept, 0))
    assert (found["history_generations"], found["history_bytes"]) == (3, 4096)
    assert found["history_oldest_timestamp_seconds"] == 1_690_000_000
    assert figures(metrics(FINE, 0))["history_generations"] == 0


def test_failed_compaction_is_a_metric_of_the_writer_and_of_the_files(tmp_path: Path) -> None:
    backup = backup_in(LocalStorage(tmp_path / "b"))
    backup.create(source())
    writer = backup.open(silent, "one")
    Compaction("file:///x", str(tmp_path), silent, Mock(), Mock())._fail(writer, "no room")
    running = writer.status("")
    writer.close()
    for status in (running, backup.status("")):
        (trouble,) = status.troubles
        assert trouble == Trouble(TroubleKind.COMPACTION_FAILED, "the last compaction failed: no room")
        assert (status.as_json()["troubles"], status.as_json()["trouble_kinds"]) == (
            ["the last compaction failed: no room"],
            ["compaction_failed"],
        )
        assert figures(metrics(status, 0))["compaction_failed"] == 1


@pytest.mark.parametrize("kind", [kind for kind in TroubleKind if kind is not TroubleKind.COMPACTION_FAILED])
def test_other_trouble_is_no_failed_compaction_whatever_its_sentence(kind: TroubleKind) -> None:
    troubles = (Trouble(kind, "the last compaction failed"),)
    assert figures(metrics(replace(FINE, troubles=troubles), 0))["compaction_failed"] == 0


NAS = MemberStatus("nas", "file:///nas", MemberState.IN_SYNC, lag_changes=0, lag_seconds=0.0, free_bytes=1 << 40)
USB = MemberStatus("usb", "usb://usb/b", MemberState.OUT_OF_SYNC, 1_700_000_000, "gone", lag_changes=7, lag_seconds=9.5)
FAR = MemberStatus("far", "nfs://far/b", MemberState.UNREACHABLE, trailing=True)


def figures_of_members(text: str) -> dict[str, dict[str, float]]:
    """The values by metric and by member ("" for those of the whole backup). Each metric must be in one place."""
    found: dict[str, dict[str, float]] = {}
    for block in re.split(r"^(?=# HELP )", text, flags=re.M)[1:]:
        about, kind, *lines = block.splitlines()
        name = about.split()[2].removeprefix(PREFIX)
        assert about == f"# HELP {PREFIX}{name} {EVERY_HELP[name]}" and kind == f"# TYPE {PREFIX}{name} gauge"
        assert name not in found and lines
        for line in lines:
            match = re.fullmatch(rf'{PREFIX}{name}{{url="[^"]*"(?:,member="(\w+)"|,[^}}]*)?}} (-?[\d.]+)', line)
            assert match is not None, line
            assert (match[1] or "") not in found.setdefault(name, {})
            found[name][match[1] or ""] = float(match[2])
    return found


def test_metrics_of_one_destination_are_without_members() -> None:
    assert "member" not in metrics(FINE, 0) and "epoch" not in metrics(FINE, 0)


def test_metrics_of_several_destinations_have_each_member() -> None:
    found = figures_of_members(metrics(with_members(FINE, [NAS, USB, FAR], 1, 4), 0))
    assert set(found) == set(EVERY_HELP) - set(HELP_OF_A_COPY) - ONLY_SOMETIMES - {
        *("member_size_bytes", "member_latency_seconds")
    }
    assert found["members_in_sync"] == {"": 1} and found["members_needed"] == {"": 1}
    assert found["members_waited_for"] == {"": 2} and found["epoch"] == {"": 4}
    assert found["member_in_sync"] == {"nas": 1, "usb": 0}, "one that trails is never in sync, and that is no trouble"
    assert found["member_readable"] == {"nas": 1, "usb": 1, "far": 0}
    assert found["member_lag_changes"] == {"nas": 0, "usb": 7} and found["member_lag_seconds"] == {"nas": 0, "usb": 9.5}
    assert found["member_since_timestamp_seconds"] == {"usb": 1_700_000_000}
    assert found["member_free_bytes"] == {"nas": 1 << 40}
    assert found["troubles"] == {"": 3}


def test_metrics_of_a_member_that_the_plugin_measured_have_its_latency() -> None:
    nas = replace(NAS, latency=0.004, total_bytes=1 << 41, since=5)
    found = figures_of_members(metrics(with_members(FINE, [nas, FAR], 1, 4), 0))
    assert found["member_latency_seconds"] == {"nas": 0.004} and found["member_size_bytes"] == {"nas": 1 << 41}
    assert "member_since_timestamp_seconds" not in found, "it says since when a member is out of sync"


def test_metric_of_low_space_is_that_of_any_member() -> None:
    full = replace(USB, free_bytes=0, total_bytes=9)
    assert figures_of_members(metrics(with_members(FINE, [NAS, full], 1, 4), 0))["space_low"] == {"": 1}


def test_metric_labels_are_escaped() -> None:
    text = metrics(replace(FINE, url='file:///a"b\\c\nd'), 0)
    assert 'url="file:///a\\"b\\\\c\\nd"' in text
    figures(text)


def test_metrics_of_an_unreadable_backup_say_so() -> None:
    assert figures(unreadable("u", Unreachable("away"), 5)) == {
        "readable": 0,
        "damaged": 0,
        "checked_timestamp_seconds": 5,
    }
    assert figures(unreadable("u", Damaged("a hole", "manifest", 0), 5))["damaged"] == 1


def test_status_prometheus_command_prints_metrics_and_the_exit_code(tmp_path: Path) -> None:
    away = CliRunner().invoke(cli, ["status", f"file://{tmp_path}/none", "--prometheus"])
    assert figures(away.stdout)["readable"] == 0
    assert away.exit_code == 1
    node = tmp_path / "bitcoin"
    node.mkdir()
    assert CliRunner().invoke(cli, ["init", "--lightning-dir", str(node), f"file://{tmp_path}/b"]).exit_code == 0
    here = CliRunner().invoke(cli, ["status", "--lightning-dir", str(node), "--prometheus"])
    assert figures(here.stdout)["readable"] == 1
    assert CliRunner().invoke(cli, ["status", f"file://{tmp_path}/b", "--prometheus", "--json"]).exit_code == 2


def _names(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}(\w+)", text))


def test_alert_rules_use_existing_metrics() -> None:
    text = (MONITORING / "alerts.yml").read_text()
    used = _names(text)
    assert used <= set(EVERY_HELP)
    assert {
        "damaged",
        "readable",
        "troubles",
        "compaction_failed",
        "space_low",
        "last_change_timestamp_seconds",
        "member_in_sync",
        "member_lag_seconds",
        "members_in_sync",
        "members_needed",
    } <= used
    assert "\t" not in text


def test_dashboard_uses_existing_metrics() -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert all(_names(expression) and _names(expression) <= set(EVERY_HELP) for expression in expressions)
    _assert_nothing_overlaps(dashboard["panels"])


def _assert_nothing_overlaps(panels: list[dict[str, Any]]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_monitoring_page_explains_each_metric_and_each_alert() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    figures_table = page.partition("### The figures")[2].partition("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (`.+?`) \|", figures_table, re.M) for name in re.findall("`(.+?)`", row)
    }
    assert explained == set(EVERY_HELP)
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert re.findall(r"^\| `(Lightning\w+)` \|", page, re.M) == alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_accepts_alert_rules_and_metrics() -> None:
    subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=MONITORING, check=True, capture_output=True)
    for status in (FINE, with_members(FINE, [replace(NAS, latency=0.1, total_bytes=9), USB, FAR], 1, 4)):
        text = metrics(status, 0).encode()
        subprocess.run(["promtool", "check", "metrics"], input=text, check=True, capture_output=True)
