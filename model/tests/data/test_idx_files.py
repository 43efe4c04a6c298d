import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import idx_files
from model.data.datasets import load

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([7, 3, 3, 9, 7], np.uint8)
FOUR = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:2] + 100,
    "t10k-labels-idx1-ubyte": LABELS[:2],
}


def encoded(values: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = shape or values.shape
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + values.tobytes()


def write_four(folder: Path, **changed: bytes | None) -> Path:
    """Writes a small set, in which `changed` replaces a part (`_` for `-`) or, with None, leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, values in FOUR.items():
        content = changed.get(file_name.split("-idx")[0].replace("-", "_"), encoded(values))
        if content is not None:
            (folder / file_name).write_bytes(content)
    return folder


def error_of(folder: Path, name: str = "mine") -> str:
    with pytest.raises(UserError) as caught:
        load(name, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "rename",
    [
        lambda file: file,
        lambda file: file.replace("-idx", ".idx"),
        lambda file: file + ".gz",
        lambda file: file.replace("-idx", ".idx") + ".gz",
    ],
)
def test_reads_every_spelling(tmp_path, rename):
    for file_name, values in FOUR.items():
        content = encoded(values)
        (tmp_path / rename(file_name)).write_bytes(gzip.compress(content) if ".gz" in rename("") else content)
    dataset = load("mine", tmp_path)
    np.testing.assert_array_equal(dataset.train.images[..., 0], IMAGES)
    np.testing.assert_array_equal(dataset.test.images[..., 0], IMAGES[:2] + 100)
    assert dataset.train.images.shape == (5, 4, 3, 1) and dataset.train.images.dtype == np.uint8
    assert dataset.class_names == ("3", "7", "9")  # the labels' own text, densely numbered
    assert dataset.train.labels.tolist() == [1, 0, 0, 2, 1] and dataset.train.labels.dtype == np.int32
    assert dataset.test.labels.tolist() == [1, 0]


def test_labels_are_numbered_over_both_splits(tmp_path):
    write_four(tmp_path, t10k_labels=encoded(np.array([1, 200], np.uint8)))
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("1", "3", "7", "9", "200")
    assert dataset.test.labels.tolist() == [0, 4]


def test_emnist_comes_upright_under_its_own_file_names(tmp_path):
    for file_name, values in FOUR.items():
        stored = values.transpose(0, 2, 1).copy() if values.ndim == 3 else values
        path = tmp_path / f"emnist-letters-{file_name.replace('t10k', 'test')}.gz"
        path.write_bytes(gzip.compress(encoded(stored)))
    other = tmp_path / "emnist-digits-train-images-idx3-ubyte"
    other.write_bytes(b"another split of the same archive")
    np.testing.assert_array_equal(load("emnist/letters", tmp_path).train.images[..., 0], IMAGES)


def test_gzip_content_decides_not_the_name(tmp_path):
    write_four(tmp_path, train_images=gzip.compress(encoded(IMAGES)))
    np.testing.assert_array_equal(load("mine", tmp_path).train.images[..., 0], IMAGES)


@pytest.mark.parametrize("part", ["train_images", "train_labels", "t10k_images", "t10k_labels"])
def test_missing_file_is_named_and_nothing_is_downloaded(tmp_path, part):
    message = error_of(write_four(tmp_path, **{part: None}), name="kmnist")
    assert str(tmp_path) in message and f"not {part.replace('_', '-')}-idx" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "begins with nothing", id="empty file"),
        pytest.param(b"<html>404</html>", "begins with 3c68746d", id="not IDX"),
        pytest.param(b"\x1f\x8b\x08 this is no gzip", "damaged gzip", id="not gzip"),
        pytest.param(gzip.compress(encoded(IMAGES))[:-20], "damaged gzip", id="truncated gzip"),
        pytest.param(gzip.compress(encoded(IMAGES))[:3], "damaged gzip", id="gzip cut in its header"),
        pytest.param(gzip.compress(encoded(IMAGES))[:-8] + bytes(8), "damaged gzip", id="gzip with a wrong checksum"),
        pytest.param(encoded(LABELS), "begins with 00000801, expected 00000803", id="labels for images"),
        pytest.param(encoded(IMAGES, kind=13), "begins with 00000d03", id="floats"),
        pytest.param(encoded(IMAGES)[:9], "ends inside its header", id="half a header"),
        pytest.param(encoded(IMAGES)[:-1], "promises 60 bytes, only 59 came", id="one byte short"),
        pytest.param(encoded(IMAGES) + b"x", "promises 60 bytes, more came", id="one byte too many"),
        pytest.param(encoded(IMAGES[:0]), "empty", id="no images"),
        pytest.param(encoded(IMAGES[:, :0]), "empty", id="no height"),
        pytest.param(encoded(IMAGES[:4]), "4 images, but 5 labels", id="fewer images than labels"),
        pytest.param(encoded(IMAGES.reshape(5, 3, 4)), "expected|3 x 4", id="another size than the test"),
    ],
)
def test_wrong_file_is_named_with_what_came(tmp_path, content, expected):
    message = error_of(write_four(tmp_path, train_images=content))
    assert str(tmp_path / "train-images-idx3-ubyte") in message
    assert any(words in message for words in expected.split("|"))


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("shape", "num_bytes"),
    [((10**9, 28, 28), 100), ((2, 4, 3), 64 << 20), ((10**9, 28, 28), 64 << 20)],
    ids=["promise", "bomb", "promise and bomb"],
)
def test_memory_is_bounded_by_what_is_promised_and_there(tmp_path, compress, shape, num_bytes):
    path = tmp_path / "file"
    path.write_bytes(compress(encoded(np.zeros(num_bytes, np.uint8), shape)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="promises"):
            idx_files.read(path, rank=3)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_known_files_are_checked_and_told_apart(tmp_path, monkeypatch):
    def digest(values):
        return hashlib.sha256(encoded(values)).hexdigest()

    known = {
        "alpha": {"train-images": digest(IMAGES), "t10k-images": digest(IMAGES[:2] + 100)},
        "beta": {"train-images": digest(IMAGES + 1)},
    }
    monkeypatch.setattr(idx_files, "SHA256", known)
    assert load("alpha", write_four(tmp_path)).name == "alpha"

    write_four(tmp_path, train_images=encoded(IMAGES + 1))
    message = error_of(tmp_path, "alpha")
    assert "train-images-idx3-ubyte: beta's train-images, expected alpha's train-images" in message

    write_four(tmp_path, t10k_images=encoded(IMAGES[:2] + 101))
    assert "t10k-images-idx3-ubyte: a file with sha256" in error_of(tmp_path, "alpha")
    assert load("mine", tmp_path).name == "mine"  # one's own data may be anything
