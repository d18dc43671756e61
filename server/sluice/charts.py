"""Line and bar charts as SVG text, with nothing but numbers and strings behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which colour-blind readers tell apart, and two more for charts of many lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000", "#b8a800", "#8c510a")
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 34, 44
_LINE_HEIGHT = 16
_LEGEND = 118  # what a legend beside the lines takes

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Points
    dashed: bool = False
    colour: str = ""
    scattered: bool = False  # dots without the line between them


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn; `level` is a horizontal line with its name, as a target is.

    `aside` puts the legend beside the lines, for many of them; without `marks` points show only as the line they make.
    """

    title: str
    x: str
    y: str
    width: int = 560
    height: int = 320
    logarithmic: bool = False
    level: tuple[str, float] | None = None
    most_y: float | None = None
    most_x: float | None = None
    aside: bool = False
    marks: bool = True

    @property
    def right(self) -> int:
        return self.width - _RIGHT - (_LEGEND if self.aside else 0)


def lines(chart: Chart, series: Sequence[Series]) -> str:
    """A line for each series; points that are not finite are left out."""
    drawn = [
        Series(
            each.name,
            [point for point in sorted(each.points) if _drawable(point, chart)],
            each.dashed,
            each.colour,
            each.scattered,
        )
        for each in series
    ]
    drawn = [each for each in drawn if each.points]
    xs = [x for each in drawn for x, _ in each.points] or [0.0, 1.0]
    ys = [y for each in drawn for _, y in each.points] + ([chart.level[1]] if chart.level else [])
    left, right = 0.0 if min(xs) >= 0 else min(xs), chart.most_x or max(xs) or 1.0
    to_x = _linear(left, right, _LEFT, chart.right)
    to_y, ticks = _y_axis(chart, ys or [1.0])
    parts = [_frame(chart, [(to_x(tick), _number(tick)) for tick in _ticks(left, right)], to_y, ticks)]
    if chart.level:
        parts.append(_level(chart, chart.level[0], to_y(chart.level[1])))
    for number, each in enumerate(drawn):
        colour = each.colour or COLOURS[number % len(COLOURS)]
        path = " ".join(f"{to_x(x):.1f},{to_y(_within(y, chart)):.1f}" for x, y in each.points)
        dash = ' stroke-dasharray="5 4"' if each.dashed else ""
        if not each.scattered:
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if chart.marks and not each.dashed:
            dots = (f'<circle cx="{to_x(x):.1f}" cy="{to_y(_within(y, chart)):.1f}" r="2.6"/>' for x, y in each.points)
            parts.append(f'<g fill="{colour}">{"".join(dots)}</g>')
        parts.append(_legend(chart, number, Series(each.name, (), each.dashed, colour)))
    return _document(chart, parts)


def bars(chart: Chart, values: Mapping[str, float], colours: Mapping[str, str] | None = None) -> str:
    """A bar for each value, in their order."""
    to_y, ticks = _y_axis(chart, [*values.values(), 0.0])
    width = (chart.right - _LEFT) / max(1, len(values))
    labels = [(_LEFT + width * (number + 0.5), name) for number, name in enumerate(values)]
    parts = [_frame(chart, labels, to_y, ticks)]
    floor = chart.height - _BOTTOM
    for (centre, name), value in zip(labels, values.values(), strict=True):
        top = to_y(value)
        colour = (colours or {}).get(name, COLOURS[0])
        parts.append(
            f'<rect x="{centre - width * 0.38:.1f}" y="{top:.1f}" width="{width * 0.76:.1f}" '
            f'height="{max(0.0, floor - top):.1f}" fill="{colour}"><title>{escape(name)}: {value:g}</title></rect>'
        )
        parts.append(_text(centre, top - 4, _number(value), "middle"))
    if chart.level:
        parts.append(_level(chart, chart.level[0], to_y(chart.level[1])))
    return _document(chart, parts)


def _y_axis(chart: Chart, ys: Sequence[float]) -> tuple[Scale, list[float]]:
    low_pixel, high_pixel = chart.height - _BOTTOM, _TOP
    if not chart.logarithmic:
        top = chart.most_y or max(*ys, 0.0) or 1.0
        ticks = _ticks(0.0, top)
        return _linear(0.0, max(top, ticks[-1]), low_pixel, high_pixel), ticks
    positive = [y for y in ys if y > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    scale = _linear(low, high, low_pixel, high_pixel)
    marks = [m * 10.0**power for power in range(low, high) for m in (1, 2, 5)] + [10.0**high]
    return lambda y: scale(math.log10(max(y, 10.0**low))), marks


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """At most eight round numbers from low to high."""
    rough = (high - low) / 7 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= rough), 10 * power)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _drawable(point: tuple[float, float], chart: Chart) -> bool:
    return all(map(math.isfinite, point)) and (chart.most_x is None or point[0] <= chart.most_x)


def _within(y: float, chart: Chart) -> float:
    return y if chart.most_y is None else min(y, chart.most_y)


def _frame(chart: Chart, labels: Sequence[tuple[float, str]], to_y: Scale, ticks: Sequence[float]) -> str:
    right, floor = chart.right, chart.height - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="16" font-weight="600">{escape(chart.title)}</text>']
    for tick in ticks:
        y = to_y(tick)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
    parts.append(f'<line x1="{_LEFT}" y1="{floor}" x2="{right}" y2="{floor}" stroke="#444"/>')
    parts += [_text(x, floor + 16, label, "middle") for x, label in labels]
    parts.append(_text((_LEFT + right) / 2, chart.height - 8, chart.x, "middle"))
    middle = (_TOP + floor) / 2
    parts.append(
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        f"{escape(chart.y)}</text>"
    )
    return "".join(parts)


def _level(chart: Chart, name: str, y: float) -> str:
    place = f'x1="{_LEFT}" y1="{y:.1f}" x2="{chart.right}" y2="{y:.1f}"'
    line = f'<line {place} stroke="#c00" stroke-dasharray="2 3"/>'
    return line + _text(chart.right, y - 4, name, "end", "#c00")


def _legend(chart: Chart, number: int, series: Series) -> str:
    y = _TOP + 10 + number * _LINE_HEIGHT
    left = chart.right if chart.aside else _LEFT
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    place = f'x1="{left + 10}" y1="{y - 4}" x2="{left + 30}" y2="{y - 4}"'
    mark = f'<line {place} stroke="{series.colour}" stroke-width="2"{dash}/>'
    return mark + _text(left + 36, y, series.name, "start")


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _document(chart: Chart, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {chart.width} {chart.height}" width="{chart.width}" height="{chart.height}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#222"'
    ground = f'<rect width="{chart.width}" height="{chart.height}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{"".join(parts)}</svg>'
