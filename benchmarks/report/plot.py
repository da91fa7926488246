"""The picture of a run: throughput and p99 against connections, as SVG written by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

from benchmarks.plan import Plan
from benchmarks.report.report import Line

PANEL_WIDTH, PANEL_HEIGHT, MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 380, 300, 70, 40, 50
LEGEND_WIDTH, LEGEND_LINE = 150, 20
COLOURS = ("#4c78a8", "#9d755d", "#e45756", "#f58518", "#54a24b", "#72b7b2", "#b279a2", "#333333", "#bab0ac")
_STYLE = "text{font:12px sans-serif}.axis{stroke:#888}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: a figure of every contestant, both axes logarithmic."""

    title: str
    left: float
    figure: Callable[[Line], float]
    across: tuple[float, float]
    upward: tuple[float, float]

    def x(self, value: float) -> float:
        """Return the horizontal place of a number of connections."""
        return self.left + MARGIN_LEFT + PANEL_WIDTH * _share(value, self.across)

    def y(self, value: float) -> float:
        """Return the vertical place of a figure."""
        return MARGIN_TOP + PANEL_HEIGHT * (1 - _share(value, self.upward))


def picture(lines: Sequence[Line], wanted: Plan) -> str:
    """Return the SVG of all lines that differ only in their connections."""
    main = wanted.main
    shown = [line for line in lines if (line.rows, line.events) == (main.rows, main.events)]
    names = list(dict.fromkeys(line.contestant for line in shown))
    width = 2 * (MARGIN_LEFT + PANEL_WIDTH) + LEGEND_WIDTH + MARGIN_LEFT
    height = MARGIN_TOP + PANEL_HEIGHT + MARGIN_BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (title, figure) in enumerate(
        (("answers per second", lambda line: line.per_second), ("p99, ms", lambda line: line.p99_ms))
    ):
        panel = _panel(title, place * (MARGIN_LEFT + PANEL_WIDTH), figure, shown)
        parts += _axes(panel)
        for name, colour in zip(names, cycle(COLOURS), strict=False):
            parts.append(_curve(panel, [line for line in shown if line.contestant == name], colour))
    parts += _legend(names, 2 * (MARGIN_LEFT + PANEL_WIDTH) + 20)
    return "\n".join([*parts, "</svg>"])


def _panel(title: str, left: float, figure: Callable[[Line], float], lines: Sequence[Line]) -> Panel:
    values = [value for line in lines if (value := figure(line)) > 0]
    connections = [float(line.connections) for line in lines]
    return Panel(title=title, left=left, figure=figure, across=_range(connections), upward=_range(values))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around the values, at least one apart."""
    low = math.floor(math.log10(min(values, default=1)))
    high = math.ceil(math.log10(max(values, default=1)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _share(value: float, within: tuple[float, float]) -> float:
    low, high = map(math.log10, within)
    return (math.log10(value) - low) / (high - low)


def _ticks(within: tuple[float, float]) -> list[float]:
    low, high = (round(math.log10(end)) for end in within)
    return [10.0**power for power in range(low, high + 1)]


def _axes(panel: Panel) -> list[str]:
    left, right = panel.x(panel.across[0]), panel.x(panel.across[1])
    bottom, top = panel.y(panel.upward[0]), panel.y(panel.upward[1])
    parts = [f'<text x="{left}" y="{top - 15}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in _ticks(panel.upward):
        y = panel.y(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for tick in _ticks(panel.across):
        x = panel.x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,g}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">connections</text>')
    return parts


def _curve(panel: Panel, lines: Sequence[Line], colour: str) -> str:
    points = [
        (panel.x(line.connections), panel.y(panel.figure(line))) for line in lines if panel.figure(line) > 0
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(points))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return f'<polyline class="line" stroke="{colour}" points="{path}"/>{dots}'


def _legend(names: Sequence[str], left: float) -> list[str]:
    parts = []
    for place, (name, colour) in enumerate(zip(names, cycle(COLOURS), strict=False)):
        y = MARGIN_TOP + place * LEGEND_LINE
        parts.append(f'<line class="line" stroke="{colour}" x1="{left}" y1="{y}" x2="{left + 20}" y2="{y}"/>')
        parts.append(f'<text x="{left + 28}" y="{y + 4}">{escape(name)}</text>')
    return parts
