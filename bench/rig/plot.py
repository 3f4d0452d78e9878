"""A bar chart as SVG text.

It follows the reader's light or dark colour scheme. The colours are based on Okabe and
Ito's, which colour-blind readers can tell apart; each bar is labelled as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
_LEFT, _RIGHT = 96, 96
"""Pixels for the names of the bars, and for the value of the last one."""
_MARGIN = 16
_BAR, _STEP = 14, 19
_GROUP_TITLE, _GROUP_GAP = 24, 14
_LEGEND_STEP = 19
_TICKS = 6

COLOURS = (
    ("#d55e00", "#e8761f"),
    ("#0072b2", "#4aa3df"),
    ("#009e73", "#1fb88d"),
    ("#cc79a7", "#d990b8"),
    ("#b58900", "#e6b23c"),
)
"""For the light and for the dark colour scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A median, and the range of its rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Bars to compare, by the names of the chart's series."""

    title: str
    bars: Mapping[str, Bar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The contents of a chart."""

    title: str
    axis: str
    series: Mapping[str, str]
    """The legend: a text for each name. Bars have this order."""
    groups: Sequence[Group]
    notes: Sequence[str] = ()


def svg(chart: Chart) -> str:
    """Return the chart as an SVG document.

    Raises:
        ValueError: there are no bars, or more series than colours.
    """
    bars = [bar for group in chart.groups for bar in group.bars.values()]
    if not bars or len(chart.series) > len(COLOURS):
        raise ValueError(f"{len(bars)} bars of {len(chart.series)} series")
    ticks = ticks_to(max(bar.high for bar in bars))
    top = 56 + _LEGEND_STEP * len(chart.series)
    bottom = top + sum(
        _GROUP_TITLE + _STEP * len(group.bars) + _GROUP_GAP for group in chart.groups
    )
    height = bottom + 52 + 16 * len(chart.notes)
    scale = (WIDTH - _LEFT - _RIGHT) / ticks[-1]
    size = f'width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}',
        f'viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{_style(len(chart.series))}</style>",
        f'<rect class="page" {size}/>',
        _text(_MARGIN, 28, chart.title, kind="title", size=17),
        *_legend(chart),
        *_axis(chart, ticks, scale, top, bottom),
        *_groups(chart, scale, top),
        *(
            _text(_MARGIN, bottom + 54 + 16 * number, note, kind="faint", size=11)
            for number, note in enumerate(chart.notes)
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def ticks_to(most: float) -> list[float]:
    """Return round figures in equal steps from 0 up to *most* or above.

    Raises:
        ValueError: *most* isn't positive.
    """
    if most <= 0:
        raise ValueError(f"nothing to draw up to {most}")
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _style(count: int) -> str:
    def scheme(page: str, ink: str, faint: str, grid: str, number: int) -> str:
        return (
            f".page{{fill:{page}}}text{{fill:{ink};stroke:{page}}}.faint{{fill:{faint}}}"
            f".grid{{stroke:{grid}}}.range{{stroke:{ink}}}"
            + "".join(
                f".s{place}{{fill:{COLOURS[place][number]}}}" for place in range(count)
            )
        )

    light = scheme("#ffffff", "#1f2328", "#59636e", "#d1d9e0", 0)
    dark = scheme("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", 1)
    return (
        "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;"
        "paint-order:stroke;stroke-width:3}"
        ".title,.group,.own{font-weight:600}.range{stroke-width:1.5}"
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )


def _text(
    x: float, y: float, text: str, *, kind: str = "", size: int = 12, at: str = "start"
) -> str:
    anchor = "" if at == "start" else f' text-anchor="{at}"'
    named = f' class="{kind}"' if kind else ""
    return (
        f'<text{named} x="{x:.1f}" y="{y:.1f}" font-size="{size}"{anchor}>'
        f"{escape(text)}</text>"
    )


def _legend(chart: Chart) -> Iterator[str]:
    for place, (name, what) in enumerate(chart.series.items()):
        y = 52 + _LEGEND_STEP * place
        yield (
            f'<rect class="s{place}" x="{_MARGIN}" y="{y - 10}"'
            f' width="12" height="12" rx="2"/>'
        )
        yield _text(_MARGIN + 20, y, f"{name}: {what}")


def _axis(
    chart: Chart, ticks: Sequence[float], scale: float, top: int, bottom: int
) -> Iterator[str]:
    for tick in ticks:
        x = _LEFT + tick * scale
        yield (
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        )
        yield _text(x, bottom + 14, f"{tick:g}", kind="faint", size=11, at="middle")
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield _text(middle, bottom + 30, chart.axis, kind="faint", at="middle")


def _groups(chart: Chart, scale: float, top: int) -> Iterator[str]:
    y = top
    for group in chart.groups:
        yield _text(_MARGIN, y + 16, group.title, kind="group", size=13)
        y += _GROUP_TITLE
        for place, name in enumerate(chart.series):
            if bar := group.bars.get(name):
                yield from _bar(name, place, bar, scale, y)
                y += _STEP
        y += _GROUP_GAP


def _bar(name: str, place: int, bar: Bar, scale: float, y: int) -> Iterator[str]:
    own = "own" if place == 0 else ""
    base, middle = y + _BAR - 3, y + _BAR / 2
    yield _text(_LEFT - 8, base, name, kind=own, at="end")
    yield (
        f'<rect class="s{place}" x="{_LEFT}" y="{y}" width="{bar.value * scale:.1f}"'
        f' height="{_BAR}" rx="2"/>'
    )
    end = _LEFT + max(bar.value, bar.high) * scale
    if bar.low < bar.high:
        begin = _LEFT + bar.low * scale
        yield (
            f'<line class="range" x1="{begin:.1f}" x2="{end:.1f}" y1="{middle:.1f}"'
            f' y2="{middle:.1f}"/>'
        )
    digits = 0 if bar.value >= 100 else 1
    yield _text(end + 6, base, f"{bar.value:,.{digits}f}", kind=own)
