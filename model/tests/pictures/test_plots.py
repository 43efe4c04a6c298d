"""Every picture of every kind of view can be drawn, and says what it should."""

import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from model.common.text import printable
from model.pictures import plots
from model.pictures.view import Embedded
from model.scoring.neighbors import class_neighbors
from model.tests.views import HOSTILE_NAMES, VIEWS, view

pytestmark = pytest.mark.slow


def texts(figure):
    """Everything that is written in a figure."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("picture", plots.PICTURES)
def test_pictures(picture, kind):
    figure = plots.PICTURES[picture](view(**VIEWS[kind]))
    if picture == "unseen-classes" and kind in ("one class", "one image", "two images"):
        assert figure is None  # there are no two classes with a pair of one class
        return
    if picture == "confusion" and kind == "all in one group":
        assert figure is None  # no image could be right
        return
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    pixels = np.asarray(Image.open(buffer).convert("L"))
    assert min(pixels.shape) > 50
    assert pixels.min() < 128 < pixels.max()  # something is drawn on white


def test_names_that_nobody_would_choose_of_classes_without_training_images():
    some = view(num_classes=6, spread=3.0)
    names = tuple(printable(name, 60) for name in HOSTILE_NAMES)
    assert names[0] == r"tab\tline\nfeed" and names[2] == r"\u202eright to left\u200f" and len(names[3]) == 60
    gallery = Embedded(some.gallery.images, np.zeros(90, np.int32), some.gallery.embeddings)
    neighbors = class_neighbors(some.shown.embeddings, some.shown.labels, gallery.embeddings, gallery.labels)
    assert (neighbors.same[some.shown.labels > 0] == -1).all()
    hostile = dataclasses.replace(some, class_names=names, gallery=gallery, neighbors=neighbors)
    draw_all(hostile)


def draw_all(some):
    for picture in plots.PICTURES.values():
        if (figure := picture(some)) is not None:
            figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_what_cannot_be_right_is_left_out_of_the_mistakes():
    some = view(num_classes=6, spread=2.0)
    gallery = Embedded(some.gallery.images, some.gallery.labels % 4, some.gallery.embeddings)
    neighbors = class_neighbors(some.shown.embeddings, some.shown.labels, gallery.embeddings, gallery.labels)
    some = dataclasses.replace(some, gallery=gallery, neighbors=neighbors, one_of_gallery="other test image")
    asked = some.shown.labels < 4
    wrong = np.count_nonzero(some.predicted[asked] != some.shown.labels[asked])
    left_out = np.count_nonzero(~asked)
    assert wrong > 5 and left_out == 20
    assert any(
        f"its nearest other test image is of another class ({wrong})." in text for text in texts(plots.scatter(some))
    )
    assert any(f"{wrong} mistakes" in text for text in texts(plots.mistakes(some)))
    (title,) = [text for text in texts(plots.confusion(some)) if "right (colours" in text]
    assert f"{1 - wrong / asked.sum():.2%} right" in title
    assert f"{left_out} images left out: no other test image is of their class" in title


def test_where_nothing_can_be_right_the_pictures_say_so():
    some = view(num_classes=4)
    gallery = Embedded(some.gallery.images, some.gallery.labels + 4, some.gallery.embeddings)
    neighbors = class_neighbors(some.shown.embeddings, some.shown.labels, gallery.embeddings, gallery.labels)
    some = dataclasses.replace(
        some, gallery=gallery, neighbors=neighbors, class_names=tuple(f"kind {i}" for i in range(8))
    )
    assert any("0 mistakes" in text for text in texts(plots.mistakes(some)))
    assert plots.confusion(some) is None
    draw_all(some)


def test_the_scatter_names_the_classes_and_counts_the_wrong_ones():
    mixed = view(spread=1.5)
    written = texts(plots.scatter(mixed))
    assert {"kind 0", "kind 1", "kind 2", "kind 3"} <= set(written)
    wrong = sum(
        mixed.gallery.labels[np.argmin(np.linalg.norm(mixed.gallery.embeddings - e, axis=1))] != label
        for e, label in zip(mixed.shown.embeddings, mixed.shown.labels, strict=True)
    )
    assert wrong > 5
    assert any(f"Thin ring: its nearest training image is of another class ({wrong})." in text for text in written)


@pytest.mark.parametrize("share", [0.25, 0.24])
def test_rings_are_left_out_where_they_would_hide_the_dots(share):
    """100 images of two classes, side by side, of which some have a nearest of the other class."""
    some = view(num_images=100, num_classes=2)
    wrong = np.arange(100) < 100 * share
    places = np.where(wrong, 1 - some.shown.labels, some.shown.labels)[:, np.newaxis].astype(np.float32)
    shown = Embedded(some.shown.images, some.shown.labels, places)
    gallery = Embedded(some.gallery.images[:2], np.array([0, 1]), np.float32([[0], [1]]))
    some = dataclasses.replace(some, shown=shown, gallery=gallery, neighbors=shown.neighbors_in(gallery, None, None))
    assert np.array_equal(some.is_wrong, wrong)
    figure = plots.scatter(some)
    rings = [drawn for drawn in figure.axes[0].collections if not len(drawn.get_facecolor())]
    assert [len(drawn.get_offsets()) for drawn in rings] == [24] * (share < 0.25)
    assert any("Thin ring" in text for text in texts(figure)) == (share < 0.25)


@pytest.mark.parametrize("num_classes", [40, 90, 130])
def test_the_axes_of_a_matrix_name_the_classes_and_of_very_many_there_is_none(num_classes):
    some = view(num_images=2 * num_classes, num_classes=num_classes, spread=0.001)
    some = dataclasses.replace(some, neighbors=some.shown.neighbors_in(some.shown, np.arange(2 * num_classes), None))
    some = dataclasses.replace(some, gallery=some.shown)
    assert any("which report.html names" in text for text in texts(plots.scatter(some))) == (num_classes > 40)
    figure = plots.confusion(some)
    assert (figure is None) == (num_classes > 120)
    if figure is not None:
        names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert names == [f"kind {i}" for i in range(num_classes)]


def test_a_matrix_is_of_the_classes_that_occur_in_it():
    """By hand: images of 7, 7 and 500 are taken for 7, 90,000 and 500, and no other one of 3 can be found."""
    labels, nearest = np.array([7, 7, 500, 3]), np.array([7, 90_000, 500, 500, 7])
    shown = Embedded(np.zeros((4, 2, 2, 1), np.uint8), labels, np.float32([[0], [10], [20], [30]]))
    gallery = Embedded(np.zeros((5, 2, 2, 1), np.uint8), nearest, np.float32([[0], [10], [20], [30], [40]]))
    some = dataclasses.replace(
        view(num_images=4), shown=shown, gallery=gallery, neighbors=shown.neighbors_in(gallery, None, None),
        class_names=tuple(f"kind {i}" for i in range(100_000)),
    )  # fmt: skip
    axes = plots.confusion(some).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["kind 7", "kind 500", "kind 90000"]
    assert axes.images[0].get_array().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "1", (2, 0): "1", (1, 1): "1"}


def test_thumbnails_reach_to_the_ends_of_the_cloud():
    """Points all over a disc, with more cells than anybody counted on."""
    rng = np.random.default_rng(0)
    angle, radius = 2 * np.pi * rng.random(10_000), np.sqrt(rng.random(10_000))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    some = dataclasses.replace(view(num_images=10_000, side=2), points=points)
    axes = plots.thumbnails(some).axes[0]
    drawn = np.array([box.xy for box in axes.artists])
    assert (drawn.max(axis=0) > 0.97).all() and (drawn.min(axis=0) < -0.97).all()


@pytest.mark.parametrize("ink", [255, 0])
def test_a_grey_drawing_is_tinted_where_its_ink_is(ink):
    image = np.full((8, 8, 1), 255 - ink, np.uint8)
    image[3:5, 3:5] = ink
    tinted = plots._tinted(image, "#ff0000")
    assert (tinted[..., 3] == (image[..., 0] == ink)).all() and (tinted[..., :3] == [1, 0, 0]).all()


def test_mistakes_come_in_the_order_of_their_certainty():
    mixed = view(spread=4.0)
    written = texts(plots.mistakes(mixed))
    lengths = [float(text.split()[1]) for text in written if text.startswith("distance ")]
    wrong, right = lengths[::2], lengths[1::2]
    assert len(wrong) == len(right) == min(30, np.count_nonzero(~mixed.is_right)) > 5
    gaps = np.subtract(right, wrong)
    assert (gaps >= -0.011).all()
    assert (np.diff(gaps) <= 0.021).all()  # two decimals are written of each distance


@pytest.mark.parametrize(("margin", "is_drawn"), [(0.5, True), ("soft", False), (None, False)])
def test_a_margin_is_drawn_where_distances_should_keep_it(margin, is_drawn):
    said = texts(plots.distances(dataclasses.replace(view(), margin=margin)))
    assert any(text.strip() == "margin 0.5" for text in said) == is_drawn
    assert not any("None" in text for text in said)


def test_retrieval_lists_the_nearest_in_order():
    some = view(in_gallery=True, spread=2.0)
    lengths = [float(text) for text in texts(plots.retrieval(some)) if text.replace(".", "").isdigit()]
    assert len(lengths) == 4 * 10
    for query, row in enumerate(np.reshape(lengths, (4, 10))):  # images 0 to 3 are the first of their classes
        all_lengths = np.sort(np.linalg.norm(some.gallery.embeddings - some.shown.embeddings[query], axis=1))
        np.testing.assert_allclose(row, all_lengths[1:11], atol=0.0051)  # without the image itself


def test_pairs_of_one_class_are_as_many_as_others_and_each_is_as_likely():
    labels = np.array([7, 3, 7, 5, 3, 7])
    same, different = plots.some_pairs(labels)
    counts = Counter(map(tuple, same.T.tolist()))
    expected = {(a, b) for a in range(6) for b in range(6) if a != b and labels[a] == labels[b]}
    assert set(counts) == expected
    assert max(counts.values()) < 1.1 * min(counts.values())
    assert set(map(tuple, different.T.tolist())) == {(a, b) for a, b in np.ndindex(6, 6) if labels[a] != labels[b]}
    same_of_many, _ = plots.some_pairs(np.arange(1000).repeat(2))
    assert same_of_many.shape == same.shape
    none, _ = plots.some_pairs(np.arange(3))
    assert none.shape == (2, 0)
    _, none = plots.some_pairs(np.zeros(3, int))
    assert none.shape == (2, 0)


def test_every_two_of_a_few_unseen_classes_have_a_number_and_those_that_look_alike_stand_together():
    """Classes 0 and 3 lie in one place, and so do 1 and 2, far away."""
    rng = np.random.default_rng(0)
    some = view(num_images=40, num_classes=4)
    places = np.array([0.0, 9.0, 9.0, 0.0])[some.shown.labels]
    embeddings = (places[:, np.newaxis] + rng.normal(size=(40, 3))).astype(np.float32)
    shown = dataclasses.replace(some.shown, embeddings=embeddings)
    figure = plots.unseen_classes(dataclasses.replace(some, shown=shown, unseen=(0, 1, 2, 3)))
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted([sorted(names[:2]), sorted(names[2:])]) == [["kind 0", "kind 3"], ["kind 1", "kind 2"]]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert set(cells) == {(column, row) for row in range(4) for column in range(row)}
    assert [cells[column, row] for row in (2, 3) for column in (0, 1)] == ["1.00"] * 4
    assert all(0.4 < float(cells[pair]) < 0.65 for pair in ((0, 1), (2, 3)))
    only_two = plots.unseen_classes(dataclasses.replace(some, shown=shown, unseen=(1, 3)))
    assert [text.get_text() for text in only_two.axes[0].texts] == ["1.00"]


def test_of_many_unseen_classes_the_worst_pairs_are_shown_and_all_are_counted():
    some = view(num_images=300, num_classes=30, spread=2.0)
    written = texts(plots.unseen_classes(some))
    told_apart = some.told_apart
    for first, second, value in told_apart.worst(8):
        assert {f"kind {first}", f"kind {second}", f"{value:.2f}"} <= set(written)
    lowest = [min(x for x in row if x == x) for row in told_apart.roc_auc.tolist()]
    for level in (0.6, 0.7, 0.8, 0.9):
        assert f" {sum(value < level for value in lowest)} below" in written
    assert any(": 30 unseen classes" in text for text in written)


def test_long_names_of_unseen_classes_keep_what_tells_them_apart():
    some = view(num_classes=2, spread=3.0)
    names = ("Packages/Milk/Arla-Ecological-Medium-Fat-Milk", "Packages/Milk/Garant-Ecological-Standard-Milk")
    figure = plots.unseen_classes(dataclasses.replace(some, class_names=names))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert labels == {"…/Arla-Ecological-Medium-Fat-Milk", "…/Garant-Ecological-Standard-Milk"}
