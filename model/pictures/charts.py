"""Small charts as SVG that stands in a page: its text is text, and its colours are those of the page, light or dark.

The page gives the colours: lines have the classes `line0`, `line1` and so on, text and axes the colour of the text.
Lines differ in their dashes as well.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

# The picture and the plot in it: left, top, right, bottom. Units are pixels where the page is as wide as it likes.
_WIDTH, _HEIGHT = 460, 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 68, 28, 434, 250

_DASHES = ("", "7 4", "2 3", "9 3 2 3")

# From the middle of a number below the plot to that of the next, at least.
_ROOM = 46

# Rates that an axis of normal deviates names.
_RATES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: What the legend says.
        x: (n,), ascending.
        y: (n,), finite.
        is_filled: Whether the area below it is filled, as of a histogram.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_filled: bool = False


@dataclass(frozen=True)
class Mark:
    """A place in a chart that has a name: a point, or where y is None, a line across all of it."""

    name: str
    x: float
    y: float | None = None


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What stands beside it.
        low: Where it begins; None where the lines do.
        high: Where it ends.
        is_rounded: Whether it is lengthened to round numbers where it has no given end.
        is_probit: Whether rates, above 0 and below 1, stand at their normal deviates, as in a DET curve.
        has_numbers: Whether numbers stand beside it.
    """

    label: str
    low: float | None = None
    high: float | None = None
    is_rounded: bool = True
    is_probit: bool = False
    has_numbers: bool = True


def draw(title: str, lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[Mark] = ()) -> Markup:
    """Draws lines over each other.

    Args:
        title: What the chart shows; it is the name that is read out, with where each line begins and ends.
        lines: At least one, each with a point.
        x: The axis from left to right.
        y: The axis from bottom to top.
        marks: Named places.

    Returns:
        A `figure` with a caption, a legend where there are several lines, and the SVG.
    """
    across = _scale(x, [value for line in lines for value in line.x], _LEFT, _RIGHT)
    upward = _scale(y, [value for line in lines for value in line.y], _BOTTOM, _TOP)
    parts = []
    for number, line in enumerate(lines):
        points = " ".join(f"{across(a):.1f},{upward(b):.1f}" for a, b in zip(line.x, line.y, strict=True))
        if line.is_filled:
            ends = f"{across(line.x[0]):.1f},{_BOTTOM} {points} {across(line.x[-1]):.1f},{_BOTTOM}"
            parts.append(f'<polygon class="area{number}" points="{ends}"/>')
        dashes = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number else ""
        if len(line.x) == 1:
            a, b = across(line.x[0]), upward(line.y[0])
            parts.append(f'<circle class="dot{number}" cx="{a:.1f}" cy="{b:.1f}" r="4"/>')
        parts.append(f'<polyline class="line{number}"{dashes} points="{points}"/>')
    told = "; ".join(f"{line.name}: {_from_to(line)}" for line in lines)
    plot = f"{_LEFT - 5} {_TOP - 5} {_RIGHT - _LEFT + 10} {_BOTTOM - _TOP + 10}"  # with half a dot at the ends
    x0, y0, width, height = plot.split()
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}{_legend(lines)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}. {escape(told)}">'
        f"{_draw_axes(x, y, across, upward)}"
        f'<svg x="{x0}" y="{y0}" width="{width}" height="{height}" viewBox="{plot}">{"".join(parts)}</svg>'
        f"{_draw_marks(marks, across, upward)}</svg></figure>"
    )


def histogram(name: str, values: np.ndarray, bins: np.ndarray) -> Line:
    """Returns the density of values (n,), n at least 1, in bins with these borders, as a line in steps."""
    density, _ = np.histogram(values, bins, density=True)
    x = np.repeat(bins, 2)
    return Line(name, x.tolist(), [0.0, *np.repeat(density, 2).tolist(), 0.0], is_filled=True)


def _from_to(line: Line) -> str:
    if line.is_filled:
        peak = int(np.argmax(line.y))
        return f"most at {line.x[peak]:.4g}"
    first, last = ((line.x[at], line.y[at]) for at in (0, -1))
    return f"from {first[1]:.4g} at {first[0]:,.4g} to {last[1]:.4g} at {last[0]:,.4g}"


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    items = (
        f'<li><svg width="28" height="8" aria-hidden="true"><line class="line{number}" x1="0" y1="4" x2="28" y2="4"'
        f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"/></svg> {escape(line.name)}</li>'
        for number, line in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> "_Scale":
    """Returns the scale of an axis between two places; it ends at round numbers where the axis does not say."""
    if axis.is_probit:
        low, high = axis.low or min(_RATES), axis.high or max(_RATES)
        return _Scale(_deviate, start, end, low, high, [(rate, f"{100 * rate:g} %") for rate in _RATES])
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if high <= low:
        low, high = (low, low + (abs(low) or 1.0)) if axis.high is None else (high - (abs(high) or 1.0), high)
    ticks = list(map(float, MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)))
    low = ticks[0] if axis.low is None and axis.is_rounded else low
    high = ticks[-1] if axis.high is None and axis.is_rounded else high
    return _Scale(float, start, end, low, high, [(tick, _number(tick)) for tick in ticks])


@dataclass(frozen=True)
class _Scale:
    """Turns values into places, which are in the order of `transform` of the values.

    Attributes:
        transform: What is spread evenly between the two ends.
        start: The place of `low`.
        end: The place of `high`.
        low: The least value.
        high: The largest.
        numbers: Values, with what is written beside them.
    """

    transform: Callable[[float], float]
    start: float
    end: float
    low: float
    high: float
    numbers: Sequence[tuple[float, str]]

    def __call__(self, value: float) -> float:
        low, high = self.transform(self.low), self.transform(self.high)
        return self.start + (self.end - self.start) * (self.transform(value) - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places inside the axis, with what is written there."""
        slack = 1e-9 * (self.high - self.low)
        return [(self(value), text) for value, text in self.numbers if self.low - slack <= value <= self.high + slack]


def _deviate(rate: float) -> float:
    return statistics.NormalDist().inv_cdf(min(max(rate, 1e-7), 1 - 1e-7))


def _number(value: float) -> str:
    if abs(value) >= 10_000_000:
        return f"{value / 1e6:,.4g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return "0" if math.isclose(value, 0, abs_tol=1e-12) else f"{value:.4g}"


def _draw_axes(x: Axis, y: Axis, across: _Scale, upward: _Scale) -> str:
    parts = [f'<line class="axis" x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}"/>']
    free = 0.0  # where the last number ends
    for place, text in across.ticks if x.has_numbers else ():
        if place < free:
            continue
        free = place + _ROOM
        parts.append(f'<line class="axis" x1="{place:.1f}" y1="{_BOTTOM}" x2="{place:.1f}" y2="{_BOTTOM + 4}"/>')
        parts.append(f'<text x="{place:.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{text}</text>')
    for place, text in upward.ticks if y.has_numbers else ():
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{place:.1f}" x2="{_RIGHT}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{place + 5:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text x="{_RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x.label)}</text>')
    parts.append(f'<text x="2" y="15">{escape(y.label)}</text>')
    return "".join(parts)


def _draw_marks(marks: Sequence[Mark], across: _Scale, upward: _Scale) -> str:
    """Draws lines and points, and above all of them their names."""
    shapes, names = [], []
    for row, mark in enumerate(marks):
        place = across(mark.x)
        if mark.y is None:
            height = _TOP + 14.0 + 18 * row
            shapes.append(f'<line class="mark" x1="{place:.1f}" y1="{_TOP}" x2="{place:.1f}" y2="{_BOTTOM}"/>')
        else:
            height = min(max(upward(mark.y) + 5, _TOP + 14), _BOTTOM - 6)
            shapes.append(f'<circle class="mark" cx="{place:.1f}" cy="{upward(mark.y):.1f}" r="5"/>')
        side, anchor = (-9, "end") if place > (_LEFT + _RIGHT) / 2 else (9, "start")
        where = f'x="{place + side:.1f}" y="{height:.1f}" text-anchor="{anchor}"'
        names.append(f'<text class="halo" {where}>{escape(mark.name)}</text>')
    return "".join(shapes + names)
