"""A CSV file of pairs of images -> which files they are, and whether a pair shows the same.

The columns are `path_1`, `path_2` and `same`, and if wanted `fold`, in any order; paths are relative to the folder of
the file. Labeled Faces in the Wild comes with folds: the threshold for the pairs of one is chosen on the others.
"""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.errors import UserError, explain, listed
from model.common.text import printable
from model.data import csv_table
from model.data.outside import OutsideImages

_NEEDED = ("path_1", "path_2", "same")
_KNOWN = (*_NEEDED, "fold")


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """Pairs of images.

    Attributes:
        images: All images, each once, however many pairs it is in.
        pairs: (P, 2) int64, the indices of the images of each pair, in the order of the file.
        is_same: (P,) bool, whether they show the same; both kinds are there.
        folds: (P,) int64, from 0 to F - 1, F at least 2; None where the file has no column of that name.
        notes: A line for what looks as if somebody should know.
    """

    images: OutsideImages
    pairs: np.ndarray
    is_same: np.ndarray
    folds: np.ndarray | None
    notes: Sequence[str]


def find(path: Path) -> ImagePairs:
    """Reads a file of pairs, and looks for every image that it names; no image is decoded.

    Raises:
        UserError: The file is no such table, or says what cannot be, in a line that it names.
    """
    try:
        columns, rows = csv_table.read(path, lambda _: _NEEDED, _KNOWN)
        return _find(path, columns, list(rows))
    except OSError as error:
        raise UserError(
            f"{explain(error, path)}; --pairs expects a CSV file with the columns {', '.join(_NEEDED)}"
        ) from None


def _find(path: Path, columns: Sequence[str], rows: Sequence[csv_table.Row]) -> ImagePairs:
    files: dict[tuple[int, int], tuple[int, Path]] = {}  # by what the system knows a file by: its index, its path
    known: dict[tuple[int, int], tuple[int, bool]] = {}  # by the indices of a pair: its line, whether it is the same
    pairs, is_same, folds, missing, repeated = [], [], [], [], 0
    for row in rows:
        ends = []
        for column in ("path_1", "path_2"):
            row.check_filled(column)
            image = row.path_below(path.parent, column)
            try:
                status = image.stat()
            except OSError as error:
                missing.append(row.missing(column, error))
                continue
            if not stat.S_ISREG(status.st_mode):
                raise row.error(f"{row.told(column)} is no file, expected that of an image")
            ends.append(files.setdefault((status.st_dev, status.st_ino), (len(files), image))[0])
        same = row.boolean("same")
        if "fold" in columns:
            row.check_filled("fold")
            folds.append(row.cells["fold"].strip())
        if len(ends) < 2:
            continue
        first, second = sorted(ends)
        if first == second:
            raise row.error(f"{row.told('path_1')} is paired with itself, expected two images; remove the line")
        line, before = known.setdefault((first, second), (row.line, same))
        if before != same:
            raise row.error(f"these images are {same} in column same, and {before} in line {line}; keep one")
        repeated += line != row.line
        pairs.append(ends)
        is_same.append(same)
    if missing:
        raise UserError(
            f"{path}: {len(missing)} images cannot be found, expected paths relative to {path.parent}: "
            f"{listed(missing, most=3)}"
        )
    kinds = np.array(is_same, bool)
    _check_kinds(path, kinds)
    notes = csv_table.notes_on_columns(path, columns, _KNOWN)
    if repeated:
        notes.append(f"{path}: {repeated} pairs are listed once more, and count each time")
    images = OutsideImages([image for _, image in files.values()])
    return ImagePairs(images, np.array(pairs), kinds, _number(path, folds, kinds) if folds else None, notes)


def _check_kinds(path: Path, is_same: np.ndarray) -> None:
    same = int(np.count_nonzero(is_same))
    if min(same, len(is_same) - same) < 2:
        raise UserError(
            f"{path}: {same} pairs are the same and {len(is_same) - same} are not, expected two at least of both; add "
            "pairs"
        )


def _number(path: Path, names: Sequence[str], is_same: np.ndarray) -> np.ndarray:
    """Returns numbers for the names of folds, and makes sure that a threshold can be chosen outside of each."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    folds = np.array([number[name] for name in names])
    if len(number) < 2:
        raise UserError(
            f"{path}: all pairs are of one fold, expected two at least; add some, or remove the column fold"
        )
    for name, place in number.items():
        others = is_same[folds != place]
        if others.all() or not others.any():
            kind = "different" if others.all() else "same"
            raise UserError(
                f"{path}: there are no {kind} pairs outside of fold {printable(name, 60)!r}, expected both kinds to "
                "choose its threshold; divide them anew"
            )
    return folds
