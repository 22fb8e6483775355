"""Draws the latency distributions."""

import math
from html import escape

COLOURS = ("#888888", "#d7301f", "#2b8cbe", "#74a65d", "#8856a7", "#e6a117", "#1b9e9e", "#a6611a")
WIDTH, LEFT, BOTTOM, TOP = 760, 60, 30, 30
GRAPH = 280
"""The height of the graph itself."""

NAMES_IN_ROW, ROW = 4, 18
"""How many names stand beside each other below the graph, and the height of such a row."""


def draw(series: list[tuple[str, list[float]]]) -> str:
    """An SVG: for each series (name, latencies in seconds), the share of calls that took at most a given time.

    The time axis is logarithmic.
    """
    values = [value for _, latencies in series for value in latencies]
    height = TOP + GRAPH + BOTTOM + math.ceil(len(series) / NAMES_IN_ROW) * ROW
    base = TOP + GRAPH
    low, high = math.floor(math.log10(min(values)) * 2) / 2, math.ceil(math.log10(max(values)) * 2) / 2

    def x(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) / (high - low) * (WIDTH - LEFT - 20)

    def y(share: float) -> float:
        return base - share * GRAPH

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">Share of commits that took at most so long</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        place, label = (
            x(10**exponent),
            f"{10 ** (exponent + 6):g} µs" if exponent < -3 else f"{10 ** (exponent + 3):g} ms",
        )
        parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{base}" stroke="#ddd"/>')
        parts.append(f'<text x="{place:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
    for number, (name, latencies) in enumerate(series):
        ordered = sorted(latencies)
        steps = [ordered[min(len(ordered) - 1, len(ordered) * k // 400)] for k in range(401)]
        points = " ".join(f"{x(value):.1f},{y(k / 400):.1f}" for k, value in enumerate(steps))
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        row, column = divmod(number, NAMES_IN_ROW)
        left, line = LEFT + column * 175, base + BOTTOM + (row + 1) * ROW - 7
        parts.append(f'<rect x="{left}" y="{line - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 14}" y="{line}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])
