"""The examples of the report: mistakes, what lies next to images, which classes are confused."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.common.text import class_name, printable
from model.pictures import charts, plots
from model.pictures.charts import Axis, Line
from model.pictures.thumbnails import SMALL, as_webp
from model.pictures.view import Embedded, View, length_as_text

# How many are shown: images with what misled them, queries, neighbours of each, pairs of classes, images of each pair.
_MISTAKES, _QUERIES, _NEIGHBORS, _PAIRS, _EXAMPLES = 30, 10, 10, 20, 3

# Up to so many classes are a matrix, more are a list of pairs. So many classes are listed.
_MATRIX_CLASSES, _LISTED_CLASSES = 25, 2000

# Points of a curve.
_POINTS = 300

# Longest side of an example in the page, in pixels, and of one in a table of pairs.
_SIDE, _SIDE_OF_PAIRS = 72, 56

# Letters of a name below a picture, and beside a line.
_SHORT, _LONG = 34, 60
# Of the name of a file below a picture.
_FILE = 12


@dataclass(frozen=True)
class _Example:
    """An image in the page.

    Attributes:
        source: The image, as an address that holds it.
        size: Width and height in the page.
        alt: What it is, in words.
        caption: What stands below it.
        kind: "" or "right" or "wrong", which its frame says, and the words as well.
        is_small: Whether its pixels are shown as they are.
        file: Its file without folders, which stands below the caption of a mistake; "" where it has none.
    """

    source: str
    size: tuple[int, int]
    alt: str
    caption: str
    kind: str = ""
    is_small: bool = False
    file: str = ""


def _own_name(file: str) -> str:
    """Returns the name of a file without its folders, of which the class tells, as it fits below a picture."""
    return printable(file.rpartition("/")[2], _FILE, keeps_start=False)


def _example(
    view: View, images: Embedded, index: int, what: str, caption: str = "", kind: str = "", side: int = _SIDE
) -> _Example:
    image = images.images[index]
    height, width = (max(1, round(side * length / max(image.shape[:2]))) for length in image.shape[:2])
    file = images.file_of(index, _LONG)
    alt = f"{what}{', ' * bool(file)}{file}, of class {_name(view, images.labels[index], _LONG)}"
    source = f"data:image/webp;base64,{base64.b64encode(as_webp(image)).decode()}"
    is_small = max(image.shape[:2]) <= SMALL
    return _Example(source, (width, height), alt, caption, kind, is_small, _own_name(images.file_of(index, _LONG)))


def _name(view: View, label: int, length: int = _SHORT) -> str:
    return class_name(view.class_names[label], length)


def mistakes(view: View) -> dict[str, Any]:
    """Returns the surest mistakes: an image, its nearest, which is of another class, and the nearest of its own."""
    neighbors, wrong = view.neighbors, view.surest_mistakes
    shown = []
    for index in wrong[:_MISTAKES]:
        nearest, same = neighbors.nearest[index], neighbors.same[index]
        name, other = _name(view, view.shown.labels[index]), _name(view, view.predicted[index])
        far, near = (length_as_text(each[index]) for each in (neighbors.same_distance, neighbors.other_distance))
        one = view.one_of_gallery
        own = f"the nearest {one} of its class"
        shown.append(
            [
                _example(view, view.shown, index, f"image {view.indices[index]}", name),
                _example(view, view.gallery, nearest, f"the nearest {one}", f"{other}, at {near}", "wrong"),
                _example(view, view.gallery, same, own, f"its own, at {far}", "right"),
            ]
        )
    return {"shown": shown, "count": len(wrong), "asked": int(np.count_nonzero(view.has_answer))}


def retrieval(view: View) -> list[list[_Example]]:
    """Returns images of different classes, each with the nearest of the gallery."""
    rows = []
    for query in view.of_different_classes(_QUERIES):
        label = view.shown.labels[query]
        row = [_example(view, view.shown, query, f"image {view.indices[query]}", _name(view, label))]
        for place, (index, length) in enumerate(zip(*view.nearest_in_gallery(query, _NEIGHBORS), strict=True), 1):
            is_right = view.gallery.labels[index] == label
            caption = length_as_text(length)
            if not is_right:
                caption += f", {_name(view, view.gallery.labels[index])}"
            what = f"number {place}, {'the same class' if is_right else 'another class'}"
            row.append(_example(view, view.gallery, index, what, caption, "right" if is_right else "wrong"))
        rows.append(row)
    return rows


def confusion(view: View) -> dict[str, Any]:
    """Returns which class is taken for which: a matrix of few classes, of many the pairs with the most images."""
    confusions = view.confusions
    classes = view.asked_classes
    if 0 < len(classes) <= _MATRIX_CLASSES:
        table = view.confusion_matrix
        wrong = table - np.diag(np.diag(table))
        cells = [[f"{number}" if number else "" for number in line] for line in table]
        names = [_name(view, label) for label in classes]
        return {"matrix": _matrix(names, cells, wrong / max(1, wrong.max())), "pairs": (), "count": len(confusions)}
    sizes = np.bincount(view.shown.labels[view.has_answer], minlength=len(view.class_names))
    mistakes, misled = view.surest_mistakes, f"the {view.one_of_gallery} that misled"
    pairs = []
    for label, other, number in confusions[:_PAIRS]:
        of_pair = mistakes[(view.shown.labels[mistakes] == label) & (view.predicted[mistakes] == other)]
        examples = []
        for index in of_pair[:_EXAMPLES]:
            nearest = view.neighbors.nearest[index]
            examples.append(
                (
                    _example(view, view.shown, index, f"image {view.indices[index]}", side=_SIDE_OF_PAIRS),
                    _example(view, view.gallery, nearest, misled, kind="wrong", side=_SIDE_OF_PAIRS),
                )
            )
        pairs.append(
            {
                "name": _name(view, label, _LONG), "other": _name(view, other, _LONG), "count": number,
                "of": int(sizes[label]), "examples": examples,
            }
        )  # fmt: skip
    return {"matrix": None, "pairs": pairs, "count": len(confusions)}


def _matrix(names: Sequence[str], cells: Sequence[Sequence[str]], shades: np.ndarray) -> dict[str, Any]:
    """Returns a matrix as the page draws it: the names, and lines of cells, each with a text and a shade.

    Args:
        names: Of the lines and columns, n.
        cells: What they say, n lines of n.
        shades: (n, n), from 0, none, to 1.
    """
    steps = np.ceil(10 * np.clip(np.nan_to_num(shades), 0, 1)).astype(int).tolist()
    lines = [(name, list(zip(*line, strict=True))) for name, *line in zip(names, cells, steps, strict=True)]
    return {"names": names, "longest": max(map(len, names)), "lines": lines}


def classes(view: View) -> list[dict[str, Any]]:
    """Returns each class with its number, how many images are shown, and how many of them are right."""
    count = len(view.class_names)
    shown = np.bincount(view.shown.labels, minlength=count)
    asked = np.bincount(view.shown.labels[view.has_answer], minlength=count)
    right = np.bincount(view.shown.labels[view.is_right], minlength=count)
    taken_for: dict[int, tuple[int, int]] = {}
    for label, other, number in view.confusions:
        taken_for.setdefault(label, (other, number))
    listed = []
    for label in np.flatnonzero(shown)[:_LISTED_CLASSES].tolist():
        most = taken_for.get(label)
        listed.append(
            {
                "number": label, "name": _name(view, label, _LONG), "shown": int(shown[label]),
                "right": f"{right[label] / asked[label]:.1%}" if asked[label] else "",
                "other": f"{_name(view, most[0], _LONG)} ({most[1]})" if most else "",
            }
        )  # fmt: skip
    return listed


def unseen_classes(view: View) -> dict[str, Any] | None:
    """Returns which unseen classes are told apart; None where there are none."""
    told_apart = view.told_apart
    worst = told_apart.worst(_PAIRS)
    if not worst:
        return None
    count = len(told_apart.classes)
    if count <= _MATRIX_CLASSES:
        order = plots.order_of_alike(told_apart.roc_auc)
        table = told_apart.roc_auc[np.ix_(order, order)]
        names = [_name(view, label) for label in told_apart.classes[order]]
        table[np.triu_indices(count)] = np.nan
        cells = [["" if np.isnan(value) else f"{value:.2f}" for value in line] for line in table]
        return {"count": count, "shown": count, "matrix": _matrix(names, cells, 2 * (1 - table))}
    pairs = []
    for a, b, value in worst:
        sides = [
            [
                _example(view, view.shown, index, f"image {view.indices[index]}", side=_SIDE_OF_PAIRS)
                for index in np.flatnonzero(view.shown.labels == label)[:_EXAMPLES]
            ]
            for label in (a, b)
        ]
        pairs.append(
            {"name": _name(view, a, _LONG), "other": _name(view, b, _LONG), "roc_auc": f"{value:.3f}", "sides": sides}
        )
    lowest = np.sort(told_apart.lowest[~np.isnan(told_apart.lowest)])
    some = np.unique(np.linspace(0, len(lowest) - 1, _POINTS).round().astype(int))
    chart = charts.draw(
        "Each class with the class from which it is told apart worst",
        [Line("ROC AUC", (some + 1).tolist(), lowest[some].tolist())],
        Axis(f"{len(lowest):,} classes, the worst first", low=1),
        Axis("ROC AUC", low=min(0.5, float(lowest[0])), high=1),
    )
    return {"count": count, "shown": len(view.unseen_shown), "pairs": pairs, "chart": chart, "matrix": None}
