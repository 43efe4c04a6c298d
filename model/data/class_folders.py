"""A folder of class folders of images -> which files are images of which class.

Every folder that directly holds images is one class, named by its path. `find_splits` finds the folders of the
training, test and validation images, `find_images` their classes.
"""

import collections
import itertools
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from model.common.errors import UserError, listed
from model.data.image_files import is_hidden, is_image

# What folders of the splits are called, in small letters.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}
# The two halves of the test images, where those of one are looked up in the other.
_HALVES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "queries", "probe", "probes"),
    "gallery": ("gallery", "galleries"),
}
# Suffixes of images that are not read: a folder of these was meant as a class.
_OTHER_IMAGES = frozenset(
    {
        ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".ico", ".tga", ".exr", ".hdr",
        ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Splits:
    """The folders of the splits.

    Attributes:
        roots: "train" and "test", or "query" and "gallery" in the place of "test", and "validation" if there is such a
            folder, each by any of its usual names, in large letters or small; or "all", the folder of the class
            folders, if nothing in it is called so.
        notes: A line for each folder that is left out, or is taken for another.
    """

    roots: dict[str, Path]
    notes: tuple[str, ...] = ()


def find_splits(folder: Path, skip: Sequence[str] = ()) -> Splits:
    """Finds the folders of the splits.

    Args:
        folder: The folder of the data set. If all images lie below a single folder in it, as in an unpacked archive,
            that one is looked into instead. So is `train/train/`, which archives of one split unpack to.
        skip: Names in it that do not count.

    Raises:
        UserError: There is a folder of training or of test images without the other, or two of one split.
        OSError: A folder cannot be read.
    """
    notes: list[str] = []
    given = folder
    while (inner := _only_folder(folder, skip)) is not None and split_of(inner.name) is None:
        notes += _note_on_files(folder, skip)
        folder, skip = inner, ()
    folders, _ = _entries(folder, skip)
    found = _by_split(folder, folders)
    if not found:
        if folder != given:
            notes.append(f"{folder}/: all images lie below this folder, which is in no name of a class")
        return Splits({"all": folder}, tuple(notes))
    notes += _note_on_files(folder, skip)
    taken = {path for root in found.values() for path in (root, root.parent)}
    notes += [f"{path}/ is left out" for path in folders if path not in taken]
    has_test = "test" in found or "query" in found
    if not has_test and {"train", "validation"} <= found.keys():
        found["test"] = found.pop("validation")
        notes.append(f"{found['test']}/ is taken for the test images, as there is no test/")
    elif not has_test or "train" not in found:
        lone = next(found[split] for split in _SPLITS if split in found)
        raise UserError(
            f"{folder}: has class folders in {lone.name}/, expected train/ and test/ together or neither; "
            "rename the folders"
        )
    for split, root in found.items():
        while (inner := _only_folder(root)) is not None and split_of(inner.name) == split:
            notes += _note_on_files(root)
            root = found[split] = inner
    return Splits({split: found[split] for split in (*_SPLITS, *_HALVES) if split in found}, tuple(notes))


def _by_split(folder: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Returns those of the folders in a folder that are called like a split, or like a half of the test images."""
    found = _by_name(folder, folders, _SPLITS)
    if found.keys() == {"validation"} and not _entries(found["validation"])[0]:
        return {}  # it is a class, as "valid" beside "invalid"
    if "train" not in found:  # so that "query" is the name of a class
        return found
    halves = _by_name(folder, folders, _HALVES)
    if len(halves) == 2 and "test" in found:
        raise UserError(
            f"{folder}: the test images are in {found['test'].name}/, and in {halves['query'].name}/ and "
            f"{halves['gallery'].name}/ as well; rename one or the others"
        )
    if len(halves) == 1 and not {"test", "validation"} & found.keys():
        (half,) = halves.values()
        raise UserError(
            f"{folder}: has {half.name}/ beside train/, expected query/ and gallery/ together; rename the folders"
        )
    if "test" not in found:
        return found | halves if len(halves) == 2 else found
    within, _ = _entries(found["test"])
    halves = _by_name(found["test"], within, _HALVES)
    if len(halves) == len(within) == 2 and all(_entries(half)[0] for half in within):
        return {split: root for split, root in found.items() if split != "test"} | halves
    return found


def _by_name(folder: Path, folders: Sequence[Path], names: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """Returns the folders that are called by one of the names of something, each only once, by what they are called."""
    found: dict[str, Path] = {}
    for path in folders:
        for kind in (kind for kind, known in names.items() if path.name.lower() in known):
            if kind in found:
                raise UserError(
                    f"{folder}: {found[kind].name}/ and {path.name}/ are both of the {kind} images; rename one"
                )
            found[kind] = path
    return found


def split_of(name: str) -> str | None:
    """Returns the split that is called so, "train", "test" or "validation"; None if none is."""
    return next((split for split, names in _SPLITS.items() if name.lower() in names), None)


def _entries(folder: Path, skip: Collection[str] = ()) -> tuple[list[Path], list[Path]]:
    """Returns the folders that lie in another one, and all else, both sorted."""
    entries: tuple[list[Path], list[Path]] = [], []
    for path in sorted(folder.iterdir()):
        if not is_hidden(path.name) and path.name not in skip:
            entries[not path.is_dir()].append(path)
    return entries


def _only_folder(folder: Path, skip: Collection[str] = ()) -> Path | None:
    """Returns the folder below which all images of another one lie; None if there are several, or it is a class."""
    folders, others = _entries(folder, skip)
    if len(folders) != 1 or _any_image(others):
        return None
    below, others_below = _entries(folders[0])
    return folders[0] if below and not _any_image(others_below) else None


def _any_image(paths: Sequence[Path]) -> bool:
    return any(path.is_file() and is_image(path) for path in paths)


def _note_on_files(folder: Path, skip: Collection[str] = ()) -> list[str]:
    """Returns a line on the files beside the folders that are looked into, if there are some."""
    _, others = _entries(folder, skip)
    if not others:
        return []
    return [f"{folder}: left out beside the folders: {describe(collections.Counter(map(kind_of, others)))}"]


def kind_of(path: Path) -> str:
    """Returns what a file is counted as: its suffix."""
    return path.suffix.lower() or "without a suffix"


def describe(counts: Mapping[str, int]) -> str:
    """Returns what was left out, as `Found.left_out` has it, in words: what is there most often comes first."""
    return listed(f"{counts[kind]} {kind}" for kind in sorted(counts, key=lambda kind: (-counts[kind], kind)))


@dataclass(frozen=True)
class Found:
    """What lies below the folder of a split.

    Attributes:
        classes: Class name (the path below the folder, with `/`) -> its image files; both sorted.
        left_out: What is no image, by suffix or in words, such as "links to nothing" -> how often.
    """

    classes: dict[str, list[Path]] = field(default_factory=dict)
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def num_images(self) -> int:
        """How many there are."""
        return sum(map(len, self.classes.values()))


def find_images(roots: Sequence[Path], skip: Sequence[Path] = ()) -> list[Found]:
    """Finds the images below each of some folders, in an order that no file system can change.

    A file is an image if `is_image` says so. Links are followed; what several links or roots lead to counts once:
    where it lies, or else where the first link lies. Hidden files and folders do not count.

    Args:
        roots: Folders of class folders.
        skip: Folders that are passed over too.

    Returns:
        For each root, what lies below it.

    Raises:
        UserError: An image lies in a root itself, in no class, or a folder holds images, but none that can be read.
        OSError: A folder cannot be read.
    """
    search = _Search(skip)
    found = [Found() for _ in roots]
    links = [search.walk(root, root, into) for root, into in zip(roots, found, strict=True)]
    for root, into, of_root in zip(roots, found, links, strict=True):
        ahead = collections.deque(of_root)
        while ahead:
            link = ahead.popleft()
            if link.is_dir():
                ahead += search.walk(root, link, into)
            else:
                search.take(root, link, into)
    return [Found({name: sorted(into.classes[name]) for name in sorted(into.classes)}, into.left_out) for into in found]


class _Search:
    """A walk that visits each folder once and takes each image once."""

    def __init__(self, skip: Sequence[Path]) -> None:
        self._skip = skip
        self._seen: set[tuple[int, int]] = set()

    def walk(self, root: Path, start: Path, into: Found) -> list[Path]:
        """Finds the images in a folder and below; returns the links there to folders and images, not followed yet."""
        links: list[Path] = []
        ahead = [start]
        while ahead:
            folder = ahead.pop()
            if not self._is_new(folder.stat()):
                into.left_out["links to folders that count already"] += 1
                continue
            folders, links_here = self._look_into(root, folder, into)
            ahead += reversed(folders)
            links += links_here
        return links

    def take(self, root: Path, image: Path, into: Found) -> None:
        """Takes an image, if nothing has led to it before."""
        if self._is_new(image.stat()):
            into.classes.setdefault(image.parent.relative_to(root).as_posix(), []).append(image)
        else:
            into.left_out["links to images that count already"] += 1

    def _is_new(self, status: os.stat_result) -> bool:
        """Returns whether this is the first time that anything leads to this file or folder."""
        identity = status.st_dev, status.st_ino
        is_new = identity not in self._seen
        self._seen.add(identity)
        return is_new

    def _look_into(self, root: Path, folder: Path, into: Found) -> tuple[list[Path], list[Path]]:
        """Takes the images of one folder; returns the folders in it, and the links to folders and images."""
        images: list[Path] = []
        folders: list[Path] = []
        links: list[Path] = []
        left_out = collections.Counter[str]()
        paths = sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path not in self._skip)
        if not paths:
            left_out["empty folders"] += 1
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                if not path.is_symlink():
                    raise
                left_out["links to nothing"] += 1
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if path.is_symlink() else folders).append(path)
            elif not stat.S_ISREG(status.st_mode):  # a pipe, for example, that one could wait for forever
                left_out["pipes and devices"] += 1
            elif not is_image(path):
                left_out[kind_of(path)] += 1
            else:
                images.append(path)
        into.left_out.update(left_out)
        if images and folder == root:
            raise UserError(f"{images[0]}: lies in no class folder; move it into the one of its class")
        unread = sorted(_OTHER_IMAGES & left_out.keys())
        if unread and not images:
            raise UserError(
                f"{folder}: all its images are {', '.join(unread)} files, which are not read; convert them, to PNG or "
                "JPEG for example, or remove the folder"
            )
        for image in images:
            if image.is_symlink():
                links.append(image)
            else:
                self.take(root, image, into)
        return folders, links


def check_parents(folder: Path, classes: Collection[str]) -> None:
    """Finds class folders that look like splits, deeper down or by another name.

    Args:
        folder: The folder of the data set.
        classes: The names of the classes, as `find_images` returns them.

    Raises:
        UserError: Some lie in `train/` and some in `test/` of one folder, which is a data set among others; or all
            classes of one folder, two at least, are there once more below another, as `second/cat` and `first/cat`.
    """
    splits: dict[str, set[str | None]] = {}
    for name in classes:
        parts = name.split("/")
        for depth, part in enumerate(parts[:-1]):
            splits.setdefault("/".join(parts[:depth]), set()).add(split_of(part))
    for parent in sorted(splits):
        if {"train", "test"} <= splits[parent]:
            raise UserError(f"{folder}: {parent}/ in it has train/ and test/, expected one data set; name its folder")
    above = len(PurePosixPath(os.path.commonpath(classes)).parts)  # folders that all lie in
    below: dict[str, set[str]] = {}
    for parts in (name.split("/") for name in classes):
        below.setdefault("/".join(parts[: above + 1]), set()).add("/".join(parts[above + 1 :]))
    if not 2 <= len(below) <= 3:  # more are groups of classes, such as the alphabets of Omniglot
        return
    for second, first in itertools.permutations(sorted(below, reverse=True), 2):
        if len(below[second]) >= 2 and below[second] <= below[first]:
            raise UserError(
                f"{folder}: all classes of {second}/ are in {first}/ as well, such as {min(below[second])!r}; if these "
                "are splits, call them train/, test/ and val/, if not, give the class folders different names"
            )
