"""Charts as SVG: places worked out by hand, and what is read out."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from model.pictures import charts
from model.pictures.charts import Axis, Line, Mark

LEFT, TOP, RIGHT, BOTTOM = charts._LEFT, charts._TOP, charts._RIGHT, charts._BOTTOM


def points(chart, number=0):
    """The corners of a line."""
    (text,) = re.findall(rf'<polyline class="line{number}"[^>]* points="([^"]*)"', chart)
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_line_lies_where_its_values_are():
    chart = charts.draw("Loss", [Line("loss", [0, 50, 100], [0, 1, 0.5])], Axis("step"), Axis("loss"))
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    assert points(chart) == [(LEFT, BOTTOM), (middle[0], TOP), (RIGHT, middle[1])]
    assert {">0<", ">20<", ">100<", ">0.2<", ">1<", ">step<", ">loss<"} <= set(re.findall(">[^<>]+<", chart))


def test_axes_end_at_round_numbers_but_where_they_are_told_to_end():
    line = Line("a", [0, 7], [0.13, 0.87])
    chart = charts.draw("a", [line], Axis("", high=8), Axis("", high=1))
    (_, low), (x, high) = points(chart)
    assert x == pytest.approx(LEFT + (RIGHT - LEFT) * 7 / 8, abs=0.06)
    assert low == pytest.approx(BOTTOM - (BOTTOM - TOP) * 0.13, abs=0.06)
    assert high == pytest.approx(BOTTOM - (BOTTOM - TOP) * 0.87, abs=0.06)
    (first, _), (last, _) = points(charts.draw("a", [line], Axis("", is_rounded=False), Axis("")))
    assert (first, last) == (LEFT, RIGHT)


def test_an_axis_of_normal_deviates():
    """0.5 lies in the middle between 0.01 and 0.99, and 0.1587 one standard deviation below it, of 2 x 2.3263."""
    line = Line("a", [0.01, 0.158655, 0.5, 0.99], [0, 0, 0, 0])
    chart = charts.draw("a", [line], Axis("", 0.01, 0.99, is_probit=True), Axis("", 0, 1))
    places = [(x - LEFT) / (RIGHT - LEFT) for x, _ in points(chart)]
    assert places == pytest.approx([0, 0.5 - 1 / (2 * 2.32635), 0.5, 1], abs=1e-3)
    assert ">50 %<" in chart and ">0.1 %<" not in chart


def test_several_lines_have_a_legend_and_one_has_none():
    lines = [Line("training", [0, 1], [1, 2]), Line("<validation>", [0, 1], [2, 1])]
    several = charts.draw("Loss", lines, Axis("step"), Axis(""))
    assert several.count("<li>") == 2 and "&lt;validation&gt;" in several
    assert "<li>" not in charts.draw("Loss", lines[:1], Axis("step"), Axis(""))


def test_what_is_read_out_says_where_lines_begin_and_end():
    chart = charts.draw('A "loss"', [Line("training", [10, 30], [1.5, 0.25])], Axis("step"), Axis(""))
    svg = ET.fromstring(re.search("<svg.*</svg>", chart, re.DOTALL)[0])
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == 'A "loss". training: from 1.5 at 10 to 0.25 at 30'


def test_marks_are_named_inside_the_picture():
    line = Line("a", [0, 10], [0, 1])
    chart = charts.draw("a", [line], Axis(""), Axis(""), [Mark("threshold", 9, 0.5), Mark("margin", 1)])
    assert re.search(rf'<circle class="mark" cx="[\d.]+" cy="{(TOP + BOTTOM) / 2}"', chart)
    assert re.search('text-anchor="end">threshold<', chart) and re.search('text-anchor="start">margin<', chart)


@pytest.mark.parametrize(("x", "y"), [([3], [2.0]), ([1, 2], [0.0, 0.0]), ([5, 9], [1e-9, 1e9]), ([0, 1], [-3, -3])])
def test_any_numbers_have_a_place(x, y):
    chart = charts.draw("a", [Line("a", x, y)], Axis("", low=0), Axis("", high=None))
    for a, b in points(chart):
        assert LEFT <= a <= RIGHT and TOP <= b <= BOTTOM
    assert "nan" not in chart and "inf" not in chart


def test_a_histogram_in_steps():
    line = charts.histogram("a", np.array([0.5, 1.5, 1.6, 1.7]), np.array([0.0, 1.0, 2.0]))
    assert line.x == [0, 0, 1, 1, 2, 2] and line.y == [0, 0.25, 0.25, 0.75, 0.75, 0]
