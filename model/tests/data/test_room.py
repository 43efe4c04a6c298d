"""Where the images of a data set lie, whichever source it has: what is stored is what would be in memory."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.common.errors import UserError
from model.common.images import StoredImages, are_blank
from model.data import datasets, image_files, reading, room
from model.data.datasets import load
from model.data.decoding import Decoding
from model.data.idx_files import FILES
from model.data.room import Room
from model.data.store import Contents, Item
from model.tests.images import save

RANDOM = np.random.default_rng(0)


def photos(folder, number=6):
    """Photos of two classes: one is grey, one turned by EXIF, one twice as wide as high."""
    for label in ("cat", "dog"):
        for i in range(number):
            save(folder / label / f"{i}.png", RANDOM.integers(0, 256, (12, 12, 3), np.uint8))
    save(folder / "cat/0.png", RANDOM.integers(0, 256, (12, 12), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    save(folder / "cat/1.jpg", RANDOM.integers(0, 256, (12, 12, 3), np.uint8), exif=turned)
    save(folder / "dog/1.png", RANDOM.integers(0, 256, (12, 24, 3), np.uint8))
    return folder


def assert_alike(stored, in_memory):
    """The same data set, of which one lies in a file."""
    for split in ("train", "test", "validation"):
        one, other = getattr(stored, split), getattr(in_memory, split)
        if other is None:
            assert one is None
            continue
        assert isinstance(one.images, StoredImages) and isinstance(other.images, np.ndarray)
        np.testing.assert_array_equal(one.images[:], other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert stored.sha256 == in_memory.sha256 and stored.train_sha256 == in_memory.train_sha256
    assert (stored.class_names, stored.notes) == (in_memory.class_names, in_memory.notes)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_photos(tmp_path, fit):
    photos(tmp_path)
    decoding = Decoding(image_size=8, image_fit=fit)
    assert_alike(load("mine", tmp_path, decoding, "stored"), load("mine", tmp_path, decoding, "memory"))


def test_photos_in_splits(tmp_path):
    for split in ("train", "test", "val"):
        photos(tmp_path / split)
    decoding = Decoding(image_size=8)
    assert_alike(load("mine", tmp_path, decoding, "stored"), load("mine", tmp_path, decoding, "memory"))


def test_digits_of_scikit_learn(tmp_path):
    for decoding in (Decoding(), Decoding(image_size=5)):
        assert_alike(load("digits", tmp_path, decoding, "stored"), load("digits", tmp_path, decoding, "memory"))


def test_idx_files(tmp_path):
    for part, number in (("train", 10), ("t10k", 4)):
        images, labels = RANDOM.integers(0, 256, (number, 5, 7), np.uint8), np.arange(number, dtype=np.uint8) % 3
        for kind, array, header in (("images", images, 0x803), ("labels", labels, 0x801)):
            sizes = np.array([header, *array.shape], ">i4").tobytes()
            (tmp_path / FILES[f"{part}-{kind}"]).write_bytes(sizes + array.tobytes())
    assert_alike(load("mine", tmp_path, kind="stored"), load("mine", tmp_path, kind="memory"))
    assert sorted(path.name for path in (tmp_path / ".decoded/own_size").iterdir()) == ["t10k", "train"]


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """The names of the files that have been decoded, in any order."""
    names = []
    read = reading.image_files.read_unless_damaged

    def watched(path, decoding):
        if not decoding.blank:
            names.append(path.relative_to(tmp_path).as_posix())
        return read(path, decoding)

    monkeypatch.setattr(reading.image_files, "read_unless_damaged", watched)
    return names


def test_a_file_that_changes_is_decoded_again_and_no_other(tmp_path, decoded):
    photos(tmp_path)
    decoding = Decoding(image_size=8)
    load("mine", tmp_path, decoding, "stored")
    decoded.clear()
    load("mine", tmp_path, decoding, "stored")
    assert decoded == []
    save(tmp_path / "dog/3.png", np.full((9, 9, 3), 7, np.uint8))
    save(tmp_path / "cat/a new one.png", np.full((9, 9, 3), 9, np.uint8))
    (tmp_path / "cat/2.png").unlink()
    stored = load("mine", tmp_path, decoding, "stored")
    assert sorted(decoded) == ["cat/a new one.png", "dog/3.png"]
    assert_alike(stored, load("mine", tmp_path, decoding, "memory"))


def test_what_is_stored_is_not_decoded_again_for_the_memory(tmp_path, decoded):
    photos(tmp_path)
    decoding = Decoding(image_size=8)
    stored = load("mine", tmp_path, decoding, "stored")
    decoded.clear()
    assert_alike(stored, load("mine", tmp_path, decoding))
    assert decoded == []
    load("mine", tmp_path, Decoding(image_size=9))  # of which nothing is stored
    assert len(decoded) == len(stored.train.labels) + len(stored.test.labels)


@pytest.mark.parametrize("change", ["another image", "a new file", "a file less", "other pixels"])
def test_what_is_stored_is_left_alone_where_it_is_not_what_is_asked_for(tmp_path, change):
    photos(tmp_path)
    decoding = Decoding(image_size=8)
    load("mine", tmp_path, decoding, "stored")
    if change == "other pixels":
        pixels = tmp_path / ".decoded/8px_stretch/pixels.u8"
        pixels.write_bytes(bytes(pixels.stat().st_size))
    elif change == "a file less":
        (tmp_path / "cat/2.png").unlink()
    else:
        save(tmp_path / ("dog/3.png" if change == "another image" else "cat/new.png"), np.full((9, 9, 3), 7, np.uint8))
    found, expected = load("mine", tmp_path, decoding), load("mine", tmp_path, decoding, "memory")
    np.testing.assert_array_equal(found.train.images, expected.train.images)
    assert found.sha256 == expected.sha256


def test_damaged_files(tmp_path):
    photos(tmp_path)
    (tmp_path / "cat/4.png").write_bytes((tmp_path / "cat/4.png").read_bytes()[:200])  # its first bytes are whole
    messages = set()
    for kind in ("memory", "stored", "stored"):
        with pytest.raises(UserError) as caught:
            load("mine", tmp_path, Decoding(image_size=8), kind)
        messages.add(str(caught.value))
    (message,) = messages
    assert message.startswith(f"1 of 13 images cannot be read: {tmp_path / 'cat/4.png'} (")
    skip = Decoding(image_size=8, on_damaged="skip")
    stored = load("mine", tmp_path, skip, "stored")
    assert_alike(stored, load("mine", tmp_path, skip, "memory"))
    assert len(stored.train.labels) + len(stored.test.labels) == 12


def bmp_of(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(buffer, "BMP")
    return buffer.getvalue()


@pytest.fixture
def same_size_and_time(tmp_path):
    """Files of two classes that look alike from outside, and the only way to tell them apart is to read them."""
    values = {f"{label}/{i}.bmp": 10 * i + (label == "b") for label in "ab" for i in range(5)}
    for name, value in values.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bmp_of(value))
        os.utime(path, (10**9, 10**9))
    return tmp_path


def values_of(folder):
    """Of each image in its order, by its class."""
    dataset = load("mine", folder, kind="stored")
    return sorted(
        (dataset.class_names[label], int(image[0, 0, 0]))
        for split in (dataset.train, dataset.test)
        for image, label in zip(split.images[:], split.labels, strict=True)
    )


def test_files_that_are_exchanged_and_keep_size_and_time(same_size_and_time):
    folder = same_size_and_time
    expected = sorted((label, 10 * i + (label == "b")) for label in "ab" for i in range(5))
    assert values_of(folder) == expected
    (folder / "a/0.bmp").rename(folder / "moved")
    (folder / "b/0.bmp").rename(folder / "a/0.bmp")
    (folder / "moved").rename(folder / "b/0.bmp")
    assert values_of(folder) == sorted({*expected, ("a", 1), ("b", 0)} - {("a", 0), ("b", 1)})


def test_a_copy_of_a_folder_is_read_and_not_decoded(same_size_and_time, tmp_path, monkeypatch):
    folder, copy = same_size_and_time, tmp_path / ".copy"
    expected = values_of(folder)
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    monkeypatch.setattr(image_files, "_decode", None)
    assert values_of(copy) == expected
    monkeypatch.setattr(image_files, "digest_of", None)
    assert values_of(copy) == expected  # and only once
    assert (copy / ".decoded/own_size/pixels.u8").read_bytes() == (folder / ".decoded/own_size/pixels.u8").read_bytes()


@pytest.mark.parametrize("on_damaged", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["memory", "stored"])
def test_what_cannot_be_read_for_a_while_is_not_damaged_for_ever(tmp_path, monkeypatch, kind, on_damaged):
    photos(tmp_path)
    decoding, opened, fails = Decoding(image_size=8, on_damaged=on_damaged), Path.open, True

    def failing(self, *arguments, **options):
        if fails and self.name == "4.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match=r"^[^;]*/4\.png: Input/output error; make the file readable, or remove it$"):
        load("mine", tmp_path, decoding, kind)
    fails = False
    dataset = load("mine", tmp_path, decoding, kind)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 13
    assert not any("Left out" in note for note in dataset.notes)


def test_a_damaged_file_counts_for_the_colours_wherever_images_lie(tmp_path):
    """It is the only one in colour, by its first bytes."""
    for label in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / label / f"{i}.png", RANDOM.integers(0, 256, (12, 12), np.uint8))
    colour = save(tmp_path / "dog/colour.png", RANDOM.integers(0, 256, (12, 12, 3), np.uint8))
    colour.write_bytes(colour.read_bytes()[:200])
    skip = Decoding(image_size=8, on_damaged="skip")
    stored = load("mine", tmp_path, skip, "stored")
    assert_alike(stored, load("mine", tmp_path, skip, "memory"))
    blank = load("mine", tmp_path, Decoding(image_size=8, on_damaged="skip", blank=True))
    assert stored.train.images.shape[1:] == blank.train.images.shape[1:] == (8, 8, 3)


def test_sizes_that_differ_are_told_before_anything_is_stored(tmp_path):
    photos(tmp_path)
    with pytest.raises(UserError, match=r'12 x 12 pixels, .* has 24 x 12; set "image_size" in params\.json'):
        load("mine", tmp_path, kind="stored")
    assert not list(tmp_path.glob(".decoded/*/pixels.u8"))


@pytest.mark.parametrize(("free", "stores"), [(None, False), (4 * 13 * 192, False), (4 * 13 * 192 - 4, True)])
def test_the_memory_that_is_free_decides(tmp_path, monkeypatch, free, stores):
    """13 images of 8 x 8 x 3, as all but the first one have; that one is grey."""
    photos(tmp_path)
    monkeypatch.setattr(room, "memory_of_machine", lambda: free)
    images = load("mine", tmp_path, Decoding(image_size=8)).train.images
    assert isinstance(images, StoredImages) == stores


def test_a_check_reads_no_pixels_of_what_comes_one_after_the_other():
    contents = Contents([None] * 5, {}, lambda: (4, 3, 1), lambda indices: (Item(None, index) for index in indices))
    images, labels = room.of_items(contents, Room(Path(), "stored"), Decoding(blank=True), "Reading")
    assert are_blank(images) and images.shape == (5, 4, 3, 1) and labels.tolist() == [0, 1, 2, 3, 4]


def test_where_they_lie_is_told(tmp_path, monkeypatch):
    photos(tmp_path)
    decoding = Decoding(image_size=8)
    said = {
        "memory": "0.0 MB in memory",
        "stored": f"0.0 MB stored in {tmp_path}/.decoded/8px_stretch",
    }
    for kind, text in said.items():
        assert datasets.where_images_lie(load("mine", tmp_path, decoding, kind), kind) == text
    shutil.rmtree(tmp_path / ".decoded")
    blank = load("mine", tmp_path, Decoding(image_size=8, blank=True), "stored")
    assert "decoded once and stored beside the data" in datasets.where_images_lie(blank, "stored")
    assert not (tmp_path / ".decoded").exists()


def test_each_way_of_decoding_has_a_place_of_its_own():
    ways = [
        Decoding(), Decoding(image_bits=12), Decoding(image_size=96), Decoding(image_size=96, image_bits=12),
        Decoding(image_size=96, image_fit="crop"), Decoding(image_size=9),
    ]  # fmt: skip
    assert len({Room(Path("data")).place_of(way) for way in ways}) == len(ways)


def test_what_lies_hidden_is_no_change_of_the_data(tmp_path):
    """Else each run would take the images that the one before has stored for others."""
    params = datasets.Params(dataset="mine", image_size=8)
    photos(tmp_path)
    before = datasets.stamp_for(params, tmp_path)
    load("mine", tmp_path, Decoding(image_size=8), "stored")
    assert (tmp_path / ".decoded").exists() and datasets.stamp_for(params, tmp_path) == before
    header = json.loads((tmp_path / ".decoded/8px_stretch/manifest.jsonl").read_text().splitlines()[0])
    assert header["shape"] == [8, 8, 3]


def test_what_another_decoder_has_stored_is_not_taken_over(tmp_path, monkeypatch):
    """Else a mended decoder would mend nothing that is there already."""
    photos(tmp_path)
    decoding = Decoding(image_size=8)
    stored = tmp_path / ".decoded/8px_stretch/pixels.u8"
    load("mine", tmp_path, decoding, "stored")
    expected, before = stored.read_bytes(), stored.stat()
    stored.write_bytes(bytes(len(expected)))  # what it has made of the files
    os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))
    load("mine", tmp_path, decoding, "stored")
    assert not any(stored.read_bytes())
    monkeypatch.setattr(reading, "DECODER_VERSION", reading.DECODER_VERSION + 1)
    load("mine", tmp_path, decoding, "stored")
    assert stored.read_bytes() == expected
