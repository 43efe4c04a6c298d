"""What the map in the report knows of every image: where it is, whose it is, what is next to it, and how it looks."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.common.draws import stratified_sample
from model.common.images import subset
from model.common.text import class_name
from model.pictures.thumbnails import SMALL, fit_webp, make_sprite, make_thumbnails
from model.pictures.view import Embedded, View

# Neighbours of an image, as long as what the map knows of all images has a place in so many bytes.
_NEIGHBORS, _MOST_BYTES, _BYTES_OF_AN_IMAGE = 8, 4_200_000, 19

# Side of the picture of all thumbnails, in pixels, and how many there are at most: more would be too small to see.
_MAX_SPRITE, _MOST_THUMBNAILS = 4096, 10_000

# Letters of a name: the most with which those of all classes that occur take no more than so many bytes. If the fewest
# letters do, too, some classes have no name.
_NAME_LETTERS, _MOST_BYTES_OF_NAMES = (60, 24, 8), 2_500_000

# Letters of the path of a file: the most with which those of all images take no more than so many bytes. Else the page
# leaves them out.
_FILE_LETTERS, _MOST_BYTES_OF_FILES = (60, 34), 800_000

# The thumbnails of a page without any: width and height of a cell of their picture, how many columns of cells it has,
# how many thumbnails there are, whether they are of small images, whose pixels are shown as they are, and packed, of
# each image the number of its cell from 1, or 0.
NO_THUMBNAILS: Mapping[str, Any] = {
    "width": 0, "height": 0, "columns": 1, "count": 0, "isSmall": False, "cells": None,
}  # fmt: skip


def describe(view: View) -> dict[str, Any]:
    """Returns what the script of the map reads, as JSON can hold it.

    Numbers of all images are little-endian arrays, packed by `_pack`: places and distances in 65,535 steps.
    """
    points = view.points - view.points.min(axis=0)
    extent = max(float(points.max()), 1e-12)
    neighbors, lengths = _neighbors(view)
    longest = max(float(lengths.max(initial=0)), 1e-12)
    verdict = np.where(view.is_right, 1, np.where(view.is_wrong, 0, 2))
    none = len(view.class_names)  # the class of the nearest where there is none
    predicted = np.where(view.neighbors.nearest >= 0, view.predicted, none)
    return {
        "names": _names([*view.class_names, "none"], np.union1d(view.shown.labels, predicted)),
        "oneOfGallery": view.one_of_gallery,
        "extent": extent,
        "points": _pack(points / extent * 65535),
        "labels": _pack(view.shown.labels),
        "predicted": _pack(predicted),
        "verdict": _pack(verdict),
        "safety": _pack(view.safety, "<f4"),
        "index": _pack(view.indices),
        "files": _files(view.shown),
        "neighborsEach": neighbors.shape[1],
        "neighbors": _pack(neighbors),
        "lengths": _pack(lengths / longest * 65535),
        "longest": longest,
    }


def _names(class_names: Sequence[str], labels: np.ndarray) -> dict[int, str]:
    """Returns the names of some labels, as short as the page needs them; of far too many labels only the first."""
    names: dict[int, str] = {}
    for letters in _NAME_LETTERS:
        names = {label: class_name(class_names[label], letters) for label in labels.tolist()}
        # As JSON writes it: a number and a name in quotes, a colon, a comma, spaces.
        sizes = np.cumsum([len(f'"{label}": "{name}", '.encode()) for label, name in names.items()])
        if sizes[-1] <= _MOST_BYTES_OF_NAMES:
            return names
    return dict(list(names.items())[: np.searchsorted(sizes, _MOST_BYTES_OF_NAMES, side="right")])


def _files(shown: Embedded) -> list[str] | None:
    """Returns the paths of the files of the images, as long as there is room; None without, or without any."""
    for letters in _FILE_LETTERS if shown.files is not None else ():
        files = [shown.file_of(index, letters) for index in range(len(shown.labels))]
        if sum(len(f'"{file}", '.encode()) for file in files) <= _MOST_BYTES_OF_FILES:
            return files
    return None


def _neighbors(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest of the images shown, without the image itself, and how far they are, (N, k) each."""
    count = len(view.points)
    place = _MOST_BYTES // count - _BYTES_OF_AN_IMAGE
    number = min(_NEIGHBORS, count - 1, max(1, place // 6))
    if number == 0:
        return np.zeros((1, 0), int), np.zeros((1, 0))
    return view.shown.nearest_others(number)


def _pack(values: np.ndarray, kind: str | None = None) -> dict[str, str]:
    """Returns an array as text: by default whole numbers from 0 up, in as few bytes as hold the largest."""
    if kind is None:
        values = np.round(values)
        kind = next(kind for kind in ("<u1", "<u2", "<u4") if values.max(initial=0) <= np.iinfo(kind).max)
    names = {"<u1": "Uint8Array", "<u2": "Uint16Array", "<u4": "Uint32Array", "<f4": "Float32Array"}
    return {"type": names[kind], "base64": base64.b64encode(np.ravel(values).astype(kind).tobytes()).decode()}


def draw_thumbnails(view: View, most_letters: int) -> tuple[Mapping[str, Any], bytes]:
    """Draws the images that are shown, or as many of them as find a place, a stratified sample, into one picture.

    Args:
        view: What is shown.
        most_letters: How long everything that is returned may be as base64 text.

    Returns:
        What the script of the map reads of it, as `NO_THUMBNAILS`, and the picture, WebP.
    """
    count = len(view.points)
    most_bytes = (most_letters - len(_pack(np.arange(count) + 1)["base64"])) * 3 // 4
    is_small = max(view.shown.images.shape[1:3]) <= SMALL
    number = min(count, _MOST_THUMBNAILS)
    while number and most_bytes > 0:
        chosen = stratified_sample(view.shown.labels, 0, number)
        thumbnails = make_thumbnails(subset(view.shown.images, chosen), _MAX_SPRITE)
        picture = fit_webp(make_sprite(thumbnails), most_bytes, is_small)
        if picture is not None:
            cells = np.zeros(count, int)
            cells[chosen] = np.arange(1, len(chosen) + 1)
            _, height, width, _ = thumbnails.shape
            columns = math.ceil(math.sqrt(len(chosen)))
            about = {
                "width": width, "height": height, "columns": columns, "count": len(chosen), "isSmall": is_small,
                "cells": _pack(cells),
            }  # fmt: skip
            return about, picture
        number //= 2
    return NO_THUMBNAILS, b""
