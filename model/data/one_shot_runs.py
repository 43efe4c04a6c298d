"""A folder of one-shot runs -> which image is to be recognized as which, in the form in which Lake and others publish:

    FOLDER/run01/class_labels.txt      lines "run01/test/item01.png run01/training/class08.png"
    FOLDER/run01/training/class08.png  what is shown of a class, one drawing or several
    FOLDER/run01/test/item01.png       what is to be recognized

Runs may have any names, and be any number. Every image in `training/` may be the answer. A test image is of the class
of all training images that lines name beside it; where several show a class, there is a line for each.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.errors import UserError, explain
from model.common.files import read_bytes
from model.common.text import printable
from model.data.image_files import files_below, is_hidden, is_image
from model.data.outside import OutsideImages

_LABELS = "class_labels.txt"


@dataclass(frozen=True, eq=False)
class Run:
    """A run.

    Attributes:
        name: Of its folder.
        test: (T,) int64, the indices of its test images.
        training: (S,) int64, those of its training images, S at least 2.
        is_right: (T, S) bool, which training images are of the class of a test image.
    """

    name: str
    test: np.ndarray
    training: np.ndarray
    is_right: np.ndarray


@dataclass(frozen=True)
class OneShotRuns:
    """The runs of a folder.

    Attributes:
        images: All images, to which the runs point.
        runs: In the order of their names.
        notes: A line for what was left out, or looks as if somebody should know.
    """

    images: OutsideImages
    runs: Sequence[Run]
    notes: Sequence[str]


def find(folder: Path) -> OneShotRuns:
    """Finds the runs of a folder; no image is decoded.

    Args:
        folder: It holds a folder for each run. Files beside these, and what is hidden, do not count.

    Raises:
        UserError: It holds no runs, or one that is not in the form that the module's docstring shows.
    """
    try:
        entries = sorted(folder.iterdir())
        folders = [path for path in entries if not is_hidden(path.name) and path.is_dir()]
        if not folders or (folder / _LABELS).exists():
            what = "is a run itself" if (folder / _LABELS).exists() else "holds no folders"
            raise UserError(f"{folder}: {what}, expected the folder that holds the folders of the runs; give that one")
        paths: list[Path] = []
        notes: list[str] = []
        runs = [_read_run(folder, path.name, paths, notes) for path in folders]
    except OSError as error:
        raise UserError(
            f"{explain(error, folder)}; --one_shot expects a folder of runs, each with {_LABELS}, training/ and test/"
        ) from None
    return OneShotRuns(OutsideImages(paths), runs, notes)


def _read_run(folder: Path, name: str, paths: list[Path], notes: list[str]) -> Run:
    """Reads a run; adds its images to `paths`, and what there is to tell to `notes`."""
    file = folder / name / _LABELS
    training, in_test = _images_below(folder / name / "training"), set(_images_below(folder / name / "test"))
    place = {path: index for index, path in enumerate(training)}
    answers: dict[Path, set[int]] = {}
    for number, line in enumerate(_read_lines(file), 1):
        if line.strip():
            where = f"{file}: line {number}"
            test, label = _pair(where, folder, line.strip())
            if test not in in_test:
                raise UserError(
                    f"{where}: {_told(folder, test)} is no image in {folder / name / 'test'}; mend the line"
                )
            if label not in place:
                raise UserError(
                    f"{where}: {_told(folder, label)} is no image in {folder / name / 'training'}, so that nothing "
                    "shows this class; add the image, or mend the line"
                )
            answers.setdefault(test, set()).add(place[label])
    if not answers:
        raise UserError(
            f"{file}: holds no lines, expected one for each test image: TEST_IMAGE TRAINING_IMAGE; add them"
        )
    if len(training) < 2:
        raise UserError(
            f"{folder / name / 'training'}: holds one image, expected two at least to choose from; add some"
        )
    tests = sorted(answers)
    is_right = np.zeros((len(tests), len(training)), bool)
    for row, test in zip(is_right, tests, strict=True):
        row[list(answers[test])] = True
    if unnamed := np.count_nonzero(~is_right.any(axis=0)):
        notes.append(
            f"{file}: names {unnamed} of {len(training)} training images nowhere, which are wrong answers to all"
        )
    if without := len(in_test) - len(tests):
        notes.append(f"{file}: names {without} of {len(in_test)} test images nowhere, which are left out")
    start = len(paths)
    paths += [*tests, *training]
    indices = np.arange(start, len(paths))
    return Run(name, indices[: len(tests)], indices[len(tests) :], is_right)


def _images_below(folder: Path) -> list[Path]:
    """Returns the images in a folder and below, sorted; the folder has to be there."""
    return [path for path in files_below(folder) if path.is_file() and is_image(path)]


def _read_lines(file: Path) -> list[str]:
    content = read_bytes(file)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}: line {line}: holds bytes that are no text in UTF-8; save it as such") from None


def _pair(where: str, folder: Path, line: str) -> tuple[Path, Path]:
    """Returns the two paths of a line, of which the parts and names may have spaces in them."""
    pairs = [(line[: space.start()], line[space.end() :]) for space in re.finditer(r"\s+", line)]
    there = [pair for pair in pairs if all(_exists(folder / path) for path in pair)]
    if not pairs or len(there) > 1 or (len(pairs) > 1 and not there):
        raise UserError(
            f"{where}: {printable(line, 200)!r} is no pair of paths that are there, expected TEST_IMAGE "
            f"TRAINING_IMAGE, both relative to {folder}; mend it"
        )
    first, second = (_inside(where, folder, path) for path in (there or pairs)[0])
    return first, second


def _inside(where: str, folder: Path, path: str) -> Path:
    inside = Path(os.path.relpath(folder / path, folder))
    if inside.parts[:1] in ((), (os.pardir,)):
        raise UserError(f"{where}: {printable(path, 200)!r} is not below {folder}; move the image there")
    if not _exists(folder / inside):
        raise UserError(f"{where}: {printable(path, 200)!r}: no such file in {folder}; add it, or mend the line")
    return folder / inside


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # of a name that is too long, for example
        return False


def _told(folder: Path, path: Path) -> str:
    return repr(printable(path.relative_to(folder).as_posix(), 200))
