"""Bookmarks for TensorBoard's Projector: with one click it shows the places that a view has, coloured by class.

docs/decisions/0019-projector-bookmarks.md says what such a file has to hold, and why the places are "custom" there.
"""

import json

import numpy as np

from model.pictures.view import View

# Of a column with more values than this the Projector does not offer the colours.
_MOST_COLORS = 50

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


def color_column(view: View) -> list[str] | None:
    """Returns the column "colour" of the metadata, where classes are too many for a colour of each; else None.

    There are ten, which are used again and again, as in the report.
    """
    labels = view.shown.labels
    if len(np.unique(labels)) <= _MOST_COLORS:
        return None
    return [f"colour {number}" for number in (labels % 10).tolist()]


def make_bookmarks(view: View) -> bytes:
    """Returns a file with one bookmark of all points, coloured by class, and one with the mistakes selected, if any.

    The metadata beside it have columns "label" and "correct", and that of `color_column`.
    """
    mistakes = int(view.is_wrong.sum())
    order = np.argsort(view.is_wrong, kind="stable")  # points are drawn in this order: mistakes last, on top
    count = len(order)
    has_own_colors = color_column(view) is None
    everything = {
        **_DEFAULTS,
        "label": f"{view.projection}, {'coloured by label' if has_own_colors else 'ten colours for all classes'}",
        "dataSetDimensions": [count, view.shown.embeddings.shape[1]],
        "selectedProjection": "custom",
        "filteredPoints": order.tolist(),
        "projections": [{"linear-x": x, "linear-y": y} for x, y in view.points[order].tolist()],
        "selectedPoints": [],
        "cameraDef": {"orthographic": True, "position": [0, 0, 4], "target": [0, 0, 0], "zoom": 1},
        "selectedColorOptionName": "label" if has_own_colors else "colour",
        "forceCategoricalColoring": False,
        "selectedLabelOption": "label",
    }
    selected = {
        **everything,
        "label": f"{view.projection}, mistakes: {mistakes}",
        "selectedPoints": list(range(count - mistakes, count)),
        "selectedColorOptionName": "label" if has_own_colors else "correct",
    }
    return json.dumps([everything, selected] if mistakes else [everything]).encode()
