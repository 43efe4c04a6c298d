import gzip
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.data import datasets
from model.data.dataset import Dataset, Split
from model.data.datasets import load
from model.data.decoding import Decoding
from model.tests.experiments import error_of

DATA = Path(__file__).parents[3] / "data"

# counted by others: the class sizes, mean and standard deviation (of pixels from 0 to 1) one reads everywhere
FACTS: dict[str, dict] = {
    "mnist": {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        "first labels": [5, 0, 4, 1, 9, 2],
        "moments": (0.1307, 0.3081),
        "names": list("0123456789"),
    },
    "fashion_mnist": {
        "train": [6000] * 10,
        "test": [1000] * 10,
        "first labels": [9, 0, 0, 3, 0, 2],
        "moments": (0.2860, 0.3530),
        "names": [
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ],
    },
}


# Which source


@pytest.mark.parametrize(
    ("name", "files", "source"),
    [
        ("digits", [], "digits"),
        ("digits", ["train-images-idx3-ubyte"], "digits"),
        ("mine", ["train-images-idx3-ubyte", "cat/1.png"], "idx"),
        ("mine", ["t10k-labels.idx1-ubyte.gz", "LICENSE"], "idx"),
        ("emnist/letters", ["emnist-letters-test-labels-idx1-ubyte.gz"], "idx"),
        ("emnist/letters", ["emnist-digits-test-labels-idx1-ubyte.gz"], "class_folders"),
        ("mine", ["cat/1.png", "tfds/mine/1.0.0/x"], "class_folders"),
        ("mine", ["LICENSE"], "class_folders"),
        ("mine", ["tfds/mine/1.0.0/x"], "tfds"),
        ("mine", [".gitkeep", "tfds/downloads/cat.png"], "tfds"),
        ("mine", [], "tfds"),
    ],
)
def test_one_rule_chooses_the_source(tmp_path, name, files, source, monkeypatch):
    chosen = []

    def source_called(key):
        def called(*args):
            chosen.append(key)
            return TWO_CLASSES

        return called

    monkeypatch.setattr(datasets, "SOURCES", {key: source_called(key) for key in datasets.SOURCES})
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert load(name, tmp_path) is TWO_CLASSES
    assert chosen == [source]


TWO_CLASSES = Dataset(
    "mine",
    Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32)),
    Split(np.zeros((1, 1, 1, 1), np.uint8), np.array([0], np.int32)),
    ("a", "b"),
)


def test_data_lie_in_data_under_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/pets").mkdir(parents=True)
    (tmp_path / "data/pets/LICENSE").touch()
    assert error_of("pets").startswith("data/pets: holds LICENSE")


def test_given_folder_has_to_exist(tmp_path):
    for name in ("mnist", "digits"):
        assert f"{tmp_path / 'nowhere'}: not a folder" in error_of(name, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}: not a folder" in error_of("mnist", tmp_path / "file")


def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert "File name too long" in error_of("x" * 300)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{tmp_path}: Permission denied" in error_of("mine", tmp_path)


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    message = error_of("digits")
    assert "'sklearn.datasets'" in message and "pip install -r requirements.txt" in message


# digits


def test_digits_are_resized_or_blank():
    dataset = load("digits", decoding=Decoding(image_size=12))
    blank = load("digits", decoding=Decoding(image_size=10**5, blank=True))
    assert dataset.train.images.shape[1:] == (12, 12, 1) and dataset.train.images.any()
    assert blank.test.images.shape == (len(dataset.test.labels), 10**5, 10**5, 1) and not any(blank.test.images.strides)
    np.testing.assert_array_equal(blank.train.labels, dataset.train.labels)
    assert load("digits", decoding=Decoding(blank=True)).sha256 == load("digits").sha256  # they are there anyhow


def test_digits_are_scikit_learns_1797(monkeypatch):
    from sklearn.datasets import load_digits

    dataset = load("digits")
    assert dataset.class_names == tuple("0123456789")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 1797
    original = {
        tuple(np.rint(digit.ravel() * 255 / 16).astype(int)): label
        for digit, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    seen = set()
    for split in (dataset.train, dataset.test):
        assert split.images.shape == (len(split.labels), 8, 8, 1) and split.images.dtype == np.uint8
        for image, label in zip(split.images, split.labels, strict=True):
            assert original[tuple(image.ravel().tolist())] == label
            seen.add(image.tobytes())
    assert len(seen) == len(original)  # every image is in a split
    np.testing.assert_allclose(np.bincount(dataset.test.labels) / np.bincount(dataset.train.labels), 0.25, atol=0.01)


def test_resizing_happens_once_for_both_splits():
    dataset = load("digits", decoding=Decoding(image_size=20))
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (20, 20, 1)
    assert dataset.train.images.dtype == np.uint8
    own_size = load("digits").test.images
    # bilinear interpolation keeps the mean brightness, up to the border and rounding
    np.testing.assert_allclose(dataset.test.images.mean(axis=(1, 2)), own_size.mean(axis=(1, 2)), atol=6)


# The real files


def independent_reader(path: Path, header: int) -> np.ndarray:
    return np.array(memoryview(gzip.open(path).read())[header:])


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_real_idx_files(name):
    if not (DATA / name / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"data/{name} does not hold its IDX files")
    facts = FACTS[name]
    dataset = load(name, DATA / name)
    train, test = dataset.train, dataset.test
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == facts["train"]
    assert np.bincount(test.labels).tolist() == facts["test"]
    assert train.labels[:6].tolist() == facts["first labels"]
    assert list(dataset.class_names) == facts["names"]
    np.testing.assert_allclose((train.images.mean() / 255, train.images.std() / 255), facts["moments"], atol=5e-5)
    stored = independent_reader(DATA / name / "t10k-images-idx3-ubyte.gz", header=16)
    np.testing.assert_array_equal(test.images.ravel(), stored)
    stored = independent_reader(DATA / name / "train-labels-idx1-ubyte.gz", header=8)
    np.testing.assert_array_equal(train.labels, stored)


def test_mnist_loads_in_well_under_a_second():
    if not (DATA / "mnist" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("data/mnist does not hold its IDX files")
    start = time.process_time()  # of all threads: what others do on this machine does not count
    load("mnist", DATA / "mnist")
    assert time.process_time() - start < 1.5


def test_mnist_files_are_not_taken_for_fashion_mnist():
    if not (DATA / "mnist" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("data/mnist does not hold its IDX files")
    assert "mnist's train-images, expected fashion_mnist's train-images" in error_of("fashion_mnist", DATA / "mnist")


# Holding out


def philox_4x64(key: int, count: int) -> list[int]:
    """Philox4x64-10 as in its paper (Salmon and others, "Parallel random numbers: as easy as 1, 2, 3")."""
    mask, words = 2**64 - 1, []
    for counter in range(1, count // 4 + 2):
        a, b, c, d = counter, 0, 0, 0
        k, m = key, 0
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
            a, b, c, d = (right >> 64) ^ b ^ k, right & mask, (left >> 64) ^ d ^ m, left & mask
            k, m = (k + 0x9E3779B97F4A7C15) & mask, (m + 0xBB67AE8584CAA73B) & mask
        words += [a, b, c, d]
    return words[:count]


def hold_out(labels: list[int], seed: int) -> list[int]:
    """Which positions go to the test."""
    positions = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    train, test = datasets._hold_out(Split(positions, np.array(labels)), seed)
    train_positions, test_positions = (split.images.ravel().tolist() for split in (train, test))
    assert sorted(train_positions + test_positions) == list(range(len(labels)))
    assert [labels[i] for i in train_positions] == train.labels.tolist()
    assert [labels[i] for i in test_positions] == test.labels.tolist()
    return test_positions


@pytest.mark.parametrize("seed", [0, 1, 230, 2**32 - 1])
def test_the_images_of_smallest_draw_are_held_out(seed):
    labels = [3, 0, 0, 3, 0, 7, 5, 0, 3, 3, 0, 5, 3, 0, 0, 3, 0, 0, 0, 3, 3, 3]
    draws = philox_4x64(seed, len(labels))
    expected = []
    for label, count in {0: 2, 3: 2, 5: 1, 7: 0}.items():  # of 10, 9, 2 and 1
        members = [i for i in range(len(labels)) if labels[i] == label]
        expected += sorted(members, key=lambda i: draws[i])[:count]
    assert hold_out(labels, seed) == sorted(expected)


def test_another_seed_holds_out_others():
    labels = [0] * 100 + [1] * 100
    assert hold_out(labels, 1) == hold_out(labels, 1) != hold_out(labels, 2)


@pytest.mark.parametrize("count", range(1, 12))
def test_two_images_of_a_class_are_enough_for_both_splits(count):
    held_out = len(hold_out([0] * count, seed=5))
    assert held_out == 0 if count == 1 else 1 <= held_out < count
