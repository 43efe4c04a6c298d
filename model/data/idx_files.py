"""IDX, the file format of MNIST and its relatives.

Two bytes of zero, one for the type of the values, one for the number of dimensions, four for each size (big
endian), then the values; here always unsigned bytes. Format: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from model.common.errors import UserError

# part of the data set -> the name its file was published under, to which `.gz` may be added
FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}

# sha256 of the uncompressed content, which no gzip program can change
SHA256 = {
    "mnist": {
        "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}

_CHUNK = 1 << 20  # bytes
_MOST_OF_A_GZIP_BYTE = 1032  # bytes, https://zlib.net/zlib_tech.html


def find(folder: Path, name: str) -> dict[str, Path]:
    """Finds the files of `FILES` that lie in `folder`.

    Each may end in `.gz`, may be written `train-images.idx3-ubyte`, and for `emnist/<split>` may carry
    EMNIST's own name, `emnist-<split>-train-images-idx3-ubyte`.

    Returns:
        Part -> path, without those that are missing.
    """
    family, _, emnist_split = name.lower().partition("/")
    found = {}
    for part, file_name in FILES.items():
        spellings = [file_name, file_name.replace("-idx", ".idx")]
        if family == "emnist":
            spellings.append(f"emnist-{emnist_split}-{file_name.replace('t10k', 'test')}")
        candidates = [folder / (spelling + suffix) for spelling in spellings for suffix in ("", ".gz")]
        if path := next((path for path in candidates if path.is_file()), None):
            found[part] = path
    return found


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Reads and checks the four files of the data set `name` in `folder`, where `find` found at least one.

    Returns:
        Part, as in `FILES` -> images (N, H, W) or labels (N,), uint8, N at least 1.

    Raises:
        UserError: a file is missing, damaged, of another kind or of another data set, or the files disagree.
    """
    paths = find(folder, name)
    if missing := [FILES[part] for part in FILES if part not in paths]:
        raise UserError(
            f"{folder}: holds {next(iter(paths.values())).name} but not {', '.join(missing)} (with .gz or "
            f"without); add what is missing as data/README.md says"
        )
    with ThreadPoolExecutor(len(paths)) as pool:  # zlib and hashlib run outside Python's lock
        contents = dict(zip(paths, pool.map(read, paths.values(), map(_rank, paths)), strict=True))
    arrays = {part: array for part, (array, _) in contents.items()}
    _check_digests(name, paths, {part: digest for part, (_, digest) in contents.items()})
    _check_shapes(paths, arrays)
    return arrays


def _rank(part: str) -> int:
    return 3 if part.endswith("images") else 1


def read(path: Path, rank: int) -> tuple[np.ndarray, str]:
    """Reads one IDX file of unsigned bytes, gzip or plain (its first bytes tell, not its name).

    Args:
        path: the file.
        rank: the number of dimensions that it has to have.

    Returns:
        The values, uint8, and the sha256 of the uncompressed file in hexadecimal digits.

    Raises:
        UserError: the file is damaged, or no such IDX file.
    """
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        most = path.stat().st_size * (_MOST_OF_A_GZIP_BYTE if is_gzip else 1)
        try:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file
            return _parse(stream, path, rank, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: damaged gzip file ({error}); download it again") from error


def _parse(stream: BinaryIO, path: Path, rank: int, most: int) -> tuple[np.ndarray, str]:
    header = stream.read(4 * (1 + rank))
    magic = bytes((0, 0, 8, rank))  # 8 stands for unsigned bytes
    if header[:4] != magic:
        raise UserError(
            f"{path}: begins with {header[:4].hex() or 'nothing'}, expected {magic.hex()} (IDX, unsigned "
            f"bytes, rank {rank}); put the right file there"
        )
    if len(header) < 4 * (1 + rank):
        raise UserError(f"{path}: ends inside its header; download it again")
    shape = tuple(int.from_bytes(header[i : i + 4]) for i in range(4, len(header), 4))
    promised = math.prod(shape)
    if promised == 0:
        raise UserError(f"{path}: empty, its header says {shape}; put the right file there")
    if promised > most:
        raise UserError(
            f"{path}: header {shape} promises {promised} bytes, at most {most} can be in it; download the file again"
        )

    # In chunks, so that it never holds more than is both promised and there.
    values = bytearray()
    while len(values) <= promised and (chunk := stream.read(_CHUNK)):
        values += chunk
    if len(values) != promised:
        came = f"only {len(values)}" if len(values) < promised else "more"
        raise UserError(f"{path}: header {shape} promises {promised} bytes, {came} came; download the file again")
    digest = hashlib.sha256(header)
    digest.update(values)
    return np.frombuffer(values, np.uint8).reshape(shape), digest.hexdigest()


def _check_digests(name: str, paths: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    owners = {digest: f"{owner}'s {part}" for owner in SHA256 for part, digest in SHA256[owner].items()}
    for part, expected in SHA256.get(name, {}).items():
        if digests[part] != expected:
            came = owners.get(digests[part], f"a file with sha256 {digests[part][:12]}...")
            raise UserError(
                f"{paths[part]}: {came}, expected {name}'s {part} ({expected[:12]}...); replace it as "
                f'data/README.md says, or give your own data another name as "dataset"'
            )


def _check_shapes(paths: Mapping[str, Path], arrays: Mapping[str, np.ndarray]) -> None:
    for split in ("train", "t10k"):
        images, labels = f"{split}-images", f"{split}-labels"
        if len(arrays[images]) != len(arrays[labels]):
            raise UserError(
                f"{paths[images]}: {len(arrays[images])} images, but {len(arrays[labels])} labels in "
                f"{paths[labels]}; take both from one source"
            )
    train, test = arrays["train-images"].shape[1:], arrays["t10k-images"].shape[1:]
    if train != test:
        raise UserError(
            f"{paths['t10k-images']}: images of {test[0]} x {test[1]} pixels, but {train[0]} x {train[1]} in "
            f"{paths['train-images']}; take both from one source"
        )
