"""docs/choosing.md answers the same questions for every way to keep a node's state."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
WAYS = re.findall(r"^\| \[(.+?)\]\(#.+?\) \|(.*)\|$", PAGE, re.M)


def test_choosing_page_covers_every_way() -> None:
    wanted = [
        "plugin",
        "replica",
        "mdadm",
        "btrfs",
        "ZFS",
        "PostgreSQL",
        "Litestream",
        "stopped",
        "Live",
        "Snapshots",
        "reflinks",
        "Static",
    ]
    names = " ".join(name for name, _ in WAYS)
    assert [word for word in wanted if word not in names] == []
    assert "```mermaid\nflowchart" in PAGE


@pytest.mark.parametrize(("name", "answers"), WAYS, ids=[name for name, _ in WAYS])
def test_choosing_page_answers_every_question_for_each_way(name: str, answers: str) -> None:
    """For whom, what a crash loses, what a fire loses, the cost; how to recover, how it works together with this
    plugin."""
    assert len([answer for answer in answers.split("|") if answer.strip()]) == 4
    assert "**Recover**" in SECTIONS[name]
    assert "**With this plugin**" in SECTIONS[name] or name == "This plugin"
