"""Decodes images once, into a folder that any number of later commands read.

The folder holds `pixels.u8`, the images one after the other, and `manifest.jsonl`: a line on how they were made, a line
for each chunk of them, which tells from which files they are and their SHA-256, and a last line once all are there.
A chunk is written before its line is, so that whatever ends the process, the next one goes on after the last line.
What was made from files that are still the same is taken over when others have changed.
"""

import contextlib
import hashlib
import json
import logging
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
_VERSION = 1
_BYTES_OF_A_CHUNK = 2**25
_SECONDS_BETWEEN_TRIES = 0.5

_PIXELS, _MANIFEST, _FINGERPRINTS = "pixels.u8", "manifest.jsonl", "fingerprints.json"
# What both are called once the sources have changed, until what is still the same has been taken over.
_BEFORE = "before-"


class Item(NamedTuple):
    """What became of one source.

    Attributes:
        pixels: (H, W, C) uint8; C may be 1 where others are in colour. None if there is no image in it.
        about: What else is to be known of it, as JSON has it.
    """

    pixels: np.ndarray | None
    about: Any = None


@dataclass(frozen=True)
class Contents:
    """What is to be stored.

    Attributes:
        sources: What each item is made from, as JSON has it: [path, size, time] of a file. An item is not made anew
            as long as that is the same; where it is None, none is made anew as long as `made_with` is the same.
        made_with: All else that decides which pixels these are, by name, as JSON has it.
        shape: Returns height, width and channels of the images; asked for only where that is not known yet.
        items: From indices of sources, ascending, to their items in this order.
    """

    sources: Sequence[Any]
    made_with: dict[str, Any]
    shape: Callable[[], tuple[int, int, int]]
    items: Callable[[Sequence[int]], Iterator[Item]]


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
    return Stored(
        StoredImages(folder / _PIXELS, (manifest.num_images, *manifest.shape)),
        np.array([entry.is_there for entry in manifest.entries], bool),
        [entry.about for entry in manifest.entries],
    )


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
    is_there: bool
    about: Any


class _Chunk(NamedTuple):
    """A chunk: how many sources and images there are up to its end, where its line ends, and its SHA-256."""

    num_sources: int
    num_images: int
    end: int
    sha256: str


@dataclass
class _Manifest:
    """What `manifest.jsonl` tells, as far as its lines are whole."""

    header: dict[str, Any] = field(default_factory=dict)
    header_end: int = 0
    entries: list[_Entry] = field(default_factory=list)
    chunks: list[_Chunk] = field(default_factory=list)
    time: int | None = None  # when the last of the pixels was written, once all are there

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.header["shape"]
        return height, width, channels

    @property
    def num_images(self) -> int:
        return self.chunks[-1].num_images if self.chunks else 0

    @property
    def end(self) -> int:
        return self.chunks[-1].end if self.chunks else self.header_end

    def is_made_as(self, contents: Contents) -> bool:
        """Returns whether images of the same sources would have the same pixels."""
        made_with = json.loads(json.dumps(contents.made_with))  # in which a tuple is a list, as in the header
        return self.header.get("made_with") == made_with

    def is_of(self, contents: Contents) -> bool:
        """Returns whether it tells of these contents, or of the first of them."""
        are_of_these = len(self.entries) <= len(contents.sources)
        return are_of_these and self.is_made_as(contents) and self.header.get("sources") == _digest_of(contents.sources)

    def is_all_there(self, folder: Path, contents: Contents) -> bool:
        """Returns whether nothing is missing, nor has been written to the pixels since."""
        if self.time is None or len(self.entries) != len(contents.sources) or not self.is_of(contents):
            return False
        with contextlib.suppress(OSError):
            return self.time == (folder / _PIXELS).stat().st_mtime_ns
        return False

    def take(self, line: bytes) -> None:
        """Takes notice of the next line."""
        content = json.loads(line)
        if not self.header:
            height, width, channels = content["shape"]
            if content["version"] != _VERSION or min(height, width) < 1 or channels not in (1, 3):
                raise ValueError("Expected a manifest of this version.")
            self.header, self.header_end = content, len(line)
        elif "entries" in content:
            entries = [_Entry(source, bool(is_there), about) for source, is_there, about in content["entries"]]
            images = self.num_images + sum(entry.is_there for entry in entries)
            self.chunks.append(
                _Chunk(len(self.entries) + len(entries), images, self.end + len(line), str(content["sha256"]))
            )
            self.entries += entries
        else:
            self.time = int(content["time"])


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
    if not manifest.is_of(contents):
        _begin(folder, contents, manifest)
        manifest = _read_manifest(folder / _MANIFEST)
    descriptor = os.open(folder / _PIXELS, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "r+b") as pixels, (folder / _MANIFEST).open("r+b") as lines:
        _go_back_to_what_is_whole(pixels, lines, manifest)
        _check_room(folder, contents, manifest)
        _append(pixels, lines, contents, manifest, _Past.read(folder, manifest))
        lines.write(_line({"time": os.fstat(pixels.fileno()).st_mtime_ns}))
        _flush(lines)
    for name in (_PIXELS, _MANIFEST):
        delete(folder / f"{_BEFORE}{name}")
    return _read_manifest(folder / _MANIFEST)


def _begin(folder: Path, contents: Contents, manifest: _Manifest) -> None:
    """Begins a manifest, and puts aside what is there, if anything of it can be taken over."""
    aside = folder / f"{_BEFORE}{_MANIFEST}"
    if manifest.is_made_as(contents) and len(manifest.entries) >= len(_read_manifest(aside).entries):
        aside.unlink(missing_ok=True)  # first, as it tells nothing of these pixels
        with contextlib.suppress(FileNotFoundError):  # moved by a process that was killed here
            (folder / _PIXELS).replace(folder / f"{_BEFORE}{_PIXELS}")
        (folder / _MANIFEST).replace(aside)
    else:
        delete(folder / _PIXELS)  # not cut off, as another process may be reading it
    header = {"version": _VERSION, "shape": contents.shape(), "made_with": contents.made_with}
    write_whole(folder / _MANIFEST, _line({**header, "sources": _digest_of(contents.sources)}))


def _go_back_to_what_is_whole(pixels: IO[bytes], lines: IO[bytes], manifest: _Manifest) -> None:
    """Drops all from the first chunk on that is not there as its line says."""
    size, first = int(np.prod(manifest.shape)), 0
    chunks = tqdm(manifest.chunks, "Checking stored images", unit=" chunks", delay=2, disable=None)
    for number, chunk in enumerate(chunks):
        content = pixels.read((chunk.num_images - first) * size)
        if hashlib.sha256(content).hexdigest() != chunk.sha256:
            del manifest.chunks[number:]
            break
        first = chunk.num_images
    del manifest.entries[manifest.chunks[-1].num_sources if manifest.chunks else 0 :]
    pixels.truncate(manifest.num_images * size)
    lines.truncate(manifest.end)
    pixels.seek(0, os.SEEK_END)
    lines.seek(0, os.SEEK_END)


def _check_room(folder: Path, contents: Contents, manifest: _Manifest) -> None:
    missing = (len(contents.sources) - len(manifest.entries)) * int(np.prod(manifest.shape))
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(
            f"{folder}: the images take {missing / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB of this disk are free; "
            f"{MAKE_ROOM}, or lower image_size"
        )


@dataclass(frozen=True)
class _Past:
    """What was stored before sources changed, by what it is made from."""

    images: StoredImages | None
    places: dict[str, tuple[int, _Entry]]  # of each source, which image is its

    @classmethod
    def read(cls, folder: Path, manifest: _Manifest) -> "_Past":
        """Reads what was put aside; nothing, if it is of other pixels."""
        past = _read_manifest(folder / f"{_BEFORE}{_MANIFEST}")
        if past.header.get("made_with") != manifest.header["made_with"] or past.shape != manifest.shape:
            return cls(None, {})
        path, size = folder / f"{_BEFORE}{_PIXELS}", past.num_images * int(np.prod(past.shape))
        try:
            if path.stat().st_size < size:
                return cls(None, {})
            os.truncate(path, size)
            images = StoredImages(path, (past.num_images, *past.shape))
        except OSError:
            return cls(None, {})
        places, number = {}, 0
        for entry in past.entries:
            if entry.source is not None:
                places[json.dumps(entry.source)] = number, entry
            number += entry.is_there
        return cls(images, places)

    def knows(self, source: Any) -> bool:
        return bool(self.places) and json.dumps(source) in self.places

    def item(self, source: Any) -> Item:
        number, entry = self.places[json.dumps(source)]
        return Item(self.images[number] if self.images and entry.is_there else None, entry.about)


def _append(pixels: IO[bytes], lines: IO[bytes], contents: Contents, manifest: _Manifest, past: _Past) -> None:
    """Adds what is missing, chunk by chunk."""
    sources, done, shape = contents.sources, len(manifest.entries), manifest.shape
    made = contents.items([place for place in range(done, len(sources)) if not past.knows(sources[place])])
    size = max(1, _BYTES_OF_A_CHUNK // int(np.prod(shape)))
    bar = tqdm(total=len(sources), initial=done, desc="Storing images", unit=" images", delay=2, disable=None)
    with contextlib.closing(bar):
        for start in range(done, len(sources), size):
            these = sources[start : start + size]
            chunk, entries, number = np.empty((len(these), *shape), np.uint8), [], 0
            for source in these:
                item = past.item(source) if past.knows(source) else next(made)
                if item.pixels is not None:
                    if item.pixels.shape[:2] != shape[:2]:
                        raise UserError(f"{source}: has changed while the images were stored; start again")
                    chunk[number] = item.pixels
                    number += 1
                entries.append((source, item.pixels is not None, item.about))
                bar.update()
            content = chunk[:number].tobytes()
            pixels.write(content)
            _flush(pixels)
            lines.write(_line({"entries": entries, "sha256": hashlib.sha256(content).hexdigest()}))
            _flush(lines)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
