"""Line charts over time as SVG text, several on one page.

Colours and colour schemes are those of `plot`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.rig.plot import COLOURS, ticks_to

_WIDTH, _HEIGHT = 420, 170
"""Of one panel, without its legend."""
_COLUMNS = 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 22
_LEGEND_STEP = 14
_MAX_SHOWN = 6
"""Series in a legend; the others are drawn, and counted there."""
_DASHES = ("", "6 3", "2 3")
"""More series than colours differ by these."""

Points = Sequence[tuple[float, float]]
"""Seconds since the start, and the value. A gap of more than `gap_s` has no line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart."""

    title: str
    unit: str
    series: Mapping[str, Points]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened, drawn as a vertical line in every panel."""

    at_s: float
    what: str


def svg(
    title: str,
    panels: Sequence[Panel],
    moments: Sequence[Moment],
    *,
    seconds: float,
    gap_s: float,
) -> str:
    """Return the panels as one SVG document, in the order of reading."""
    step = _HEIGHT + _TOP + _BOTTOM + _LEGEND_STEP * (_MAX_SHOWN + 1)
    rows = math.ceil(len(panels) / _COLUMNS)
    top = 48 + 15 * math.ceil(len(moments) / 3)
    width, height = _WIDTH * _COLUMNS + 16, top + rows * step
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        "<style>",
        "svg { background: #fff; fill: #222; font: 11px sans-serif; }",
        ".grid { stroke: #ddd; } .event { stroke: #999; stroke-dasharray: 3 3; }",
        *(f".c{n} {{ stroke: {light}; }}" for n, (light, _) in enumerate(COLOURS)),
        "@media (prefers-color-scheme: dark) {",
        "svg { background: #1b1b1b; fill: #ddd; } .grid { stroke: #444; }",
        *(f".c{n} {{ stroke: {dark}; }}" for n, (_, dark) in enumerate(COLOURS)),
        "}",
        "</style>",
        f"<title>{escape(title)}</title>",
        f'<text x="16" y="24" font-size="15">{escape(title)}</text>',
    ]
    for number, moment in enumerate(moments):
        x, y = 16 + 280 * (number % 3), 44 + 15 * (number // 3)
        text = f"{moment.at_s:.0f} s: {moment.what}"
        lines.append(f'<text x="{x}" y="{y}">{escape(text)}</text>')
    for number, panel in enumerate(panels):
        x, y = 8 + _WIDTH * (number % _COLUMNS), top + step * (number // _COLUMNS)
        lines.append(f'<g transform="translate({x},{y})">')
        lines += _panel(panel, moments, seconds=seconds, gap_s=gap_s)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(
    panel: Panel, moments: Sequence[Moment], *, seconds: float, gap_s: float
) -> Iterator[str]:
    highest = max(
        (value for points in panel.series.values() for _, value in points), default=0.0
    )
    ticks = ticks_to(highest) if highest > 0 else [0.0, 1.0]
    wide = _WIDTH - _LEFT - _RIGHT

    def at(point: tuple[float, float]) -> str:
        x = _LEFT + wide * point[0] / seconds
        y = _TOP + _HEIGHT * (1 - max(0.0, point[1]) / ticks[-1])
        return f"{x:.1f},{y:.1f}"

    yield f'<text x="{_LEFT}" y="16" font-weight="bold">{escape(panel.title)}</text>'
    for tick in ticks:
        y = _TOP + _HEIGHT * (1 - tick / ticks[-1])
        yield f'<path class="grid" d="M{_LEFT},{y:.1f}h{wide}"/>'
        yield (
            f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(_value(tick, panel.unit))}</text>"
        )
    for moment in moments:
        x = _LEFT + wide * moment.at_s / seconds
        yield f'<path class="event" d="M{x:.1f},{_TOP}v{_HEIGHT}"/>'
    for number, points in enumerate(panel.series.values()):
        style = f'class="c{number % len(COLOURS)}" fill="none" stroke-width="1.5"'
        dash = _DASHES[number // len(COLOURS) % len(_DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        for piece in pieces(points, gap_s):
            path = "M" + "L".join(map(at, piece)) + ("h0.1" if len(piece) == 1 else "")
            yield f'<path {style}{dashes} d="{path}"/>'
    y = _TOP + _HEIGHT + _BOTTOM
    end = f'x="{_LEFT + wide}" y="{y - 8}" text-anchor="end"'
    yield f"<text {end}>{seconds:.0f} s</text>"
    for number, name in enumerate([*panel.series][:_MAX_SHOWN]):
        style = f'class="c{number % len(COLOURS)}" stroke-width="3"'
        yield f'<path {style} d="M{_LEFT},{y + 2}h14"/>'
        yield f'<text x="{_LEFT + 20}" y="{y + 6}">{escape(name[:60])}</text>'
        y += _LEGEND_STEP
    if len(panel.series) > _MAX_SHOWN:
        more = len(panel.series) - _MAX_SHOWN
        yield f'<text x="{_LEFT + 20}" y="{y + 6}">and {more} more</text>'


def pieces(points: Points, gap_s: float) -> Iterator[list[tuple[float, float]]]:
    """Yield the runs of *points* that no gap of more than *gap_s* interrupts."""
    run: list[tuple[float, float]] = []
    for point in points:
        if run and point[0] - run[-1][0] > gap_s:
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def _value(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value * 100:g} %"
        case "bytes" | "Bps":
            for size, name in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
                if value >= size:
                    return f"{value / size:.3g} {name}B"
            return f"{value:g} B"
        case "s":
            return f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s"
        case _:
            return f"{value:g}"
