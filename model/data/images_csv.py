"""`images.csv` in the folder of a data set -> which files are its images, and what is known of each.

The columns are `path` and `label`, and if wanted `split`, `is_query` with `is_gallery`, and `group`, in any order. It
is the form of the data frames of open-metric-learning, written with `to_csv`.
"""

import collections
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from model.common.errors import UserError, listed
from model.common.text import printable
from model.data import csv_table
from model.data.class_folders import describe, kind_of, split_of
from model.data.csv_table import Row
from model.data.image_files import is_hidden
from model.data.listing import ListedImage, Listing

NAME = "images.csv"

_NEEDED = ("path", "label")
_KNOWN = (*_NEEDED, "split", "is_query", "is_gallery", "group")
_SPLITS = ("train", "test", "validation")  # in this order


def read(folder: Path, skip: Sequence[Path] = ()) -> Listing:
    """Reads the `images.csv` of a folder, and looks for every file that it names.

    Args:
        folder: The folder of the data set. Paths in the file are relative to it.
        skip: Folders in it whose files need not be listed.

    Returns:
        The images, in the order of the file within each split.

    Raises:
        UserError: The file is no such table, or says what cannot be, in a line that it names.
        OSError: It cannot be read.
    """
    path = folder / NAME
    columns, rows = csv_table.read(path, _needed, _KNOWN)
    identities, repeated = _find_files(path, rows, columns)
    notes = [*csv_table.notes_on_columns(path, columns, _KNOWN), *repeated]
    images, notes_on_splits = _by_split(path, list(identities.values()), columns)
    if unlisted := _count_unlisted(folder, skip, identities.keys()):
        notes_on_splits.append(f"{folder}: not listed in {NAME}, and left out: {describe(unlisted)}")
    return Listing(images, (*notes, *notes_on_splits), orders_by_number=True)


def read_all(path: Path) -> Listing:
    """Reads a file of the same form that need not be called so, of which only `path` and `label` count.

    Returns:
        The images, all of the split "all", in the order of the file.

    Raises:
        UserError, OSError: As `read`.
    """
    columns, rows = csv_table.read(path, lambda _: _NEEDED, _NEEDED)
    identities, repeated = _find_files(path, rows, _NEEDED)
    notes = [*csv_table.notes_on_columns(path, columns, _NEEDED), *repeated]
    return Listing(list(identities.values()), tuple(notes), orders_by_number=True)


def _find_files(
    path: Path, rows: Iterable[Row], columns: Sequence[str]
) -> tuple[dict[tuple[int, int], ListedImage], list[str]]:
    """Looks for every file that rows name.

    Returns:
        By what the system knows a file by, what is known of it, each once; and a line if some are listed once more.
    """
    identities: dict[tuple[int, int], tuple[int, ListedImage]] = {}
    missing, repeated = [], 0
    for row in rows:
        image = _image(path, row, columns)
        try:
            status = image.path.stat()
        except OSError as error:
            missing.append(row.missing("path", error))
            continue
        if not stat.S_ISREG(status.st_mode):
            raise row.error(f"{row.told('path')} is no file, expected that of an image")
        line, before = identities.setdefault((status.st_dev, status.st_ino), (row.line, image))
        if line != row.line:
            _check_equal(row, image, line, before)
            repeated += 1
    if missing:
        raise UserError(
            f"{path}: {len(missing)} images cannot be found, expected paths relative to {path.parent}: "
            f"{listed(missing, most=3)}"
        )
    if not identities:
        raise UserError(f"{path}: lists no images, expected a line for each; add them, or remove the file")
    notes = [f"{path}: {repeated} lines list an image once more, which counts once"] if repeated else []
    return {identity: image for identity, (_, image) in identities.items()}, notes


def _count_unlisted(
    folder: Path, skip: Sequence[Path], listed_ones: Collection[tuple[int, int]]
) -> collections.Counter[str]:
    """Counts the files below a folder that nothing lists, by suffix; links to folders are not followed."""
    found = collections.Counter[str]()
    ahead = [folder]
    while ahead:
        with os.scandir(ahead.pop()) as entries:
            for entry in entries:
                path = Path(entry)
                if is_hidden(entry.name) or path in skip or path == folder / NAME:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    ahead.append(path)
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    if not entry.is_symlink():
                        raise
                    found["links to nothing"] += 1
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[kind_of(path)] += (status.st_dev, status.st_ino) not in listed_ones
    return +found


def _needed(columns: Sequence[str]) -> list[str]:
    """Returns the columns that have to be there, if these are."""
    has_roles = {"is_query", "is_gallery"} & set(columns)
    return [*_NEEDED, *(("is_query", "is_gallery", "split") if has_roles else ())]


def _image(path: Path, row: Row, columns: Sequence[str]) -> ListedImage:
    """Returns what a row says."""
    for column in _NEEDED:
        row.check_filled(column)
    label, group = row.cells["label"].strip(), row.cells.get("group", "").strip()
    split = row.cells.get("split", "").strip()
    place = row.path_below(path.parent, "path")
    known_split = "all" if split.lower() in ("", "all") else split_of(split)
    if known_split is None:
        raise row.error(f"{row.told('split')}, expected train, test, validation or all")
    # What the columns say of images that are not tested may be empty, and says nothing.
    is_query, is_gallery = (
        row.boolean(column, default=None if known_split in ("test", "validation") else True)
        if column in columns
        else True
        for column in ("is_query", "is_gallery")
    )
    return ListedImage(known_split, label, place, is_query, is_gallery, group)


def _check_equal(row: Row, image: ListedImage, line_before: int, before: ListedImage) -> None:
    """Finds that two lines that lead to one file say the same of it."""
    facts = (
        ("label", image.class_name, before.class_name),
        ("split", image.split, before.split),
        ("is_query", image.is_query, before.is_query),
        ("is_gallery", image.is_gallery, before.is_gallery),
        ("group", image.group, before.group),
    )
    for column, now, then in facts:
        if now != then:
            raise row.error(
                f"{printable(str(image.path), 200)} is listed with {column} {printable(str(now), 60)!r}, and in line "
                f"{line_before} with {printable(str(then), 60)!r}; keep one"
            )


def _by_split(path: Path, images: list[ListedImage], columns: Sequence[str]) -> tuple[list[ListedImage], list[str]]:
    """Returns the images split by split, and what there is to say of the splits."""
    counts = collections.Counter(image.split for image in images)
    if counts.keys() == {"all"}:
        if "is_query" in columns:
            raise UserError(
                f"{path}: has queries and a gallery and no splits; write train and test into the column split, as "
                "queries are test images"
            )
        return images, []
    if "all" in counts:
        raise UserError(
            f"{path}: the split of {counts['all']} images is empty or all, that of {len(images) - counts['all']} is "
            "not; fill the column, or leave it out"
        )
    notes = []
    if "train" not in counts or len(counts) == 1:
        raise UserError(
            f"{path}: all images are of the split {' and '.join(sorted(counts))}, expected train and test, or neither "
            "to hold a part out; complete the column split"
        )
    if "test" not in counts:
        images = [replace(image, split="test") if image.split == "validation" else image for image in images]
        notes.append(f"{path}: the images of the split validation are taken for the test images, as there is no test")
    return sorted(images, key=lambda image: _SPLITS.index(image.split)), notes
