"""Normalises what may differ between two runs of a command, and compares them."""

import re

_PATTERNS = [
    (re.compile(r"\b[0-9a-f]{66}\b"), "NODE"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "KEY"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"^[A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d \S+ (?=\w+\[\d+\]: )"), "TIME HOST "),
    (re.compile(r"\[\d+\]: "), "[PID]: "),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d\b(?!:)"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d( \d\d:\d\d)?(?![\d:T])"), "DAY"),
    (re.compile(r"\b\d{8}-\d{6}\b"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b\d+ (second|minute|hour|day)s?\b"), "SPAN"),
    (re.compile(r"\b\d+(\.\d+)? ?(bytes|KiB|MiB|GiB)"), "SIZE"),
    (re.compile(r"\b\d+(\.\d+)? (ms|µs|s)\b"), "SECONDS"),
    (re.compile(r"\b\d+(\.\d+)? %"), "PERCENT"),
    (re.compile(r"\b\d+ changes? (was|were) made up for\b"), "CHANGES were made up for"),
    (re.compile(r"\bprocess \d+\b"), "process PID"),
    (re.compile(r"\bat byte \d+\b"), "at byte N"),
    (re.compile(r"\blast good version is \d+\b"), "last good version is N"),
]

_LEFT_OUT = re.compile(r": PERCENT after SECONDS$|^ *(to|over) SECONDS #* +\d+$|^Checking the (restored )?database …$")
"""Lines that are left out: progress, and the bars of a histogram."""


def normal(lines: list[str]) -> list[str]:
    """The lines without ids, times and sizes, progress and bars, and blank lines at either end."""
    result = []
    for line in lines:
        for pattern, word in _PATTERNS:
            line = pattern.sub(word, line)
        line = re.sub(r"^(.{0,40}?\S) {2,}", r"\1  ", line.rstrip())  # a column is as wide as its content
        if _LEFT_OUT.search(line) is None:
            result.append(line)
    while result and not result[0]:
        result.pop(0)
    while result and not result[-1]:
        result.pop()
    return result


def same(expected: list[str], actual: list[str]) -> bool:
    """Whether the output is what the page shows. A line `…` in it stands for any lines, and `…` in a line for any
    text."""
    pattern = ""
    for line in normal(expected):
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("…")) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in normal(actual))) is not None
