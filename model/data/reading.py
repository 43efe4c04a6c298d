"""Many image files -> their images, decoded in threads, into memory or into a store."""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from tqdm import tqdm

from model.common.errors import UserError
from model.common.images import Images, blank_images
from model.data import image_files
from model.data.decoding import DECODER_VERSION, Decoding
from model.data.image_files import DamagedImage, Decoded
from model.data.room import Room
from model.data.store import Contents, Item, find, store

# Images that are decoded ahead of the one that is asked for.
_AHEAD = 256
# From which ratio of its sides on an image looks like something else when it is stretched to a square.
_OBLONG = 1.2

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Pixels:
    """The images of some files.

    Attributes:
        images: (M, H, W, C) uint8; C is 1 if all are stored as grey, else 3. They are `blank_images` if asked for.
        is_there: (N,) bool, which of the N files these are: all but the damaged ones.
        notes: A line for what the user should know of them.
    """

    images: Images
    is_there: np.ndarray
    notes: tuple[str, ...] = ()


def read_files(paths: Sequence[Path], decoding: Decoding, room: Room) -> Pixels:
    """Decodes image files, in threads, with a progress bar on a terminal when it takes a while.

    Args:
        paths: N files, at least one, below the folder of the room.
        decoding: How.
        room: Where the images are to lie.

    Raises:
        UserError: Files cannot be decoded, unless they are to be skipped, or no size is asked for and two images
            differ in theirs.
    """
    if decoding.blank:
        return _blank(paths, decoding)
    place, stored = room.place_of(decoding), None
    if room.kind == "auto" and place.exists():  # another command had less memory, or was asked to store them
        stored = find(place, _contents(paths, decoding, room.folder))
    if stored is None:
        if not room.stores(_bytes_of_images(paths, decoding)):
            headers = _headers(paths, decoding)
            if not any(isinstance(header, Decoded) for header in headers):
                return _blank(paths, decoding)  # which tells it
            shape = _shape_of(paths, headers)
            if not room.stores(len(paths) * math.prod(shape)):  # where the first is grey, and others are in colour
                return _in_memory(paths, decoding, shape)
        stored = store(place, _contents(paths, decoding, room.folder))
    images = stored.images if room.stores(stored.images.nbytes) else stored.images[:]
    return Pixels(images, stored.is_there, _notes(paths, stored.about, decoding))


def _contents(paths: Sequence[Path], decoding: Decoding, folder: Path) -> Contents:
    """Returns what a store is to hold of image files below a folder."""
    return Contents(
        sources=[_source(path, folder) for path in paths],
        made_with={
            "image_size": decoding.image_size,
            "image_fit": decoding.image_fit,
            "image_bits": decoding.image_bits,
            "decoder": DECODER_VERSION,
            "pillow": PIL.__version__,
        },
        shape=lambda: _blank(paths, decoding).images.shape[1:],
        items=lambda indices: _items([paths[index] for index in indices], decoding),
        digests=lambda indices: _digests([paths[index] for index in indices]),
    )


def _source(path: Path, folder: Path) -> list[Any]:
    """Returns how a file is known again: its path, its size and its times."""
    status = path.stat()
    # Nobody but the system sets the second time: another file may be as large, and as old as it says.
    return [path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _bytes_of_images(paths: Sequence[Path], decoding: Decoding) -> int:
    """Returns how many bytes the images would take if all were like the first that can be opened."""
    for path in paths:
        first = image_files.read_unless_damaged(path, dataclasses.replace(decoding, blank=True))
        if isinstance(first, Decoded):
            return len(paths) * first.pixels.size
    return 0


def _read_ahead(read: Callable[[Path], _Result], paths: Sequence[Path]) -> Iterator[_Result]:
    """Yields what is read from files, in their order, and reads some ahead in threads."""
    with ThreadPoolExecutor() as pool, image_files.metadata_ignored():
        ahead: collections.deque[Future[_Result]] = collections.deque()
        try:
            for path in paths:
                ahead.append(pool.submit(read, path))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _with_bar(results: Iterator[_Result], description: str, number: int) -> Generator[_Result]:
    with contextlib.closing(tqdm(results, description, number, unit=" images", delay=2, disable=None)) as bar:
        yield from bar


def decode(paths: Sequence[Path], decoding: Decoding) -> Iterator[Decoded | DamagedImage]:
    """Yields what is in image files, in their order, and decodes some ahead in threads."""
    return _read_ahead(functools.partial(image_files.read_unless_damaged, decoding=decoding), paths)


def _items(paths: Sequence[Path], decoding: Decoding) -> Iterator[Item]:
    def read(path: Path) -> Item:
        digest = image_files.digest_of(path)  # first: if the file changes now, it is no more what the digest tells
        result = image_files.read_unless_damaged(path, decoding)
        return Item(None if isinstance(result, DamagedImage) else result.pixels, _about(result), digest)

    return _read_ahead(read, paths)


def _digests(paths: Sequence[Path]) -> Iterator[str]:
    return _with_bar(_read_ahead(image_files.digest_of, paths), "Comparing images", len(paths))


def _headers(paths: Sequence[Path], decoding: Decoding) -> list[Decoded | DamagedImage]:
    """Opens image files, and decodes none."""
    results = decode(paths, dataclasses.replace(decoding, blank=True))
    return list(_with_bar(results, "Opening images", len(paths)))


def _shape_of(paths: Sequence[Path], headers: Sequence[Decoded | DamagedImage]) -> tuple[int, int, int]:
    """Returns height, width and channels of the images of some files, of which one at least can be opened.

    Raises:
        UserError: Two images differ in size.
    """
    opened = [(path, one.pixels.shape) for path, one in zip(paths, headers, strict=True) if isinstance(one, Decoded)]
    first, (height, width, _) = opened[0]
    for path, shape in opened:
        if shape[:2] != (height, width):
            raise UserError(
                f"{first} has {width} x {height} pixels, {path} has {shape[1]} x {shape[0]}; "
                'set "image_size" in params.json to bring all images to one size'
            )
    return height, width, max(channels for _, (*_, channels) in opened)


def _blank(paths: Sequence[Path], decoding: Decoding) -> Pixels:
    """Returns blank images of the shape that image files have by their first bytes."""
    headers = _headers(paths, decoding)
    is_there = np.array([isinstance(header, Decoded) for header in headers], bool)
    notes = _notes(paths, [_about(header) for header in headers], decoding)  # first, as all may be damaged
    return Pixels(blank_images(int(is_there.sum()), *_shape_of(paths, headers)), is_there, notes)


def _in_memory(paths: Sequence[Path], decoding: Decoding, shape: tuple[int, int, int]) -> Pixels:
    """Decodes image files, whose first bytes tell of this shape, into memory."""
    images = np.empty((len(paths), *shape), np.uint8)  # those that are read, in room for all; no list beside it
    num_read, is_there, about = 0, np.zeros(len(paths), bool), []
    with contextlib.closing(_with_bar(decode(paths, decoding), "Reading images", len(paths))) as results:
        for i, result in enumerate(results):
            about.append(_about(result))
            if isinstance(result, Decoded):
                if result.pixels.shape not in (shape, (*shape[:2], 1)):
                    raise UserError(f"{paths[i]}: has changed while the images were read; start again")
                images[num_read], is_there[i] = result.pixels, True  # grey is spread over the channels
                num_read += 1
    return Pixels(images[:num_read], is_there, _notes(paths, about, decoding))


def _about(result: Decoded | DamagedImage) -> Any:
    """Returns what is to be known of a file beside its pixels, as JSON has it; None of most."""
    if isinstance(result, DamagedImage):
        return {"damaged": result.why}
    about: dict[str, Any] = {}
    if result.brightest is not None:
        about = {"brightest": result.brightest, "heeds_image_bits": result.heeds_image_bits}
    if result.ratio > _OBLONG:
        about["ratio"] = result.ratio
    return about or None


def _notes(paths: Sequence[Path], about: Sequence[Any], decoding: Decoding) -> tuple[str, ...]:
    """Returns lines on what was found in files, as `_about` returned it of each.

    Raises:
        UserError: Some are damaged, and are not to be skipped.
    """
    notes = []
    pairs = zip(paths, about, strict=True)
    if damaged := [DamagedImage(path, of["damaged"]) for path, of in pairs if of and "damaged" in of]:
        told = image_files.describe(damaged, len(paths))
        if decoding.on_damaged == "stop" or len(damaged) == len(paths):
            raise UserError(
                f'{told}; replace or remove them, or set "on_damaged_image": "skip" in params.json to leave them out'
            )
        notes.append(f"Left out: {told}")
    deep = [(of["heeds_image_bits"], of["brightest"]) for of in about if of and "brightest" in of]
    notes += _notes_on_depth(deep, decoding)
    oblong = [of["ratio"] for of in about if of and "ratio" in of]
    if oblong and decoding.image_size is not None and decoding.image_fit == "stretch":
        notes.append(
            f"{len(oblong):,} of {len(paths):,} images are stretched to a square, one side of them up to "
            f"{max(oblong):.1f} times as long as the other; "
            '"image_fit": "crop" or "pad" in params.json keeps their shape'
        )
    if decoding.blank:
        notes.append("The image files were opened, not decoded: what is damaged behind their first bytes was not found")
    return tuple(notes)


def _notes_on_depth(depths: Sequence[tuple[bool, int]], decoding: Decoding) -> list[str]:
    """Returns a line if images of 16 bits come out at less than half of their brightness, or cut off.

    Args:
        depths: Of each of them, whether it heeds `image_bits`, and its brightest value.
        decoding: How they were decoded.
    """
    notes = []
    for heed_image_bits, bits in ((True, decoding.image_bits), (False, 16)):
        deep = [brightest for heeds, brightest in depths if heeds == heed_image_bits]
        if not deep or 2 ** (bits - 1) <= max(deep) < 2**bits:
            continue
        used = max(8, max(deep).bit_length())
        remedy = f'set "image_bits": {used} in params.json' if heed_image_bits else "save them with 8 bits"
        notes.append(
            f"{len(deep)} images of 16 bits{'' if heed_image_bits else ' in colour or with alpha'} are brightest at "
            f"{max(deep)} of {2**bits - 1}, so that they are {'dark' if used < bits else 'cut off'}; {remedy} if "
            "that is all that was recorded"
        )
    return notes
