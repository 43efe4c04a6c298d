"""Bookmarks for TensorBoard's Projector: with one click it shows the places that a view has, coloured by class.

docs/decisions/0019-projector-bookmarks.md says what such a file has to hold, and why the places are "custom" there.
"""

import json

import numpy as np

from model.pictures.view import View

# Of more classes than this the Projector does not offer the colours.
_COLORED_CLASSES = 50

# What the Projector reads from every bookmark, though no setting of these matters for "custom" places: its defaults.
_DEFAULTS = {
    "pcaComponentDimensions": [0, 1, 2],
    "tSNEIteration": 0,
    "tSNEPerplexity": 25,
    "tSNELearningRate": 1,
    "tSNEis3d": True,
    "umapIs3d": True,
    "umapNeighbors": 15,
    "umapMinDist": 0.1,
    "customSelectedSearchByMetadataOption": "label",
    "customXLeftText": "",
    "customXRightText": "",
    "customYUpText": "",
    "customYDownText": "",
}


def make_bookmarks(view: View) -> bytes:
    """Returns a file with one bookmark of all points, coloured by label, and one with the mistakes selected, if any.

    The metadata beside it have a column "label".
    """
    mistakes = int(view.is_wrong.sum())
    order = np.argsort(view.is_wrong, kind="stable")  # points are drawn in this order: mistakes last, on top
    count = len(order)
    has_colors = len(np.unique(view.shown.labels)) <= _COLORED_CLASSES
    everything = {
        **_DEFAULTS,
        "label": f"{view.projection}, coloured by label" if has_colors else view.projection,
        "dataSetDimensions": [count, view.shown.embeddings.shape[1]],
        "selectedProjection": "custom",
        "filteredPoints": order.tolist(),
        "projections": [{"linear-x": x, "linear-y": y} for x, y in view.points[order].tolist()],
        "selectedPoints": [],
        "cameraDef": {"orthographic": True, "position": [0, 0, 4], "target": [0, 0, 0], "zoom": 1},
        "selectedColorOptionName": "label" if has_colors else "No color map",
        "forceCategoricalColoring": False,
        "selectedLabelOption": "label",
    }
    selected = {
        **everything,
        "label": f"{view.projection}, mistakes: {mistakes}",
        "selectedPoints": list(range(count - mistakes, count)),
    }
    return json.dumps([everything, selected] if mistakes else [everything]).encode()
