"""The test files that the pages name as evidence exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_test_files_named_by_a_page_exist(page: Path) -> None:
    for named in re.findall(r"`((?:tests/[\w./-]*)?test_[\w*]+\.py|tests/[\w./*-]+)(?:::\w+)?`", page.read_text()):
        places = [named] if named.startswith("tests/") else [f"tests/**/{named}"]
        assert any(list(ROOT.glob(place)) for place in places), f"{page.name} names {named}"
