"""Bookmarks for TensorBoard's Projector; `test_visualize.py` opens them in a browser."""

import dataclasses
import json

import numpy as np
import pytest

from model.pictures.bookmarks import color_column, make_bookmarks
from model.pictures.view import Embedded
from model.tests.views import VIEWS, view


def bookmarks(shown):
    def is_no_json(constant):
        raise AssertionError(constant)

    return json.loads(make_bookmarks(shown), parse_constant=is_no_json)


def four_points():
    """The first and the last lie beside the gallery image of the other class."""
    images = np.zeros((4, 2, 2, 1), np.uint8)
    embeddings = np.array([[1, 0, 0], [2, 0, 0], [9, 0, 0], [8, 0, 0]], np.float32)
    shown = Embedded(images, np.array([1, 0, 1, 0], np.int32), embeddings)
    gallery = Embedded(images[:2], np.array([0, 1], np.int32), np.array([[0, 0, 0], [10, 0, 0]], np.float32))
    return dataclasses.replace(
        view(),
        shown=shown,
        gallery=gallery,
        neighbors=shown.neighbors_in(gallery, None, None),
        points=np.array([[1.5, -2], [0.25, 3], [4, 5], [-6, 7]], np.float32),
        projection="t-SNE",
    )


def test_all_that_the_projector_reads():
    """By hand: mistakes go last; without `selectedPoints` and everything from `pca...` on, TensorBoard 2.21 fails."""
    everything, mistakes = bookmarks(four_points())
    assert everything == {
        "label": "t-SNE, coloured by label",
        "dataSetDimensions": [4, 3],
        "selectedProjection": "custom",
        "filteredPoints": [1, 2, 0, 3],
        "projections": [
            {"linear-x": 0.25, "linear-y": 3},
            {"linear-x": 4, "linear-y": 5},
            {"linear-x": 1.5, "linear-y": -2},
            {"linear-x": -6, "linear-y": 7},
        ],
        "cameraDef": {"orthographic": True, "position": [0, 0, 4], "target": [0, 0, 0], "zoom": 1},
        "selectedColorOptionName": "label",
        "forceCategoricalColoring": False,
        "selectedLabelOption": "label",
        "tSNEis3d": True,
        "umapIs3d": True,
        "umapNeighbors": 15,
        "umapMinDist": 0.1,
        "customSelectedSearchByMetadataOption": "label",
        "selectedPoints": [],
        "pcaComponentDimensions": [0, 1, 2],
        "tSNEIteration": 0,
        "tSNEPerplexity": 25,
        "tSNELearningRate": 1,
        "customXLeftText": "",
        "customXRightText": "",
        "customYUpText": "",
        "customYDownText": "",
    }
    assert mistakes == {**everything, "label": "t-SNE, mistakes: 2", "selectedPoints": [2, 3]}


def test_without_mistakes_there_is_one():
    (everything,) = bookmarks(view(**VIEWS["no mistakes"]))
    assert everything["selectedPoints"] == []


def test_more_than_fifty_classes_share_ten_colors():
    """The Projector takes no column of more than 50 values."""
    fifty, more = (view(num_images=110, num_classes=number, spread=9.0) for number in (50, 51))
    assert color_column(fifty) is None
    assert [one["selectedColorOptionName"] for one in bookmarks(fifty)] == ["label", "label"]
    assert color_column(more) == [f"colour {label % 10}" for label in more.shown.labels]
    assert len(set(color_column(more))) == 10
    everything, mistakes = bookmarks(more)
    assert everything["label"] == "its first two dimensions, ten colours for all classes"
    assert (everything["selectedColorOptionName"], mistakes["selectedColorOptionName"]) == ("colour", "correct")
    assert everything["selectedLabelOption"] == mistakes["selectedLabelOption"] == "label"


@pytest.mark.parametrize("kind", VIEWS)
def test_of_every_kind_of_view(kind):
    shown = view(**VIEWS[kind])
    for bookmark in bookmarks(shown):
        order = bookmark["filteredPoints"]
        assert sorted(order) == list(range(len(shown.points)))
        found = [(point["linear-x"], point["linear-y"]) for point in bookmark["projections"]]
        np.testing.assert_array_equal(np.array(found, np.float32), shown.points[order])
        selected = [order[place] for place in bookmark["selectedPoints"]]
        assert selected in ([], np.flatnonzero(shown.is_wrong).tolist())
