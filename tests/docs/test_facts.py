"""No behaviour depends on how a sentence is worded: whoever improves one must not change what the program does.

Looked for, in all of the product's code: sentences that are taken apart, searched or compared. What counts as one is
told by its name (`why`, `trouble`, `error.strerror`, ...), by `str(error)`, and by a variable that was given one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("plugin", "backends", "backup_cli", "contrib")

SENTENCES = frozenset({
    "advice", "damage", "doubt", "failure", "finding", "hint", "holder", "left", "message", "reason", "refusal", "said",
    "saying", "says", "sentence", "strerror", "told", "torn", "trouble", "troubles", "unwitnessed", "unverified",
    "warning", "warnings", "why",
})  # fmt: skip
"""The last word of a name that holds something for people to read."""

TAKING_APART = frozenset({
    "casefold", "count", "endswith", "find", "index", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
    "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "translate", "upper",
})  # fmt: skip

MATCHING = frozenset({"findall", "finditer", "fullmatch", "match", "search", "split", "sub", "subn"})

ALLOWED = {
    ("backends/confined/parent.py", "'done' in message"): "a field of a message between two processes, which is JSON",
    ("backends/confined/parent.py", "'failed' in message"): "the same",
    ("backends/confined/parent.py", "'news' in message"): "the same",
    **{
        ("backends/storage/s3/faults.py", looked): "obstore's words: it tells in no other way what a store answered"
        for looked in (
            "_CODE.search(text)",
            "_METADATA.search(text)",
            "_REGION.search(text)",
            "_STATUS.search(text)",
            "_TRANSPORT.search(text)",
            "'TimedOut' in text",
            "'redirect without LOCATION' in text",
            "mark in text",
            "text.partition('\\n')",
            "_QUERY.sub('', text.partition('\\n')[0])",
        )
    },
    ("backends/members/member_statuses.py", "out.why == why"): "the same reason is not told twice in one line",
    ("backup_cli/following/keeper.py", "text != self._trouble"): "the same line is not told again and again",
    ("plugin/input.py", "message.strip()"): "the bytes of lightningd's message, not words for people",
    (
        "plugin/misread.py",
        "_ID.search(message)",
    ): "the bytes of lightningd's message, from which JSON could not be read",
    ("plugin/misread.py", "_METHOD.search(message)"): "the same",
    ("plugin/misread.py", "b'db_write' not in message"): "the same",
    ("backup_cli/checks/plugin.py", "real not in self._said"): "the same file is not told of twice",
    ("backends/sqlite/error_text.py", "str(error).removeprefix(f'{type(error).__name__}: ')"): (
        "SQLite's words, which may quote secrets: chosen by form what is shown of them, and nothing is decided by them"
    ),
    ("backends/sqlite/error_text.py", "_SYNTAX.fullmatch(said)"): "the same",
    ("backends/sqlite/error_text.py", "form.fullmatch(said)"): "the same",
    ("backends/sqlite/error_text.py", "said.startswith(words)"): "the same",
    ("backends/sqlite/error_text.py", "said in _WITHOUT_NAMES"): "the same",
    ("backends/sqlite/error_text.py", "said in _OURS"): "the same",
    ("backends/sqlite/error_text.py", "said in _UNSAID.values()"): "the same",
    ("backends/sqlite/error_text.py", "said in ('not an error', 'error')"): "the same",
    ("backends/log/format/documents.py", "reason.partition(_DETAILS)"): (
        "the stored format has one text; its form is in docs/format.md, and it is taken apart for showing only"
    ),
    ("backends/log/format/documents.py", "self.reason == COMPACTION"): (
        "a marker of the stored format (docs/format.md), written and read by this constant"
    ),
    ("backends/log/writer/writer.py", "trouble != self._trouble"): "the same line is not logged again and again",
    ("plugin/notify.py", "sentence.replace('\\x00', ' ')"): "made fit to be an argument of a command",
    ("plugin/notify.py", "sentence in told"): "the same sentence is not told again and again",
}
"""Expressions that are allowed, and why."""


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def found_in(text: str) -> set[str]:
    """The expressions that look into a sentence."""
    tree, found = ast.parse(text), set()
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in [tree, *scopes]:
        given = _given_sentences(scope)
        for node in ast.walk(scope):
            found |= {ast.unparse(looked) for looked in _looks_into(node, given)}
    return found


def _given_sentences(scope: ast.AST) -> set[str]:
    """The variables of a function to which a sentence is assigned, whatever they are called."""
    return {
        target.id
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign) and _is_sentence(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _is_sentence(node: ast.expr, given: set[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in given or name.rpartition("_")[2] in SENTENCES
        case ast.Attribute(attr=name):
            return name.rpartition("_")[2] in SENTENCES
        case ast.Call(func=ast.Attribute(attr="sentence" | "format_message")):
            return True
        case ast.Call(func=ast.Attribute(value=of, attr=name)) if name in TAKING_APART:  # what is left of one
            return _is_sentence(of, given)
        case ast.Call(func=ast.Name(id="str" | "repr" | "one_line" | "printable"), args=[of, *_]):
            return _is_error(of) or _is_sentence(of, given)
        case ast.BoolOp(values=parts):
            return any(_is_sentence(part, given) for part in parts)
        case ast.Subscript(value=ast.Attribute(attr="args")):
            return True
        case ast.Subscript(value=of):
            return _is_sentence(of, given)
    return False


def _is_error(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.rpartition("_")[2] in {"error", "exception", "busy", "failed", "finished"}


def _looks_into(node: ast.AST, given: set[str]) -> Iterator[ast.expr]:
    match node:
        case ast.Call(func=ast.Attribute(value=of, attr=name)) if name in TAKING_APART and _is_sentence(of, given):
            yield node
        case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in MATCHING:
            if any(_is_sentence(argument, given) for argument in arguments):
                yield node
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for operator, one, other in zip(ops, [left, *comparators], comparators, strict=False):
                if _compares_words(operator, one, other, given):
                    yield ast.Compare(one, [operator], [other])


def _compares_words(operator: ast.cmpop, one: ast.expr, other: ast.expr, given: set[str]) -> bool:
    if isinstance(operator, ast.In | ast.NotIn):
        return _is_sentence(one, given) or (_is_sentence(other, given) and _may_be_text(one))
    if isinstance(operator, ast.Eq | ast.NotEq):
        sides = ((one, other), (other, one))
        return any(_is_sentence(sentence, given) and _may_be_text(text) for sentence, text in sides)
    return False


def _may_be_text(node: ast.expr) -> bool:
    return not isinstance(node, ast.Constant) or isinstance(node.value, str | bytes)


def test_no_decision_depends_on_the_words_of_a_sentence() -> None:
    found = {(str(path.relative_to(ROOT)), looked) for path in sources() for looked in found_in(path.read_text())}
    assert sorted(found - ALLOWED.keys()) == [], "carry the fact as an enum or a field, from where it is known"
    assert sorted(ALLOWED.keys() - found) == [], "allowed, but no longer there"


@pytest.mark.parametrize(
    "line",
    [
        "any(trouble.startswith(COMPACTION_FAILED) for trouble in seen.troubles)",
        "raise BackupError(decision.why.replace(RESTORE, command))",
        "return _ADVICE.split(str(error), maxsplit=1)[0]",
        "begun = seen.generation_reason.partition(' (')[0]",
        "if 'backup-cli' in error.holder: pass",
        "if why == 'that is no JSON': pass",
        "if error.strerror == 'No space left on device': pass",
        "text = str(error)\nif text.endswith('again'): pass",
        "kind = re.search('damaged', f(error) or str(error))",
        "if 'full' in str(error).lower(): pass",
        "if error.args[0] in KNOWN: pass",
    ],
)
def test_decision_by_the_words_of_a_sentence_is_found(line: str) -> None:
    assert found_in(line)


@pytest.mark.parametrize(
    "line",
    [
        "troubles = [trouble for trouble in seen.troubles if trouble.kind is TroubleKind.SPACE_LOW]",
        "if error.errno == errno.ENOSPC: pass",
        "show(f'{error}: {why}')",
        "name.startswith('segment-')",
        "if failure is None and not why: pass",
    ],
)
def test_code_that_only_shows_a_sentence_is_not_reported(line: str) -> None:
    assert not found_in(line)
