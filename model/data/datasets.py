"""The name of a data set -> its images and labels.

Where they come from is decided by one rule, in this order:

1. `digits`: scikit-learn's 1,797 handwritten digits, which its wheel brings along.
2. The folder (`data/<name>` unless given) holds `images.csv`: the image files that this lists.
3. It holds an IDX file: the four IDX files there, as for MNIST.
4. It holds anything else: the class folders of images there. If it has `train/` and `test/`, and perhaps `val/`,
   by any of their usual names, these are the splits and the class folders lie in them; `query/` and `gallery/` may
   stand for `test/`. Otherwise a fifth of each class is held out for the test.
5. It is empty or not there: the set of TensorFlow Datasets (TFDS) of that name, downloaded and prepared once
   in the subfolder `tfds`, which does not count in 4.

Hidden files never count. EMNIST, which is stored transposed, comes upright from both its sources.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from model.common import devices
from model.common.errors import UserError, listed
from model.common.images import Kind, StoredImages, are_blank, blank_images
from model.common.text import printable
from model.data import exclusion, idx_files
from model.data.dataset import Dataset, Rotated, Split, rotate_classes
from model.data.decoding import Decoding
from model.data.listing import ListedImage, Listing, Roles, roles_of
from model.data.room import Room, keep, of_items
from model.data.store import Contents, Item
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


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    decoding: Decoding = _AS_STORED,
    kind: Kind = "auto",
    rotated: Rotated | None = None,
    without: Path | None = None,
) -> Dataset:
    """Loads a data set; the module's docstring says from where.

    Args:
        name: `digits`, a TFDS name such as `mnist` or `emnist/letters`, or a name for the user's own data.
        data_dir: the folder of its files, which has to exist; by default `data/<name>` in the current folder.
        decoding: how image files become arrays, and to which size.
        kind: whether the images are to be in memory or stored, as `Room` says.
        rotated: whose images are turned to be classes of their own, as `rotate_classes` says; None: nobody's.
        without: a list of training images to leave out, as `exclusion.read` reads it.

    Returns:
        The data set. Images keep the order in which they are stored, image files that of their names.

    Raises:
        UserError: no such data set, no network, or files that are missing, damaged or not what they should be.
    """
    folder = _folder_of(name, data_dir)
    try:
        if not folder.is_dir() and (data_dir is not None or folder.exists()):
            raise UserError(f"{folder}: not a folder, expected the folder of data set {name!r}; create it")
        dataset = SOURCES[_choose_source(name, folder)](name, Room(folder, kind, 4 if rotated else 1), decoding)
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
    if without is not None:
        dataset = dataset.exclude(exclusion.read(without))
    return rotate_classes(dataset, rotated) if rotated else dataset


def where_images_lie(dataset: Dataset, kind: Kind) -> str:
    """Returns in words where the images of a data set lie or, if these are blank, will lie in training."""
    splits = [dataset.train, dataset.test, *([dataset.validation] if dataset.validation else [])]
    total, images = sum(split.images.nbytes for split in splits), dataset.train.images
    size = f"{total / 1e9:,.1f} GB" if total >= 1e9 else f"{total / 1e6:,.1f} MB"
    if isinstance(images, StoredImages):
        return f"{size} stored in {images.path.parent}"
    if are_blank(images) and Room(Path(), kind).stores(total):
        return f"{size}, for which too little memory is free: they are decoded once and stored beside the data"
    return f"{size} in memory"


def load_for(params: Params, data_dir: Path | None, kind: Kind = "auto", blank: bool = False) -> Dataset:
    """Loads the data set of an experiment, as `load` does; with blank images, as `Decoding` says, if asked for."""
    decoding = dataclasses.replace(decoding_of(params), blank=blank)
    without = None if params.exclude_images is None else Path(params.exclude_images)
    return load(params.dataset, data_dir, decoding, kind, params.rotated_classes, without)


def stamp_for(params: Params, data_dir: Path | None) -> str:
    """Returns a fingerprint of what `load_for` reads, for which no image is decoded.

    It is another one when anything below the folder of the data is added, removed or written, as the names, sizes and
    times of files tell, when it is to be decoded in another way, or when other libraries would do so.
    """
    files = [] if params.dataset == "digits" else _files_below(_folder_of(params.dataset, data_dir))
    versions = [_version_of(library) for library in _LIBRARIES]
    without = None
    if params.exclude_images is not None:
        listed_ones = exclusion.read(Path(params.exclude_images))
        without = [sorted(listed_ones.names), listed_ones.labels_sha256]
    read = [params.dataset, dataclasses.asdict(decoding_of(params)), params.rotated_classes, without, files, versions]
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


def decoding_of(params: Params) -> Decoding:
    """Returns how the image files of an experiment become arrays."""
    return Decoding(params.image_size, params.image_fit, params.image_bits, params.on_damaged_image)


def _choose_source(name: str, folder: Path) -> str:
    if name == "digits":
        return "digits"
    if "images.csv" in _visible_names(folder):
        return "images_csv"
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


def _load_digits(name: str, room: Room, decoding: Decoding) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images.astype(np.uint16) * 255 + 8) // 16  # (1797, 8, 8), 0..16 -> 0..255, rounded
    images = _resize(pixels.astype(np.uint8)[..., np.newaxis], decoding)
    train, test = _hold_out(Split(keep(images, room, decoding), digits.target))
    return _dataset(name, {"train": train, "test": test})


def _load_idx(name: str, room: Room, decoding: Decoding) -> Dataset:
    arrays = idx_files.load(room.folder, name)
    parts = ("train", "t10k")
    images = [_upright(name, arrays[f"{part}-images"][..., np.newaxis]) for part in parts]  # (N, H, W, 1)
    images = [_resize(of_part, decoding) for of_part in images]
    room = room.for_bytes(sum(of_part.nbytes for of_part in images))
    train, test = (
        Split(keep(of_part, room, decoding, part), arrays[f"{part}-labels"])
        for part, of_part in zip(parts, images, strict=True)
    )
    return _dataset(name, {"train": train, "test": test}, CLASS_NAMES.get(name, ()))


def _load_images_csv(name: str, room: Room, decoding: Decoding) -> Dataset:
    from model.data import images_csv  # which imports Pillow

    return _read_images(name, room, images_csv.read(room.folder, skip=(room.folder / _TFDS,)), decoding)


def _load_class_folders(name: str, room: Room, decoding: Decoding) -> Dataset:
    return _read_images(name, room, _find_class_folders(room.folder), decoding)


def _read_images(name: str, room: Room, files: Listing, decoding: Decoding) -> Dataset:
    """Returns the images of the files, split by split."""
    from model.data.reading import read_files  # which imports Pillow

    pixels = read_files([image.path for image in files.images], decoding, room)
    read = [image for image, is_there in zip(files.images, pixels.is_there, strict=True) if is_there]
    classes, classes_read = ({(image.split, image.class_name) for image in images} for images in (files.images, read))
    if lost := classes - classes_read:
        names = [class_name if split == "all" else f"{split}/{class_name}" for split, class_name in sorted(lost)]
        raise UserError(
            f"{room.folder}: no image of these classes can be read: {listed(map(printable, names))}; replace the "
            "images, or remove the classes"
        )
    class_names = files.in_order({image.class_name for image in read})
    index = {class_name: i for i, class_name in enumerate(class_names)}
    labels = np.array([index[image.class_name] for image in read])
    paths = np.array([image.path.relative_to(room.folder).as_posix() for image in read], object)
    everything = Split(pixels.images, labels, roles_of(read), paths)
    split_of_each = np.array([image.split for image in read])
    if "all" in split_of_each:
        splits = dict(zip(("train", "test"), _hold_out(everything), strict=True))
    else:
        splits = {split: everything.where(split_of_each == split) for split in dict.fromkeys(split_of_each.tolist())}
    for split, images in splits.items():
        _check_roles(room.folder, split, images.roles)
    return _dataset(name, splits, class_names, (*files.notes, *pixels.notes))


def _check_roles(folder: Path, split: str, roles: Roles | None) -> None:
    if roles is not None and not (roles.is_query.any() and roles.is_gallery.any()):
        lacks = "gallery image" if roles.is_query.any() else "query"
        raise UserError(
            f"{folder}: there is no {lacks} among the {split} images, expected one at least of both; mark some, or "
            "leave the marks out, and each is looked for among all others"
        )


def _find_class_folders(folder: Path) -> Listing:
    from model.data import class_folders

    splits = class_folders.find_splits(folder, skip=(_TFDS,))
    found = class_folders.find_images(list(splits.roots.values()), skip=(folder / _TFDS,))
    files, notes = [], [*splits.notes]
    for (part, root), of_part in zip(splits.roots.items(), found, strict=True):
        _check_class_folders(folder, root, of_part.classes)
        if part == "all":
            class_folders.check_parents(folder, of_part.classes)
        if of_part.left_out:
            notes.append(f"{root}: no images, and left out: {class_folders.describe(of_part.left_out)}")
        is_half = part in ("query", "gallery")
        split, is_query, is_gallery = "test" if is_half else part, part != "gallery", part != "query"
        for class_name, paths in of_part.classes.items():
            files += [ListedImage(split, class_name, path, is_query, is_gallery) for path in paths]
    return Listing(files, tuple(notes))


def _check_class_folders(folder: Path, root: Path, classes: Mapping[str, object]) -> None:
    if not classes:
        names = _visible_names(root)
        raise UserError(
            f"{root}: holds {', '.join(names[:3]) or 'nothing'}{', ...' if len(names) > 3 else ''}, expected "
            f"one folder of images per class, or in {folder} the four IDX files; add them as data/README.md says, or "
            f"empty {folder} to download"
        )


def _load_tfds(name: str, room: Room, decoding: Decoding) -> Dataset:
    if "tensorflow" not in sys.modules:
        devices.start_tensorflow()  # as the commands need it, before TFDS imports it
    from model.data import tfds_sets

    # Whatever is to become blank is read as single pixels, as the images of some sets differ in size.
    size = 1 if decoding.blank and decoding.image_size is not None else decoding.image_size
    opened = tfds_sets.open_set(name, room.folder / _TFDS, size, decoding.image_fit)

    def items(indices: Sequence[int]) -> Iterator[Item]:
        for image, label in opened.examples(indices[0] if indices else opened.size):
            yield Item(_upright(name, image), label)

    versions = [_version_of(library) for library in ("tensorflow", "tensorflow-datasets", "pillow")]
    made_with = {"files": opened.files, "image_size": size, "image_fit": decoding.image_fit, "versions": versions}
    contents = Contents([None] * opened.size, made_with, lambda: opened.shape, items)
    images, labels = of_items(contents, room, decoding, f"Reading {name}")
    opened.check_labels(labels)
    if isinstance(images, np.ndarray) and decoding.blank:
        images = _resize(images, decoding)
    everything = Split(images, labels)
    train, test = _hold_out(everything) if opened.num_train is None else _cut(everything, opened.num_train)
    return _dataset(name, {"train": train, "test": test}, opened.class_names)


# The extension point: a source turns (name, room with the folder, decoding) of `load` into a data set.
SOURCES: Mapping[str, Callable[[str, Room, Decoding], Dataset]] = {
    "digits": _load_digits,
    "images_csv": _load_images_csv,
    "idx": _load_idx,
    "class_folders": _load_class_folders,
    "tfds": _load_tfds,
}


def _dataset(
    name: str, splits: Mapping[str, Split], class_names: Sequence[str] = (), notes: tuple[str, ...] = ()
) -> Dataset:
    """Renumbers the labels that occur to 0, 1, ..., takes their names along, and numbers images that are no files."""
    has_files = splits["train"].names is not None
    present = np.unique(np.concatenate([split.labels for split in splits.values()]))
    renumbered = {
        part: dataclasses.replace(
            split,
            labels=np.searchsorted(present, split.labels).astype(np.int32),
            names=split.names if has_files else np.array([f"{part}/{i}" for i in range(len(split.labels))], object),
        )
        for part, split in splits.items()
    }
    names = tuple(class_names[label] if label < len(class_names) else str(label) for label in present.tolist())
    return Dataset(name, **renumbered, class_names=names, notes=notes, has_files=has_files)


def _cut(everything: Split, num_train: int) -> tuple[Split, Split]:
    is_train = np.arange(len(everything.labels)) < num_train
    return everything.where(is_train), everything.where(~is_train)


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
    size = decoding.image_size
    if size is None or images.shape[1:3] == (size, size):
        return images
    if decoding.blank:
        return blank_images(len(images), size, size, images.shape[3])
    from model.data.image_files import resize

    return np.stack([resize(image, (size, size), decoding.image_fit) for image in images])


def _upright(name: str, images: np.ndarray) -> np.ndarray:
    """Returns images (..., H, W, C), those of EMNIST with the two sides in their right order."""
    return images.swapaxes(-3, -2).copy() if name.lower().split("/")[0] == "emnist" else images
