"""Every command in README and docs: run, and its output compared; or at least understood by backup-cli.

    UPDATE_DOCS=1 pytest tests/docs        writes what came out into the pages, where it differs

```console blocks are run in a sandbox (see sandbox.py), in order, one world for each page. ```sh blocks need a real
machine (lightning-cli, mount, systemctl) and are not run, but every backup-cli in them must be one that there is.
"""

import os
import re
from pathlib import Path

import pytest

from backends import backend_for
from tests.docs.click_check import calls_of_backup_cli, complaint
from tests.docs.markdown import Command, Event, Page, read_page
from tests.docs.normal import normal, same
from tests.docs.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "contrib").rglob("*.md")]
)

# A refusal that the page shows is what it wants to show.
_REFUSED = re.compile(r"^(error: |NOT protected|DIFFERENT: )", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=name)
def page(request: pytest.FixtureRequest) -> Page:
    return read_page(request.param)


def test_the_commands_do_what_the_page_says(page: Page, tmp_path: Path) -> None:
    if not any(isinstance(step, Command) for step in page.steps):
        return
    sandbox = Sandbox(tmp_path)
    wrong: list[tuple[Command, list[str]]] = []
    try:
        for step in page.steps:
            if isinstance(step, Event):
                sandbox.happen(step.text)
                continue
            code, actual = sandbox.run(step.text)
            assert (code == 0) != bool(_REFUSED.search("\n".join(actual))), f"$ {step.text}\n" + "\n".join(actual)
            if not same(step.expected, actual):
                wrong.append((step, actual))
    finally:
        sandbox.close()
    if wrong and os.environ.get("UPDATE_DOCS"):
        _update(page, wrong)
    else:
        assert not wrong, "\n\n".join(_difference(page, *one) for one in wrong)


def _difference(page: Page, command: Command, actual: list[str]) -> str:
    shown, came = "\n".join(normal(command.expected)), "\n".join(normal(actual))
    return f"{name(page.path)} line {command.first}: $ {command.text}\n--- the page says\n{shown}\n--- it says\n{came}"


def _update(page: Page, wrong: list[tuple[Command, list[str]]]) -> None:
    for command, actual in reversed(wrong):
        shown = [line for line in actual if not re.search(r": \d+ % after ", line)]
        indent = re.match(" *", page.lines[command.first - 1])
        assert indent is not None
        page.lines[command.first : command.first + len(command.expected)] = [indent[0] + line for line in shown]
    page.path.write_text("\n".join(page.lines))


def test_what_is_not_run_is_at_least_understood(page: Page) -> None:
    calls = [call for script in page.scripts for call in calls_of_backup_cli(script)]
    complaints = {" ".join(call): why for call in calls if (why := complaint(call)) is not None}
    assert complaints == {}


def test_what_the_text_mentions_is_there(page: Page) -> None:
    """`backup-cli …` in a sentence may leave arguments out, but names commands and options that there are."""
    mentioned = [span.split()[1:] for span in page.spans if span.startswith("backup-cli ")]
    complaints = {
        " ".join(words): why
        for words in mentioned
        if (why := complaint(words)) is not None and not why.startswith("Missing argument")
    }
    assert complaints == {}


def test_the_urls_are_some(page: Page) -> None:
    """In the sandbox all of them are file://, so here they are taken as they are. This touches nothing."""
    commands = [step.text for step in page.steps if isinstance(step, Command)]
    for url in re.findall(r"\b(?:file|nfs|usb)://[^\s'\"`)|;]+", "\n".join([*commands, *page.scripts])):
        if "…" not in url:
            backend_for(url)


def test_links_lead_somewhere(page: Page) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", "\n".join(page.lines)):
        if "://" not in target:
            there = page.path.parent / target if target else page.path
            assert there.exists(), target
            assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


def _anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


# The means


def test_the_comparison() -> None:
    assert same(["done in 1.5 s, version 7"], ["done in 23.0 s, version 7"])
    assert not same(["done, version 7"], ["done, version 8"])
    assert same(["Restoring …", "ok"], ["Restoring …", "Restoring: 25 % after 0.1 s", "ok"])
    assert same(["first", "…", "last"], ["first", "last"])
    assert same(["first", "…", "last"], ["first", "a", "b", "last"])
    assert same(["it holds … backups"], ["it holds three backups"])
    assert not same(["first"], ["first", "second"])
    assert same(["free space   1.0 GiB of 2.0 GiB"], ["free space  100.3 MiB of 20.0 GiB"])


def test_the_parser_of_backup_cli() -> None:
    def of(script: str) -> list[list[str]]:
        return list(calls_of_backup_cli(script))

    assert of("sudo -u x /opt/bin/backup-cli verify URL && backup-cli status | less") == [["verify", "URL"], ["status"]]
    assert of("backup-cli restore \\\n  URL DEST  # and so on") == [["restore", "URL", "DEST"]]
    assert of("sh -c 'backup-cli status \"$X\" > y'") == [["status", "$X"]]
    assert complaint(["verify", "URL"]) is None
    assert complaint(["--version"]) is None
    assert complaint(["restore", "--help"]) is None
    assert "No such command" in (complaint(["unmake"]) or "")
    assert "No such option" in (complaint(["verify", "URL", "--hard"]) or "")
    assert "Missing argument" in (complaint(["restore", "URL"]) or "")


def test_a_page_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "text `a b`\n<!-- sandbox: x: y -->\n```console\n$ one \\\n    two\nout\n\n$ three\n```\n```sh\nfour\n```\n"
    )
    page = read_page(path)
    assert page.steps == [Event("x: y", 1), Command("one two", ["out", ""], 5), Command("three", [], 8)]
    assert (page.scripts, page.spans) == (["four"], ["a b"])


def test_a_block_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("1. text\n\n   ```console\n   $ one\n     out\n   ```\n")
    page = read_page(path)
    assert page.steps == [Command("one", ["  out"], 4)]
    _update(page, [(Command("one", ["  out"], 4), ["new"])])
    assert path.read_text().endswith("   $ one\n   new\n   ```\n")
