"""Decodes images once, into a folder that any number of later commands read.

The folder holds `pixels.u8`, the images in the order in which they came, and `manifest.jsonl`: a line on how they were
made, a line for each chunk of them, which tells from which files they are and their SHA-256, and a last line once all
are there. A chunk is written before its line is, so that whatever ends the process, the next one goes on after the last
line. Both files only grow: where sources have changed, what was made from the new ones is added, and images that nobody
asks for any more keep their room.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from model.common.errors import MAKE_ROOM, UserError, explain
from model.common.files import Held, delete, lock, read_bytes, write_whole
from model.common.images import Images, StoredImages, blocks

_log = logging.getLogger(__name__)

# What the files look like; a folder of another version is made anew.
_VERSION = 2
_BYTES_OF_A_CHUNK = 2**25
_SECONDS_BETWEEN_TRIES = 0.5

_PIXELS, _MANIFEST, _FINGERPRINTS = "pixels.u8", "manifest.jsonl", "fingerprints.json"


class Item(NamedTuple):
    """What became of one source.

    Attributes:
        pixels: (H, W, C) uint8; C may be 1 where others are in colour. None if there is no image in it.
        about: What else is to be known of it, as JSON has it.
        digest: Of the content of the source, as `Contents.digests` returns it; "" where it has none.
    """

    pixels: np.ndarray | None
    about: Any = None
    digest: str = ""


@dataclass(frozen=True)
class Contents:
    """What is to be stored.

    Attributes:
        sources: What each item is made from, as JSON has it: [path, size, times, ...] of a file, each path once. An
            item is not made anew as long as that is the same, nor where only times differ and its digest does not.
            Where it is None, none is made anew as long as `made_with` is the same.
        made_with: All else that decides which pixels these are, by name, as JSON has it.
        shape: Returns height, width and channels of the images; asked for only where that is not known yet.
        items: From indices of sources, ascending, to their items in this order.
        digests: From indices of sources, ascending, to the digests of their contents in this order.
    """

    sources: Sequence[Any]
    made_with: dict[str, Any]
    shape: Callable[[], tuple[int, int, int]]
    items: Callable[[Sequence[int]], Iterator[Item]]
    digests: Callable[[Sequence[int]], Iterator[str]] = lambda indices: itertools.repeat("", len(indices))


@dataclass(frozen=True)
class Stored:
    """What is in a store.

    Attributes:
        images: Of the sources that have one.
        is_there: (N,) bool, which of the N sources these are.
        about: (N) of each source, what else is known.
    """

    images: StoredImages
    is_there: np.ndarray
    about: list[Any]


def store(folder: Path, contents: Contents) -> Stored:
    """Opens what is stored in a folder, having stored what is not there yet; with a progress bar.

    Args:
        folder: For these images alone; it is made if it is not there.
        contents: What is to be in it.

    Raises:
        UserError: The folder cannot be written to, or the disk has too little room.
    """
    manifest = _read_manifest(folder / _MANIFEST)
    if not manifest.is_all_there(folder, contents):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone_in(folder):
                manifest = _complete(folder, contents)
        except OSError as error:
            raise UserError(
                f"{explain(error, folder)}; there the images are stored, which --images memory does without"
            ) from None
    return _open(folder, manifest, contents)


def find(folder: Path, contents: Contents) -> Stored | None:
    """Opens what is stored in a folder; None if any of it is not there, or not any more."""
    manifest = _read_manifest(folder / _MANIFEST)
    return _open(folder, manifest, contents) if manifest.is_all_there(folder, contents) else None


def _open(folder: Path, manifest: "_Manifest", contents: Contents) -> Stored:
    entries = [manifest.entries[number] for number in manifest.find(contents.sources) if number is not None]  # of all
    images = StoredImages(folder / _PIXELS, (manifest.num_images, *manifest.shape))
    places = np.array([entry.place for entry in entries if entry.place is not None], np.int64)
    if not np.array_equal(places, np.arange(len(images))):
        images = images.subset(places)
    is_there = np.array([entry.place is not None for entry in entries], bool)
    return Stored(images, is_there, [entry.about for entry in entries])


def fingerprints(splits: Sequence[tuple[Images, Sequence[np.ndarray]]]) -> list[str]:
    """Returns the SHA-256 of all images and labels after each split, wherever the images lie.

    Those of stored images are computed once and kept beside them.

    Args:
        splits: Images (N, H, W, C) uint8, and what else is known of them, such as labels (N,).
    """
    images = splits[0][0]
    if not isinstance(images, StoredImages):
        return _fingerprints(splits)
    path, key = images.path.parent / _FINGERPRINTS, hashlib.sha256()
    for of_split, arrays in splits:
        if isinstance(of_split, StoredImages):
            key.update(f"{of_split.path.name} {of_split.path.stat().st_mtime_ns} {of_split.shape}".encode())
            key.update(np.ascontiguousarray(of_split.places).data)
        for array in arrays:
            key.update(np.ascontiguousarray(array).data)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        kept = json.loads(read_bytes(path))
        if kept["key"] == key.hexdigest() and len(kept["sha256"]) == len(splits):
            return [str(digest) for digest in kept["sha256"]]
    found = _fingerprints(splits)
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps({"key": key.hexdigest(), "sha256": found}))
    return found


def _fingerprints(splits: Sequence[tuple[Images, Sequence[np.ndarray]]]) -> list[str]:
    digests, found = [], hashlib.sha256()
    total = sum(len(images) for images, _ in splits)
    with tqdm(total=total, desc="Fingerprint", unit=" images", delay=2, disable=None) as bar:
        for images, arrays in splits:
            found.update(f"{images.shape}".encode())
            for block in blocks(images):
                found.update(np.ascontiguousarray(block).data)
                bar.update(len(block))
            for array in arrays:
                found.update(f"{array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
            digests.append(found.hexdigest())
    return digests


class _Entry(NamedTuple):
    """What is known of a source that is done."""

    source: Any
    place: int | None  # of its image among all of them
    about: Any
    digest: str


class _Chunk(NamedTuple):
    """A chunk: how many entries there are before it, images up to its end, where its line begins, and its SHA-256."""

    first: int
    num_images: int
    start: int
    sha256: str


@dataclass
class _Manifest:
    """What `manifest.jsonl` tells, as far as its lines are whole."""

    header: dict[str, Any] = field(default_factory=dict)
    end: int = 0  # of the last line
    entries: list[_Entry] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)  # of each name of a source, its last entry
    chunks: list[_Chunk] = field(default_factory=list)
    sources: str | None = None  # a digest of those whose images have its shape
    time: int | None = None  # when the last of the pixels was written, once all are there

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.header["shape"]
        return height, width, channels

    @property
    def num_images(self) -> int:
        return self.chunks[-1].num_images if self.chunks else 0

    @property
    def num_bytes(self) -> int:
        return self.num_images * math.prod(self.shape)

    def is_made_as(self, contents: Contents) -> bool:
        """Returns whether images of the same sources would have the same pixels."""
        made_with = json.loads(json.dumps(contents.made_with))  # in which a tuple is a list, as in the header
        return self.header.get("made_with") == made_with

    def is_untouched(self, folder: Path) -> bool:
        """Returns whether nothing has been written to the pixels since all were there."""
        with contextlib.suppress(OSError):
            status = (folder / _PIXELS).stat()
            return self.time == status.st_mtime_ns and self.num_bytes == status.st_size
        return False

    def is_all_there(self, folder: Path, contents: Contents) -> bool:
        """Returns whether nothing is missing, nor has been written to the pixels since."""
        return (
            self.time is not None
            and self.is_made_as(contents)
            and self.sources == _digest_of(contents.sources)
            and None not in self.find(contents.sources)
            and self.is_untouched(folder)
        )

    def find(self, sources: Sequence[Any]) -> list[int | None]:
        """Returns the number of each source's entry, None where it has none."""
        found = (self.numbers.get(_name(source, number)) for number, source in enumerate(sources))
        return [
            number if number is not None and self.entries[number].source == source else None
            for number, source in zip(found, sources, strict=True)
        ]

    def find_older(self, sources: Sequence[Any]) -> Iterator[tuple[int, _Entry]]:
        """Yields the indices of sources of which only the times differ from those of an entry, and that."""
        for index, source in enumerate(sources):
            number = self.numbers.get(_name(source, index))
            if number is not None and source is not None:
                entry = self.entries[number]
                if entry.digest and entry.source != source and entry.source[:2] == source[:2]:
                    yield index, entry

    def take(self, line: bytes) -> None:
        """Takes notice of the next line."""
        content = json.loads(line)
        if not self.header:
            height, width, channels = content["shape"]
            if content["version"] != _VERSION or min(height, width) < 1 or channels not in (1, 3):
                raise ValueError("Expected a manifest of this version.")
            self.header = content
        elif "entries" in content:
            first, place, entries = len(self.entries), self.num_images, []
            for source, is_there, about, digest in content["entries"]:
                entries.append(_Entry(source, place if is_there else None, about, str(digest)))
                place += bool(is_there)
            names = {_name(entry.source, first + i): first + i for i, entry in enumerate(entries)}
            self.chunks.append(_Chunk(first, place, self.end, str(content["sha256"])))
            self.entries += entries
            self.numbers |= names
            self.time = None
        elif "renewed" in content:
            for source in content["renewed"]:
                number = self.numbers[_name(source, 0)]
                self.entries[number] = self.entries[number]._replace(source=source)
        elif "sources" in content:
            self.sources = str(content["sources"])
        else:
            self.time = int(content["time"])
        self.end += len(line)


def _name(source: Any, number: int) -> Any:
    """Returns by what a source is known: a file by its path, and what has no name by its number."""
    return number if source is None else source[0]


def _read_manifest(path: Path) -> _Manifest:
    """Reads a manifest, as far as this program can have written it; an empty one where there is none."""
    manifest = _Manifest()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError), path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                manifest.take(line)
    return manifest


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _digest_of(sources: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(sources)).encode()).hexdigest()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process stores images in a folder, and keeps others from it while the block runs."""
    is_told = False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock(folder / ".lock", f"{folder}: another process stores images there"))
            except Held as held:
                if not is_told:
                    _log.warning("%s; waiting for it.", held)
                is_told = True
                time.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            yield
            return


def _complete(folder: Path, contents: Contents) -> _Manifest:
    """Stores what is not there yet, and returns what is there then."""
    manifest = _read_manifest(folder / _MANIFEST)
    if manifest.is_all_there(folder, contents):  # by the process that this one has waited for
        return manifest
    if manifest.is_made_as(contents) and not manifest.is_untouched(folder):
        _go_back_to_what_is_whole(folder, manifest)
        manifest = _read_manifest(folder / _MANIFEST)
    sources, is_made_so = _digest_of(contents.sources), manifest.is_made_as(contents)
    shape = manifest.shape if is_made_so and manifest.sources == sources else contents.shape()
    renewed, missing = set[int](), list(range(len(contents.sources)))
    if is_kept := is_made_so and manifest.shape == shape:
        renewed = _only_touched(contents, manifest)
        found = manifest.find(contents.sources)
        missing = [index for index in missing if found[index] is None and index not in renewed]
        is_kept = len(missing) < len(found) or manifest.num_images == 0  # else nothing of it is asked for any more
    # Before anything is lost of what is there, which may be asked for again.
    _check_room(folder, len(missing) * math.prod(shape), is_new=not is_kept)
    if not is_kept:
        _begin(folder, {"version": _VERSION, "shape": shape, "made_with": contents.made_with})
        manifest = _read_manifest(folder / _MANIFEST)
    with _open_to_write(folder / _PIXELS) as pixels, _open_to_write(folder / _MANIFEST) as lines:
        pixels.seek(0, os.SEEK_END)
        lines.truncate(manifest.end)
        lines.seek(0, os.SEEK_END)
        lines.write(_line({"sources": sources}))
        if renewed:
            lines.write(_line({"renewed": [contents.sources[index] for index in sorted(renewed)]}))
        _append(pixels, lines, contents, missing, shape)
        lines.write(_line({"time": os.fstat(pixels.fileno()).st_mtime_ns}))
        _flush(lines)
    return _read_manifest(folder / _MANIFEST)


def _only_touched(contents: Contents, manifest: _Manifest) -> set[int]:
    """Returns the indices of sources that hold what they held, although their times are others, as after copying."""
    older = dict(manifest.find_older(contents.sources))
    digests = contents.digests(list(older))
    return {index for (index, entry), digest in zip(older.items(), digests, strict=True) if digest == entry.digest}


def _begin(folder: Path, header: dict[str, Any]) -> None:
    """Begins anew, without anything that is there."""
    delete(folder / _PIXELS)  # not cut off, as another process may be reading it
    write_whole(folder / _MANIFEST, _line(header))


def _open_to_write(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")


def _go_back_to_what_is_whole(folder: Path, manifest: _Manifest) -> None:
    """Drops all from the first chunk on that is not there as its line says."""
    size, first, end = math.prod(manifest.shape), 0, manifest.end
    with _open_to_write(folder / _PIXELS) as pixels, _open_to_write(folder / _MANIFEST) as lines:
        for chunk in tqdm(manifest.chunks, "Checking stored images", unit=" chunks", delay=2, disable=None):
            content = pixels.read((chunk.num_images - first) * size)
            if hashlib.sha256(content).hexdigest() != chunk.sha256:
                end = chunk.start
                break
            first = chunk.num_images
        pixels.truncate(first * size)
        lines.truncate(end)


def _check_room(folder: Path, missing: int, is_new: bool) -> None:
    free = shutil.disk_usage(folder).free
    with contextlib.suppress(OSError):
        free += (folder / _PIXELS).stat().st_size if is_new else 0
    if missing > free:
        raise UserError(
            f"{folder}: the images take {missing / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB of this disk are free; "
            f"{MAKE_ROOM}, or lower image_size"
        )


def _append(
    pixels: IO[bytes], lines: IO[bytes], contents: Contents, missing: Sequence[int], shape: tuple[int, int, int]
) -> None:
    """Adds what is missing, chunk by chunk."""
    made, number_of_all = contents.items(missing), len(contents.sources)
    size = max(1, _BYTES_OF_A_CHUNK // math.prod(shape))
    done = number_of_all - len(missing)
    bar = tqdm(total=number_of_all, initial=done, desc="Storing images", unit=" images", delay=2, disable=None)
    with contextlib.closing(bar):
        for start in range(0, len(missing), size):
            these = missing[start : start + size]
            chunk, entries, number = np.empty((len(these), *shape), np.uint8), [], 0
            for index in these:
                source, item = contents.sources[index], next(made)
                if item.pixels is not None:
                    if item.pixels.shape not in (shape, (*shape[:2], 1)):
                        raise UserError(f"{_name(source, index)}: has changed meanwhile; start again")
                    chunk[number] = item.pixels
                    number += 1
                entries.append((source, item.pixels is not None, item.about, item.digest))
                bar.update()
            content = chunk[:number].tobytes()
            pixels.write(content)
            _flush(pixels)
            lines.write(_line({"entries": entries, "sha256": hashlib.sha256(content).hexdigest()}))
            _flush(lines)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
