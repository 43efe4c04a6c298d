"""`images.csv` in the folder of a data set -> which files are its images, and what is known of each.

The columns are `path` and `label`, and if wanted `split`, `is_query` with `is_gallery`, and `group`, in any order. It
is the form of the data frames of open-metric-learning, written with `to_csv`.
"""

import collections
import csv
import io
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.common.errors import UserError, listed
from model.common.files import read_bytes
from model.common.text import printable
from model.data.class_folders import describe, kind_of, split_of
from model.data.image_files import is_hidden
from model.data.listing import ListedImage, Listing

NAME = "images.csv"

_NEEDED = ("path", "label")
_KNOWN = (*_NEEDED, "split", "is_query", "is_gallery", "group")
_BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_SPLITS = ("train", "test", "validation")  # in this order


@dataclass(frozen=True)
class _Row:
    """A row of the file: the line that it begins in, and by the name of a column what stands there."""

    line: int
    cells: Mapping[str, str]


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
    columns, rows = _parse(path, _read_text(path))
    notes = []
    if ignored := [name for name in columns if name and name not in _KNOWN]:
        notes.append(f"{path}: these columns are ignored: {listed(map(printable, ignored), most=12)}")
    identities: dict[tuple[int, int], tuple[int, ListedImage]] = {}
    missing, repeated = [], 0
    for row in rows:
        image = _image(path, row, columns)
        try:
            status = image.path.stat()
        except OSError as error:
            missing.append(f"{printable(row.cells['path'], 200)} in line {row.line} ({error.strerror})")
            continue
        if not stat.S_ISREG(status.st_mode):
            raise _error(path, row.line, f"{_told(row, 'path')} is no file, expected that of an image")
        line, before = identities.setdefault((status.st_dev, status.st_ino), (row.line, image))
        if line != row.line:
            _check_equal(path, row.line, image, line, before)
            repeated += 1
    if missing:
        raise UserError(
            f"{path}: {len(missing)} images cannot be found, expected paths relative to {folder}: "
            f"{listed(missing, most=3)}"
        )
    if not identities:
        raise UserError(f"{path}: lists no images, expected a line for each; add them, or remove the file")
    if repeated:
        notes.append(f"{path}: {repeated} lines list an image once more, which counts once")
    images, notes_on_splits = _by_split(path, [image for _, image in identities.values()], columns)
    if unlisted := _count_unlisted(folder, skip, identities.keys()):
        notes_on_splits.append(f"{folder}: not listed in {NAME}, and left out: {describe(unlisted)}")
    return Listing(images, (*notes, *notes_on_splits), orders_by_number=True)


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
                elif entry.is_file():
                    status = entry.stat()
                    found[kind_of(path)] += (status.st_dev, status.st_ino) not in listed_ones
    return +found


def _error(path: Path, line: int, message: str) -> UserError:
    return UserError(f"{path}: line {line}: {message}")


def _told(row: _Row, column: str) -> str:
    return f"{column} {printable(row.cells[column], 200)!r}"


def _read_text(path: Path) -> str:
    content = read_bytes(path)
    if not content.strip():
        raise UserError(
            f"{path}: is empty, expected a table with the columns {', '.join(_NEEDED)}; write it or remove it"
        )
    try:
        text = content.decode("utf-8-sig")
        position = text.find("\0")
        line = text.count("\n", 0, position) + 1
    except UnicodeDecodeError as error:
        position, line = error.start, content.count(b"\n", 0, error.start) + 1
    if position >= 0:
        raise _error(path, line, f"holds bytes that are no text in UTF-8; save {NAME} as CSV in UTF-8")
    return text


def _parse(path: Path, text: str) -> tuple[list[str], Iterator[_Row]]:
    """Returns the names of the columns, and the rows as they are read."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _error(path, line, f"no CSV ({error}); mend the quotes in it") from None
            if cells is None:
                return
            if any(cells):
                yield line, cells

    lines = rows()
    line, header = next(lines, (1, []))
    columns = [name.strip() for name in header]
    missing = [name for name in _NEEDED if name not in columns]
    if {"is_query", "is_gallery"} & set(columns):
        missing += [name for name in ("is_query", "is_gallery", "split") if name not in columns]
    if missing:
        delimiter = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
        if delimiter:
            raise _error(path, line, f"columns are separated by {delimiter!r}, expected commas; save it with commas")
        raise _error(
            path,
            line,
            f"no column {missing[0]!r} among {printable(', '.join(columns), 200)}; the first line names them",
        )
    if twice := [name for name in _KNOWN if columns.count(name) > 1]:
        raise _error(path, line, f"two columns are called {twice[0]!r}, expected one; rename the other")

    def table() -> Iterator[_Row]:
        for line, cells in lines:
            if len(cells) != len(columns):
                raise _error(
                    path,
                    line,
                    f"has {len(cells)} cells, expected {len(columns)} as in the first line; quote what has commas",
                )
            yield _Row(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name in _KNOWN})

    return columns, table()


def _image(path: Path, row: _Row, columns: Sequence[str]) -> ListedImage:
    """Returns what a row says."""
    folder = path.parent
    for column in _NEEDED:
        if not row.cells[column].strip():
            raise _error(path, row.line, f"the {column} is empty; fill it, or remove the line")
        if any(character < " " for character in row.cells[column]):
            raise _error(path, row.line, f"{_told(row, column)} holds a line break or another control character")
    label, group = row.cells["label"].strip(), row.cells.get("group", "").strip()
    inside = Path(os.path.relpath(folder / row.cells["path"], folder))
    if inside.parts[:1] in ((), (os.pardir,)):
        raise _error(path, row.line, f"{_told(row, 'path')} is not below {folder}; move the image there")
    split = row.cells.get("split", "").strip()
    known_split = "all" if split.lower() in ("", "all") else split_of(split)
    if known_split is None:
        raise _error(path, row.line, f"{_told(row, 'split')}, expected train, test, validation or all")
    is_query, is_gallery = (
        _boolean(path, row, column, is_needed=known_split in ("test", "validation")) if column in columns else True
        for column in ("is_query", "is_gallery")
    )
    return ListedImage(known_split, label, folder / inside, is_query, is_gallery, group)


def _boolean(path: Path, row: _Row, column: str, is_needed: bool) -> bool:
    """Returns what a column says; that of images that are not tested may be empty, and says nothing."""
    text = row.cells[column].strip().lower()
    if text not in _BOOLEANS and (text or is_needed):
        raise _error(path, row.line, f"{_told(row, column)}, expected True or False")
    return _BOOLEANS[text] if is_needed else True


def _check_equal(path: Path, line: int, image: ListedImage, line_before: int, before: ListedImage) -> None:
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
            raise _error(
                path,
                line,
                f"{printable(str(image.path), 200)} is listed with {column} {printable(str(now), 60)!r}, and in line "
                f"{line_before} with {printable(str(then), 60)!r}; keep one",
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
