"""The report is one page that needs nothing else, says what it was given, and runs nobody's code."""

import dataclasses
import html
import re

import numpy as np
import pytest

from model.common.text import printable
from model.params import Params
from model.pictures import html_report, page_map, report_charts
from model.pictures.html_report import About, make_report
from model.pictures.view import Embedded
from model.scoring.class_pairs import ClassPairs
from model.tests.views import HOSTILE_NAMES, VIEWS, view

ABOUT = About(Params(margin=0.7, batch_size=32))


def section(page, name):
    """The part of the page below a heading."""
    return page.split(f'<h2 id="{name}">')[1].split("</section>")[0]


def text(part):
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", part))).strip()


@pytest.mark.parametrize(
    "kind",
    [
        "one image", "two images", "one class", "training images in colour", "no mistakes", "all in one group",
        pytest.param("many classes", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_reports(kind):
    some = view(**VIEWS[kind])
    page = make_report(some, ABOUT)
    assert f"<title>{some.title}</title>" in page and f"<h1>{some.title}</h1>" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert len(re.findall("<img", page)) == len(re.findall(r"<img[^>]* alt=", page))
    assert all(alt for alt in re.findall(r'<img[^>]* alt="([^"]*)"', page)[:-1])  # the last one is hidden


def test_sections_come_in_the_order_in_which_people_ask():
    curves = {"loss": [(1, 2.0), (2, 1.0)]}
    page = make_report(view(spread=3.0), dataclasses.replace(ABOUT, training=curves))
    assert re.findall(r'<h2 id="([^"]*)"', page) == [
        "scores", "training", "embeddings", "same-or-different", "distances", "mistakes", "retrieval", "confusion",
        "unseen", "all",
    ]  # fmt: skip
    assert set(re.findall(r'href="#([^"]*)"', page)) == set(re.findall(r'<h2 id="([^"]*)"', page))


def test_the_headlines_come_with_intervals_and_baselines():
    tables = [("all classes, 60 images", [["", "network", "95 % interval", "pca"],
                                          ["eer", "0.1250", "[0.1000, 0.1500]", "0.3000"]])]  # fmt: skip
    about = dataclasses.replace(ABOUT, tables=tables, meanings={"eer": "low is good"}, facts={"network": "cnn"})
    page = make_report(view(), about)
    assert page.index("<dt>network</dt><dd>cnn</dd>") < page.index('id="scores"')
    assert text(section(page, "scores")) == (
        "Scores of the test images all classes, 60 images score network 95 % interval pca "
        "eer 0.1250 [0.1000, 0.1500] 0.3000 eer low is good"
    )


def test_all_scores_stand_in_one_table_with_their_intervals():
    scores = {"loss": 1234.5, "eer": 0.0, "eer_low95": 0.0, "eer_high95": 0.125, "unseen/eer": float("nan")}
    assert html_report._table_of_scores(scores) == {
        "groups": ["all", "unseen"],
        "lines": [("loss", ["1,234.5000", ""]), ("eer", ["0 [0, 0.1250]", "not defined"])],
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"), (1.0, "1"), (0.00003, "3e-05"), (-0.0000123, "-1.2e-05"), (0.00012, "0.0001"), (0.5, "0.5000"),
        (0.99997, "0.99997"), (0.999996, "0.999996"), (63.99999, "63.99999"), (12345.0, "12,345"),
        (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_a_number_is_written_as_0_or_1_only_where_it_is_that(value, said):
    assert html_report._number(value) == said


def test_parameters_that_differ_are_shown_and_the_others_folded():
    part = section(make_report(view(), ABOUT), "all")
    shown, folded = part.split("<details>")
    assert re.findall(r'<th scope="row">(\w+)</th><td>([^<]*)</td>', shown) == [
        ("seed", "230"), ("batch_size", "32"), ("margin", "0.7"),
    ]  # fmt: skip
    others = dict(re.findall(r'<th scope="row">(\w+)</th><td>([^<]*)</td>', folded))
    assert others.keys() == Params.model_fields.keys() - {"batch_size", "margin", "seed"}
    assert others["dataset"] == "mnist" and others["use_batch_norm"] == "false" and others["image_size"] == "null"


def test_curves_of_the_training_are_drawn_as_far_as_there_are_any():
    assert 'id="training"' not in make_report(view(), ABOUT)
    about = dataclasses.replace(
        ABOUT,
        training={"loss": [(5, 0.5), (10, 0.25)]},
        validation={"loss": [(10, 0.3)], "map_at_r": [(5, 0.5), (10, 0.75)]},
        best_step=5,
    )
    part = section(make_report(view(), about), "training")
    assert "Loss. training batches: from 0.5 at 5 to 0.25 at 10; validation images: from 0.3 at 10" in part
    assert ">this checkpoint<" in part  # step 7 of 10
    assert "Scores of the validation images. map_at_r: from 0.5 at 5 to 0.75 at 10" in part and ">the best<" in part
    assert "Distances in a batch" not in part


def test_the_threshold_is_marked_where_the_curve_has_it():
    """On a line, two images of each class: same pairs 1 apart, different ones 3, 4, 4 and 5."""
    shown = Embedded(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1]), np.float32([[0], [1], [4], [5]]))
    some = dataclasses.replace(view(num_images=4, num_classes=2), shown=shown, unseen=())
    scores = {"verification_threshold": 3.5, "false_accept_rate": 0.25, "false_reject_rate": 0.125}
    about = dataclasses.replace(ABOUT, scores=scores, calibrated_group="")
    part = section(make_report(some, about), "same-or-different")
    said = text(part)
    assert "The threshold 3.5000, by which predict.py --pair decides, was calibrated on" in said
    assert "one half of the test images; pairs" in said
    assert "wrongly accepted in 25.00% and" in said
    assert "all classes, equal error rate 0.0000" in said and said.count("threshold 3.500") == 3


def test_the_threshold_of_unseen_classes_is_the_one_that_decides_and_is_marked_on_their_curve(monkeypatch):
    """On a line: same pairs of unseen classes 2 apart, different ones 3, 5, 5 and 7; of all there are 24 different."""
    places = np.float32([[0], [1], [4], [5], [20], [22], [25], [27]])
    shown = Embedded(np.zeros((8, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1, 2, 2, 3, 3]), places)
    some = dataclasses.replace(view(num_images=8, num_classes=4), shown=shown, unseen=(2, 3))
    of_all = {"verification_threshold": 1.5, "false_accept_rate": 0.125, "false_reject_rate": 0.0}
    of_unseen = {"verification_threshold": 4.0, "false_accept_rate": 0.25, "false_reject_rate": 0.0}
    of_unseen = {f"unseen/{name}": value for name, value in of_unseen.items()}
    marks = []
    monkeypatch.setattr(report_charts.charts, "draw", lambda title, lines, x, y, drawn: marks.extend(drawn))
    told = report_charts.verification(some, of_all | of_unseen, "unseen/")["judged"]
    assert told == {"threshold": "4.0000", "of": "the test images of unseen classes", "far": "25.00%", "frr": "0.00%"}
    roc, _ = marks
    assert (roc.name, roc.x, roc.y) == ("threshold 4.000, unseen", pytest.approx(0.25, abs=1e-5), pytest.approx(1.0))
    assert report_charts.verification(some, of_all, "")["judged"]["threshold"] == "1.5000"
    assert report_charts.verification(some, {}, None)["judged"] is None


def test_which_mistakes_are_shown():
    some = view(spread=4.0)
    part = section(make_report(some, ABOUT), "mistakes")
    wrong = int(some.is_wrong.sum())
    assert wrong > 5
    assert f"{wrong} of 60 images have a nearest training image of another class" in text(part)
    assert part.count("<li>") == min(wrong, 30)
    surest = np.nanargmin(np.where(some.is_wrong, some.safety, np.nan))
    first = part.split("<li>")[1]
    names = some.class_names
    assert re.findall('alt="([^"]*)"', first) == [
        f"image {surest}, of class {names[some.shown.labels[surest]]}",
        f"the nearest training image, of class {names[some.predicted[surest]]}",
        f"the nearest training image of its class, of class {names[some.shown.labels[surest]]}",
    ]
    assert f"at {some.neighbors.other_distance[surest]:.2f}" in text(first)


def test_few_classes_are_a_matrix_and_many_a_table_of_pairs_with_examples():
    few = section(make_report(view(num_classes=2, spread=9.0), ABOUT), "confusion")
    assert 'class="matrix"' in few and 'class="pairs"' not in few
    some = view(num_images=600, num_classes=30, spread=9.0)
    many = section(make_report(some, ABOUT), "confusion")
    assert 'class="matrix"' not in many
    (a, b, count) = max(some.confusions, key=lambda pair: pair[2])
    first = many.split("<tr>")[2]
    assert text(first).startswith(f"kind {a} kind {b} {count} of 20")
    assert first.count("<img") == 2 * min(count, 3)
    assert text(many).count("kind 7 ") >= 1 and "All 30 classes, one by one" in many


def test_tall_images_keep_their_proportions_in_a_table_of_pairs():
    some = view(num_images=60, num_classes=30, spread=9.0)
    tall = np.zeros((90, 48, 12, 1), np.uint8)
    shown, gallery = (dataclasses.replace(part, images=tall[: len(part.labels)]) for part in (some.shown, some.gallery))
    page = make_report(dataclasses.replace(some, shown=shown, gallery=gallery), ABOUT)
    sizes = re.findall(r'<img[^>]* width="(\d+)" height="(\d+)"', section(page, "confusion"))
    assert sizes and set(sizes) == {("14", "56")}
    assert ".pairs img" not in page  # no style that would make them as wide as others


def test_the_matrix_is_of_the_classes_shown_however_many_the_data_have():
    some = view(num_classes=2, spread=9.0)
    some = dataclasses.replace(some, class_names=tuple(f"kind {i}" for i in range(1000)))
    part = section(make_report(some, ABOUT), "confusion")
    assert 'class="matrix"' in part and 'class="pairs"' not in part
    assert re.findall(r'<tr><th scope="row">(kind \d+)</th>', part) == ["kind 0", "kind 1"]


@pytest.mark.parametrize(("num_classes", "is_matrix"), [(4, True), (30, False)])
def test_unseen_classes_are_apart(monkeypatch, num_classes, is_matrix):
    some = view(num_images=2 * num_classes, num_classes=num_classes)
    values = np.full((num_classes, num_classes), 0.9)
    values[3, 1] = values[1, 3] = 0.625
    values[np.diag_indices(num_classes)] = np.nan
    told_apart = ClassPairs(np.arange(num_classes), values)
    monkeypatch.setitem(some.__dict__, "told_apart", told_apart)
    part = section(make_report(some, ABOUT), "unseen")
    assert f"{num_classes} classes that nobody learned from" in text(part)
    if is_matrix:
        assert sorted(re.findall(r"<td[^>]*>(0\.\d+)</td>", part)) == ["0.62", *["0.90"] * 5]
    else:
        assert text(part.split("<tr>")[2]).startswith("0.625 kind 1 kind 3")
        assert "30 classes, the worst first" in part
    seen = dataclasses.replace(view(), unseen=())
    assert 'id="unseen"' not in make_report(seen, ABOUT)


def with_files(some):
    """The same images, read from files below folders with long names."""
    shown, gallery = (
        dataclasses.replace(
            part, files=np.array([f"{folder}/{'long-' * 20}/photo-{i}.jpeg" for i in range(count)], object)
        )
        for part, folder, count in ((some.shown, "test", len(some.points)), (some.gallery, "train", 90))
    )
    return dataclasses.replace(some, shown=shown, gallery=gallery)


def test_files_are_named_where_images_come_from_files():
    some = with_files(view(spread=4.0))
    part = section(make_report(some, ABOUT), "mistakes")
    index = some.surest_mistakes[0]
    nearest, same = some.neighbors.nearest[index], some.neighbors.same[index]
    first = part.split("<li>")[1]
    files = [f"-long-/photo-{number}.jpeg" for number in (index, nearest, same)]
    shown = re.findall(r'<div class="quiet file">(.*?)</div>', first)
    assert max(map(len, shown)) == 12  # the name alone, and of that the end
    assert all(file.endswith(f"/photo-{each.split('-')[-1]}") for each, file in zip(shown, files, strict=True))
    for alt, file in zip(re.findall('alt="([^"]*)"', first), files, strict=True):
        assert f"{file}, of class kind " in alt
    assert '<div class="quiet file">' not in section(make_report(view(spread=4.0), ABOUT), "mistakes")


def test_names_keep_their_ends():
    names = ("Packages/Milk/Arla-Ecological-Medium-Fat-Milk", "Fruit/Apple/Golden-Delicious-Of-The-South")
    some = dataclasses.replace(view(num_classes=2, spread=9.0), class_names=names)
    page = make_report(some, ABOUT)
    assert "…/<wbr>Arla-Ecological-Medium-Fat-Milk" in page  # below a picture
    assert '<th scope="row">…/Golden-Delicious-Of-The-South</th>' in page  # beside a matrix


def test_nothing_comes_from_elsewhere():
    page = make_report(view(spread=3.0), ABOUT)
    assert not re.search(r"https?://|@import|url\(", page)
    addresses = set(re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']{6})""", page))
    assert {address for address in addresses if address[0] != "#"} == {"data:i"}
    assert "default-src 'none'" in page


@pytest.mark.slow
def test_many_large_images_keep_to_the_budget_and_it_is_said_which_are_left_out(monkeypatch):
    most = 2_000_000
    monkeypatch.setattr(html_report, "_MOST_BYTES", most)
    monkeypatch.setattr(page_map, "_MOST_THUMBNAILS", 200)
    some = view(num_images=400, side=96, channels=3, spread=3.0)  # 11 MB of noise
    page = make_report(some, ABOUT)
    assert 0.7 * most < len(page.encode()) <= most
    (kept,) = re.findall(r"([\d,]+) of the images, a\s+stratified sample, are in this page", page)
    assert 0 < int(kept) <= 200


def test_the_largest_map_and_names_leave_room_for_the_examples():
    """100,000 images, each of a class of its own and taken for one of 100,000 others."""
    of_images = 4 / 3 * page_map._MOST_BYTES
    assert of_images + page_map._MOST_BYTES_OF_NAMES + page_map._MOST_BYTES_OF_FILES < html_report._MOST_BYTES - 500_000
    assert html_report._MOST_BYTES < 10_000_000


def test_names_that_would_run_as_code_are_text():
    names = tuple(printable(name, 60) for name in HOSTILE_NAMES)
    some = dataclasses.replace(view(num_classes=6, spread=3.0), class_names=names, subject='"><img src=x onerror=a()>')
    about = dataclasses.replace(ABOUT, scores={"<b>score": 1.0}, facts={"data": HOSTILE_NAMES[1]}, note="<b>note")
    page = make_report(some, about)
    assert "<script>alert(1)" not in page and "<img src=x" not in page
    assert "<b>score" not in page and "<b>note" not in page
    assert html.escape("<script>alert(1)") in page
    assert page.count("</script>") == 2
