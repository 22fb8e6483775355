"""What is done when a page does not show what came out: the test fails, or with UPDATE_DOCS=1 the page is changed."""

import os
import re

from tests.docs.markdown import Command, Page
from tests.docs.normal import normal

Wrong = list[tuple[Command, list[str]]]
"""Commands in the page's order, and what each of them printed instead."""


def settle(page: Page, wrong: Wrong) -> None:
    """Raise AssertionError with every difference, or with UPDATE_DOCS=1 correct the page."""
    if wrong and os.environ.get("UPDATE_DOCS"):
        update(page, wrong)
    else:
        assert not wrong, "\n\n".join(_difference(page, *one) for one in wrong)


def _difference(page: Page, command: Command, actual: list[str]) -> str:
    shown, came = "\n".join(normal(command.expected)), "\n".join(normal(actual))
    return f"{page.path.name} line {command.first}: $ {command.text}\n--- the page says\n{shown}\n--- it says\n{came}"


def update(page: Page, wrong: Wrong) -> None:
    """Write what came out under each of these commands."""
    for command, actual in reversed(wrong):
        shown = [line for line in actual if not re.search(r": \d+ % after ", line)]
        indent = re.match(" *", page.lines[command.first - 1])
        assert indent is not None
        page.lines[command.first : command.first + len(command.expected)] = [indent[0] + line for line in shown]
    page.path.write_text("\n".join(page.lines))
