"""What the map knows of every image, against plain loops."""

import base64
import dataclasses
import io
import json
import resource
import sys

import numpy as np
import pytest
from PIL import Image

from model.pictures import page_map
from model.pictures.view import Embedded
from model.tests.views import VIEWS, view

TYPES = {"Uint8Array": "<u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Float32Array": "<f4"}


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed["base64"]), TYPES[packed["type"]])


@pytest.mark.parametrize("kind", ["ordinary", "two images", "one image", "many classes", "queries in groups"])
def test_what_the_map_knows(kind):
    some = view(**VIEWS[kind])
    known = page_map.describe(some)
    count, points = len(some.points), some.shown.embeddings.astype(np.float64)
    labels = unpack(known["labels"])
    assert labels.tolist() == some.shown.labels.tolist()
    places = unpack(known["points"]).reshape(count, 2) / 65535 * known["extent"]
    np.testing.assert_allclose(places, some.points - some.points.min(axis=0), atol=known["extent"] / 65535)
    each = known["neighborsEach"]
    assert each == min(8, count - 1)
    neighbors, lengths = (unpack(known[name]) for name in ("neighbors", "lengths"))
    for i in range(count):
        others = sorted((float(np.linalg.norm(points[i] - points[j])), j) for j in range(count) if j != i)[:each]
        assert neighbors[i * each : (i + 1) * each].tolist() == [j for _, j in others]
        found = lengths[i * each : (i + 1) * each] / 65535 * known["longest"]
        assert found == pytest.approx([length for length, _ in others], abs=1e-3)
    expected = [
        1 if right else 0 if answer else 2 for right, answer in zip(some.is_right, some.has_answer, strict=True)
    ]
    assert unpack(known["verdict"]).tolist() == expected
    np.testing.assert_array_equal(unpack(known["safety"]), some.safety)


def test_numbers_take_as_few_bytes_as_they_need():
    for largest, kind in ((255, "Uint8Array"), (256, "Uint16Array"), (65_535, "Uint16Array"), (65_536, "Uint32Array")):
        packed = page_map._pack(np.array([0, largest]))
        assert packed["type"] == kind and unpack(packed).tolist() == [0, largest]


def test_names_of_many_classes_are_shorter_and_keep_their_ends(monkeypatch):
    # So many letters, `"0": "", ` for each, and two more bytes for the mark of what is left out.
    monkeypatch.setattr(page_map, "_MOST_BYTES_OF_NAMES", 24 + 11 + 4 + 3 * 9 + 2)
    some = dataclasses.replace(view(num_classes=3), class_names=("Fruit/Apple/Golden-Delicious", "Fruit/Lemon", "Kiwi"))
    names = page_map.describe(some)["names"]
    assert names == {0: "…/Apple/Golden-Delicious", 1: "Fruit/Lemon", 2: "Kiwi"}
    assert len(json.dumps(names, ensure_ascii=False).encode()) == 24 + 11 + 4 + 3 * 9 + 2  # two braces, no last comma
    monkeypatch.setattr(page_map, "_MOST_BYTES_OF_NAMES", 10 + 9 + 2 * 9)  # "Gol…ious" and "…/Lemon"
    assert list(page_map.describe(some)["names"]) == [0, 1]


def test_files_are_named_by_their_ends_as_long_as_there_is_room(monkeypatch):
    assert page_map.describe(view())["files"] is None
    some = view(num_images=3)
    files = np.array(["a/" * 40 + "1.png", "b/2.png", "3.png"], object)
    some = dataclasses.replace(some, shown=dataclasses.replace(some.shown, files=files))
    assert page_map.describe(some)["files"] == ["…" + ("a/" * 40 + "1.png")[-59:], "b/2.png", "3.png"]
    room = 34 + 2 + 7 + 5 + 3 * 4  # letters, two bytes more for the mark, quotes, commas and spaces
    monkeypatch.setattr(page_map, "_MOST_BYTES_OF_FILES", room)
    assert page_map.describe(some)["files"] == ["…" + ("a/" * 40 + "1.png")[-33:], "b/2.png", "3.png"]
    monkeypatch.setattr(page_map, "_MOST_BYTES_OF_FILES", room - 1)
    assert page_map.describe(some)["files"] is None


def test_only_names_that_occur_are_in_the_page():
    """By hand: classes 2 and 5 of ten, of which one image is taken for class 7, and one for none."""
    shown = Embedded(np.zeros((3, 2, 2, 1), np.uint8), np.array([2, 5, 5]), np.float32([[0], [9], [20]]))
    gallery = Embedded(np.zeros((2, 2, 2, 1), np.uint8), np.array([7, 2]), np.float32([[10], [0]]))
    groups = np.array([0, 0, 1]), np.array([1, 2])
    neighbors = shown.neighbors_in(gallery, None, groups)
    neighbors = dataclasses.replace(neighbors, nearest=np.array([1, 0, -1]))
    some = dataclasses.replace(
        view(num_images=3, num_classes=10), shown=shown, gallery=gallery, neighbors=neighbors, points=np.eye(3)[:, :2]
    )
    known = page_map.describe(some)
    assert known["names"] == {2: "kind 2", 5: "kind 5", 7: "kind 7", 10: "none"}
    assert unpack(known["predicted"]).tolist() == [2, 7, 10]


@pytest.mark.slow
def test_neighbours_of_many_images_take_little_memory():
    """All distances of 25,000 images would be 2.5 GB."""
    rng = np.random.default_rng(0)
    shown = Embedded(np.zeros((25_000, 2, 2, 1), np.uint8), np.zeros(25_000, np.int32), rng.normal(size=(25_000, 2)))
    some = dataclasses.replace(view(), shown=shown, points=shown.embeddings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    neighbors, _ = page_map._neighbors(some)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert neighbors.shape == (25_000, 8)
    assert taken * (1 if sys.platform == "darwin" else 1024) < 1e9


def cells_of(about, picture):
    """Each image that has a cell, by its number, as it is in the picture."""
    sprite = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    found = {}
    for image, cell in enumerate(unpack(about["cells"]).tolist()):
        if cell:
            row, column = divmod(cell - 1, about["columns"])
            y, x = row * about["height"], column * about["width"]
            found[image] = sprite[y : y + about["height"], x : x + about["width"]]
    return found


@pytest.mark.parametrize("kind", ["ordinary", "training images in colour", "one image"])
def test_small_images_are_in_the_picture_as_they_are(kind):
    some = view(**VIEWS[kind])
    about, picture = page_map.draw_thumbnails(some, 10**6)
    assert about["isSmall"]
    found = cells_of(about, picture)
    assert sorted(found) == list(range(len(some.points)))
    for index, cell in found.items():
        image = some.shown.images[index]
        step_y, step_x = cell.shape[0] // image.shape[0], cell.shape[1] // image.shape[1]
        np.testing.assert_array_equal(cell[::step_y, ::step_x], np.broadcast_to(image, (*image.shape[:2], 3)))


@pytest.mark.parametrize("most", [60_000, 15_000, 100])
def test_many_large_images_are_made_worse_and_then_sampled_until_they_fit(most):
    """Noise, which no format makes small, of four classes."""
    some = view(num_images=60, side=100, channels=3)
    about, picture = page_map.draw_thumbnails(some, most)
    cells = unpack(about["cells"]) if about["count"] else np.zeros(60)
    letters = len(base64.b64encode(picture)) + (len(about["cells"]["base64"]) if about["count"] else 0)
    assert letters <= most
    assert np.count_nonzero(cells) == about["count"]
    if about["count"]:
        classes = np.bincount(some.shown.labels[cells > 0], minlength=4)
        assert classes.max() - classes.min() <= 1  # of every class its share
    assert (about["count"] > 0) == (most > 100) and not about["isSmall"]
