"""The name of a data set -> its images and labels in memory.

Where they come from is decided by one rule, in this order:

1. `digits`: scikit-learn's 1,797 handwritten digits, which its wheel brings along.
2. The folder (`data/<name>` unless given) holds an IDX file: the four IDX files there, as for MNIST.
3. It holds anything else: the class folders of images there. If it has `train/` and `test/`, and perhaps `val/`,
   by any of their usual names, these are the splits and the class folders lie in them; otherwise a fifth of each
   class is held out for the test.
4. It is empty or not there: the set of TensorFlow Datasets (TFDS) of that name, downloaded and prepared once
   in the subfolder `tfds`, which does not count in 3.

Hidden files never count. EMNIST, which is stored transposed, comes upright from both its sources.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common import devices
from model.common.errors import UserError, listed
from model.data import idx_files
from model.data.decoding import Decoding, are_blank, blank_images
from model.params import Params

_TFDS = "tfds"  # of a data set's folder: what TFDS downloads and prepares
TEST_FRACTION = 0.2  # of each class, where the data come without a test split
HOLD_OUT_SEED = 230  # which ones: the same test images in every experiment

# Names of the labels 0, 1, ... in IDX files; a label without a name here is called by its number.
CLASS_NAMES = {
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip

# What decides which arrays files become.
_LIBRARIES = ("numpy", "pillow", "scikit-learn", "tensorflow-datasets")

_AS_STORED = Decoding()


@dataclass(frozen=True)
class Split:
    """Images with their classes.

    Attributes:
        images: (N, H, W, C) uint8, C is 1 or 3.
        labels: (N,) int32, indices into `Dataset.class_names`.
    """

    images: np.ndarray
    labels: np.ndarray

    def where(self, chosen: np.ndarray) -> "Split":
        """Returns those that a mask, (N,) bool, chooses; of blank images, as many blank ones."""
        labels = self.labels[chosen]
        return Split(self.images[: len(labels)] if are_blank(self.images) else self.images[chosen], labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: images of one size, at least two classes to train on and one image to test.

    Attributes:
        name: As it was asked for.
        train: The training images.
        test: The test images.
        class_names: Of the labels 0, 1, ...
        validation: Validation images, where the data come with a folder of them.
        notes: A line for what was left out, or looks as if somebody should know.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Fingerprint of all images and labels, as they are in memory; "" if images are blank."""
        return self._sha256_after_each_split[-1]

    @property
    def train_sha256(self) -> str:
        """Fingerprint of the training images and their labels; "" if images are blank."""
        return self._sha256_after_each_split[0]

    @functools.cached_property
    def _sha256_after_each_split(self) -> list[str]:
        if are_blank(self.train.images):
            return [""]
        digests, found = [], hashlib.sha256()
        for split in (self.train, self.test, *([self.validation] if self.validation else [])):
            for array in (split.images, split.labels):
                found.update(f"{array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
            digests.append(found.hexdigest())
        return digests


def load(name: str, data_dir: str | os.PathLike[str] | None = None, decoding: Decoding = _AS_STORED) -> Dataset:
    """Loads a data set; the module's docstring says from where.

    Args:
        name: `digits`, a TFDS name such as `mnist` or `emnist/letters`, or a name for the user's own data.
        data_dir: the folder of its files, which has to exist; by default `data/<name>` in the current folder.
        decoding: how image files become arrays, and to which size.

    Returns:
        The data set. Images keep the order in which they are stored, image files that of their names.

    Raises:
        UserError: no such data set, no network, or files that are missing, damaged or not what they should be.
    """
    folder = _folder_of(name, data_dir)
    try:
        if not folder.is_dir() and (data_dir is not None or folder.exists()):
            raise UserError(f"{folder}: not a folder, expected the folder of data set {name!r}; create it")
        dataset = SOURCES[_choose_source(name, folder)](name, folder, decoding)
    except ImportError as error:
        raise UserError(
            f"data set {name!r}: needs the Python module {error.name!r}, which is not installed; "
            f"run: pip install -r requirements.txt"
        ) from error
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}; expected files and folders that can be "
            f"read; change their permissions or replace them"
        ) from error
    num_train_classes, num_test = len(np.unique(dataset.train.labels)), len(dataset.test.labels)
    if num_train_classes < 2 or num_test == 0:
        raise UserError(
            f"{folder}: classes to train on: {num_train_classes}, images to test on: {num_test}, expected at "
            f"least 2 and 1; add images"
        )
    return dataset


def load_for(params: Params, data_dir: Path | None, blank: bool = False) -> Dataset:
    """Loads the data set of an experiment, as `load` does; with blank images, as `Decoding` says, if asked for."""
    return load(params.dataset, data_dir, dataclasses.replace(_decoding_of(params), blank=blank))


def stamp_for(params: Params, data_dir: Path | None) -> str:
    """Returns a fingerprint of what `load_for` reads, for which no image is decoded.

    It is another one when anything below the folder of the data is added, removed or written, as the names, sizes and
    times of files tell, when it is to be decoded in another way, or when other libraries would do so.
    """
    files = [] if params.dataset == "digits" else _files_below(_folder_of(params.dataset, data_dir))
    versions = [_version_of(library) for library in _LIBRARIES]
    read = [params.dataset, dataclasses.asdict(_decoding_of(params)), files, versions]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def _files_below(folder: Path) -> list[tuple[str, int, int, int]]:
    """Returns the path, the size and the times of change of each file that is not hidden; links are followed."""
    found = []
    seen = set[tuple[int, int]]()
    ahead = [folder]
    while ahead:
        with contextlib.suppress(OSError):  # which whoever reads the data will tell
            path = ahead.pop()
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                # Nobody but the system sets the second time: another file may be as large, and as old as it says.
                times = status.st_mtime_ns, status.st_ctime_ns
                found.append((path.relative_to(folder).as_posix(), status.st_size, *times))
            elif (status.st_dev, status.st_ino) not in seen:  # else a link leads back to where this has been
                seen.add((status.st_dev, status.st_ino))
                ahead += sorted(below for below in path.iterdir() if not below.name.startswith("."))
    return sorted(found)


def _version_of(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # not every data set needs it
        return ""


def _folder_of(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    return Path("data", name) if data_dir is None else Path(data_dir)


def _decoding_of(params: Params) -> Decoding:
    return Decoding(params.image_size, params.image_bits, params.on_damaged_image)


def _choose_source(name: str, folder: Path) -> str:
    if name == "digits":
        return "digits"
    if idx_files.find(folder, name):
        return "idx"
    if _visible_names(folder):
        return "class_folders"
    return "tfds"


def _visible_names(folder: Path) -> list[str]:
    """What lies in `folder`, without hidden entries and what TFDS left there."""
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir())
    return [name for name in names if not name.startswith(".") and name != _TFDS]


def _load_digits(name: str, folder: Path, decoding: Decoding) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images.astype(np.uint16) * 255 + 8) // 16  # (1797, 8, 8), 0..16 -> 0..255, rounded
    images = _resize(images.astype(np.uint8)[..., np.newaxis], decoding)
    train, test = _hold_out(Split(images, digits.target))
    return _dataset(name, {"train": train, "test": test})


def _load_idx(name: str, folder: Path, decoding: Decoding) -> Dataset:
    arrays = idx_files.load(folder, name)

    def split(part: str) -> Split:
        images = _upright(name, arrays[f"{part}-images"][..., np.newaxis])  # (N, H, W, 1)
        return Split(_resize(images, decoding), arrays[f"{part}-labels"])

    return _dataset(name, {"train": split("train"), "test": split("t10k")}, CLASS_NAMES.get(name, ()))


def _load_class_folders(name: str, folder: Path, decoding: Decoding) -> Dataset:
    from model.data import class_folders  # which imports Pillow

    files, notes = _find_class_folders(folder)
    pixels = class_folders.read_images([path for _, _, path in files], decoding)
    read = [file for file, is_read in zip(files, pixels.is_read, strict=True) if is_read]
    if lost := {path.parent for _, _, path in files} - {path.parent for _, _, path in read}:
        raise UserError(
            f"{folder}: no image in these class folders can be read: {listed(map(str, sorted(lost)))}; replace the "
            "images, or remove the folders"
        )
    class_names = sorted({class_name for _, class_name, _ in read})
    index = {class_name: i for i, class_name in enumerate(class_names)}
    labels = np.array([index[class_name] for _, class_name, _ in read])
    sizes = collections.Counter(split for split, _, _ in read)
    if "all" in sizes:
        splits = dict(zip(("train", "test"), _hold_out(Split(pixels.images, labels)), strict=True))
    else:  # one after the other
        ends = np.cumsum(list(sizes.values()))[:-1]
        parts = zip(np.split(pixels.images, ends), np.split(labels, ends), strict=True)
        splits = {split: Split(*part) for split, part in zip(sizes, parts, strict=True)}
    return _dataset(name, splits, class_names, (*notes, *pixels.notes))


def _find_class_folders(folder: Path) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """Returns split, class and path of each image file, split by split, and what there is to say of the folder."""
    from model.data import class_folders

    splits = class_folders.find_splits(folder, skip=(_TFDS,))
    found = class_folders.find_images(list(splits.roots.values()), skip=(folder / _TFDS,))
    files, notes = [], [*splits.notes]
    for (split, root), of_split in zip(splits.roots.items(), found, strict=True):
        _check_class_folders(folder, root, of_split.classes)
        if split == "all":
            class_folders.check_parents(folder, of_split.classes)
        if of_split.left_out:
            notes.append(f"{root}: no images, and left out: {class_folders.describe(of_split.left_out)}")
        files += [(split, class_name, path) for class_name, paths in of_split.classes.items() for path in paths]
    return files, notes


def _check_class_folders(folder: Path, root: Path, classes: Mapping[str, object]) -> None:
    if not classes:
        names = _visible_names(root)
        raise UserError(
            f"{root}: holds {', '.join(names[:3]) or 'nothing'}{', ...' if len(names) > 3 else ''}, expected "
            f"one folder of images per class, or in {folder} the four IDX files; add them as data/README.md says, or "
            f"empty {folder} to download"
        )


def _load_tfds(name: str, folder: Path, decoding: Decoding) -> Dataset:
    if "tensorflow" not in sys.modules:
        devices.start_tensorflow()  # as the commands need it, before TFDS imports it
    from model.data import tfds_sets

    # Whatever is to become blank is read as single pixels, as the images of some sets differ in size.
    size = 1 if decoding.blank and decoding.image_size is not None else decoding.image_size
    images, labels, num_train, class_names = tfds_sets.load(name, folder / _TFDS, size)
    everything = Split(_resize(_upright(name, images), decoding), labels)
    train, test = _hold_out(everything) if num_train is None else _cut(everything, num_train)
    return _dataset(name, {"train": train, "test": test}, class_names)


# The extension point: a source turns (name, folder, decoding) of `load` into a data set.
SOURCES: Mapping[str, Callable[[str, Path, Decoding], Dataset]] = {
    "digits": _load_digits,
    "idx": _load_idx,
    "class_folders": _load_class_folders,
    "tfds": _load_tfds,
}


def _dataset(
    name: str, splits: Mapping[str, Split], class_names: Sequence[str] = (), notes: tuple[str, ...] = ()
) -> Dataset:
    """Renumbers the labels that occur to 0, 1, ..., and takes their names along."""
    present = np.unique(np.concatenate([split.labels for split in splits.values()]))
    renumbered = {
        part: Split(split.images, np.searchsorted(present, split.labels).astype(np.int32))
        for part, split in splits.items()
    }
    names = tuple(class_names[label] if label < len(class_names) else str(label) for label in present.tolist())
    return Dataset(name, **renumbered, class_names=names, notes=notes)


def _cut(everything: Split, num_train: int) -> tuple[Split, Split]:
    images, labels = everything.images, everything.labels
    return Split(images[:num_train], labels[:num_train]), Split(images[num_train:], labels[num_train:])


def _hold_out(everything: Split, seed: int = HOLD_OUT_SEED) -> tuple[Split, Split]:
    """Splits off the same fraction of each class; the order of the images stays.

    A class of two or more images gets into both splits, a single image into the first. Only integers decide,
    so that the same seed and labels give the same splits everywhere and always.
    """
    labels = everything.labels
    drawn = np.random.Philox(key=seed).random_raw(len(labels))
    _, starts, counts = np.unique(np.sort(labels), return_index=True, return_counts=True)
    by_class = np.lexsort((drawn, labels))  # positions, class after class, shuffled within each
    is_test = np.zeros(len(labels), bool)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        held_out = 0 if count == 1 else max(1, round(count * TEST_FRACTION))
        is_test[by_class[start : start + held_out]] = True
    return everything.where(~is_test), everything.where(is_test)


def _resize(images: np.ndarray, decoding: Decoding) -> np.ndarray:
    image_size = decoding.image_size
    if image_size is None or images.shape[1:3] == (image_size, image_size):
        return images
    if decoding.blank:
        return blank_images(len(images), image_size, image_size, images.shape[3])
    from model.data.image_files import resize  # which imports Pillow

    return np.stack([resize(image, image_size) for image in images])


def _upright(name: str, images: np.ndarray) -> np.ndarray:
    return images.swapaxes(1, 2).copy() if name.lower().split("/")[0] == "emnist" else images
