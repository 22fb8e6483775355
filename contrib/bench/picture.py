"""Draws the latency distributions."""

import math
from html import escape

COLOURS = ("#888888", "#d7301f", "#2b8cbe", "#74a65d")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 360, 60, 50, 30


def draw(series: list[tuple[str, list[float]]]) -> str:
    """An SVG: for each series (name, latencies in seconds), the share of calls that took at most a given time.

    The time axis is logarithmic.
    """
    values = [value for _, latencies in series for value in latencies]
    low, high = math.floor(math.log10(min(values)) * 2) / 2, math.ceil(math.log10(max(values)) * 2) / 2

    def x(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) / (high - low) * (WIDTH - LEFT - 20)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
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
        parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for number, (name, latencies) in enumerate(series):
        ordered = sorted(latencies)
        steps = [ordered[min(len(ordered) - 1, len(ordered) * k // 400)] for k in range(401)]
        points = " ".join(f"{x(value):.1f},{y(k / 400):.1f}" for k, value in enumerate(steps))
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        place = LEFT + number * 175
        parts.append(f'<rect x="{place}" y="{HEIGHT - 16}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{place + 14}" y="{HEIGHT - 7}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])
