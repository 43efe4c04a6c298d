"""The report is one page that needs nothing else, says what it was given, and runs nobody's code."""

import base64
import dataclasses
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from model.common.text import printable
from model.pictures.html_report import make_report
from model.tests.views import HOSTILE_NAMES, VIEWS, view


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "one image", "two images", "one class", "training images in colour",
        pytest.param("many classes", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_reports(kind):
    some = view(**VIEWS[kind])
    page = make_report(some, {}, {"loss": 0.5}, {})
    assert f"<title>{some.title}</title>" in page and f"<h1>{some.title}</h1>" in page
    assert '<th>loss</th><td class="number">0.5000</td>' in page
    assert page.count("<script") == page.count("</script>")


def test_it_needs_nothing_else():
    page = without_scripts(make_report(view(), {"scatter": png("red")}, {}, {}))
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{5})|url\(["']?(\w+:)""", page)
    assert addresses == [("data:", "")]


@pytest.mark.parametrize("kind", ["ordinary", "training images in colour", "one image"])
def test_the_images_are_in_the_page(kind):
    some = view(**VIEWS[kind])
    page = make_report(some, {}, {}, {})
    (encoded,) = re.findall(r'atob\("([A-Za-z0-9+/=]+)"\)', page)
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    count, height, width = some.shown.images.shape[:3]
    side = int(np.ceil(np.sqrt(count)))
    cell_height, cell_width = sprite.shape[0] // side, sprite.shape[1] // side
    step_y, step_x = cell_height // height, cell_width // width
    for index, image in enumerate(some.shown.images):
        y, x = index // side * cell_height, index % side * cell_width
        cell = sprite[y : y + cell_height : step_y, x : x + cell_width : step_x]
        np.testing.assert_array_equal(cell, np.broadcast_to(image, cell.shape))


def test_pictures_stand_under_their_headings_and_those_that_are_missing_leave_no_trace():
    pictures = {"retrieval": png("blue"), "scatter": png("red")}
    page = make_report(view(), pictures, {}, {})
    shown = re.findall(r'<h2>([^<]*)</h2>\s*<p>[^<]*</p>\s*<img alt="\1" src="data:image/png;base64,([^"]*)">', page)
    assert [base64.b64decode(encoded) for _, encoded in shown] == [pictures["scatter"], pictures["retrieval"]]
    assert "surest mistakes" not in page


def test_numbers_are_written_as_people_read_them():
    scores = {"knn_accuracy": 0.98765, "global_step": 12345, "eer": 0.0, "loss": 1234.5}
    page = make_report(view(), {}, scores, {"margin": "soft", "batch_size": 64})
    assert re.findall(r'<th>(\w+)</th><td class="number">([^<]*)</td>', page) == [
        ("knn_accuracy", "0.9877"), ("global_step", "12,345"), ("eer", "0"), ("loss", "1,234.5000"),
    ]  # fmt: skip
    assert re.findall(r"<th>(\w+)</th><td>([^<]*)</td>", page) == [("margin", "soft"), ("batch_size", "64")]


def test_names_that_would_run_as_code_are_text():
    names = tuple(printable(name, 60) for name in HOSTILE_NAMES)
    some = dataclasses.replace(view(num_classes=6, spread=3.0), class_names=names, subject='"><img src=x onerror=a()>')
    page = make_report(some, {}, {"<b>score": 1.0}, {"dataset": HOSTILE_NAMES[1]})
    assert "<script>alert(1)" not in page and "<img src=x" not in page and "<b>score" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert page.count("</script>") == make_report(view(), {}, {}, {}).count("</script>")
