import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.common.errors import UserError
from model.data import class_folders
from model.data.datasets import load

RANDOM = np.random.default_rng(1)
COLOUR = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)  # H, W, C
GREY = COLOUR[..., 0].copy()


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def two_classes(folder: Path, pixels: np.ndarray = GREY, count: int = 5) -> Path:
    for class_name in ("cat", "dog"):
        for i in range(count):
            save(folder / class_name / f"{i}.png", pixels)
    return folder


def read(path: Path, image_size: int | None = None) -> np.ndarray:
    return class_folders.read_images([path], image_size)[0]


def error_of(folder: Path, image_size: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load("mine", folder, image_size)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Finding


def test_every_folder_of_images_is_a_class_named_by_its_path(tmp_path):
    paths = ["b/2.PNG", "b/10.jpeg", "a b/ü ñ.jpg", "a b/deep/one/x.png", "Ärger/1.png"]
    for path in paths:
        save(tmp_path / path, GREY)
    ignored = [".hidden/x.png", "b/.x.png", "b/notes.txt", "empty/readme.md", "b/x.gif", "skipped/x.png"]
    for path in ignored:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"no image")
    found = class_folders.find_images(tmp_path, skip=[tmp_path / "skipped"])
    assert list(found) == ["a b", "a b/deep/one", "b", "Ärger"]
    assert [f.relative_to(tmp_path).as_posix() for files in found.values() for f in files] == [
        "a b/ü ñ.jpg",
        "a b/deep/one/x.png",
        "b/10.jpeg",
        "b/2.PNG",
        "Ärger/1.png",
    ]


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    for i in range(12):
        save(tmp_path / "cd"[i % 2] / "nested" / f"{i}.png", np.full((2, 2), i, np.uint8))
        save(tmp_path / "ba"[i % 2] / f"{i}.png", np.full((2, 2), 100 + i, np.uint8))
    before = load("mine", tmp_path)
    walk = os.walk

    def backwards(*args, **kwargs):
        for folder, folders, files in walk(*args, **kwargs):
            folders.sort(reverse=True)
            files.sort(reverse=True)
            yield folder, folders, files

    monkeypatch.setattr(os, "walk", backwards)
    after = load("mine", tmp_path)
    assert before.class_names == after.class_names == ("a", "b", "c/nested", "d/nested")
    np.testing.assert_array_equal(before.train.images, after.train.images)
    np.testing.assert_array_equal(before.test.labels, after.test.labels)


@pytest.mark.parametrize("circle", [".", "real"])
def test_links_are_followed_but_never_in_circles(tmp_path, circle):
    save(tmp_path / "elsewhere/1.png", GREY)
    root = tmp_path / "root"
    save(root / "real/1.png", GREY)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "real/back").symlink_to(root / circle)
    assert list(class_folders.find_images(root)) == ["linked", "real"]


def test_what_tfds_left_is_no_class(tmp_path):
    two_classes(tmp_path)
    save(tmp_path / "tfds/downloads/extracted/bird/1.png", GREY)
    assert load("mine", tmp_path).class_names == ("cat", "dog")


def test_image_in_no_class_folder_is_named(tmp_path):
    save(two_classes(tmp_path) / "stray.jpg", GREY)
    assert f"{tmp_path / 'stray.jpg'}: lies in no class folder" in error_of(tmp_path)


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    two_classes(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{tmp_path / 'dog'}: Permission denied" in error_of(tmp_path)


# Decoding


def test_grey_stays_grey_and_one_colour_image_makes_all_rgb(tmp_path):
    two_classes(tmp_path)
    assert load("mine", tmp_path).train.images.shape == (8, 6, 9, 1)
    save(tmp_path / "cat/0.png", COLOUR)
    images = class_folders.read_images([tmp_path / "cat/0.png", tmp_path / "dog/0.png"], None)
    np.testing.assert_array_equal(images, [COLOUR, np.stack([GREY] * 3, axis=-1)])


def test_black_and_white_is_grey(tmp_path):
    bits = GREY > 127
    np.testing.assert_array_equal(read(save(tmp_path / "x.png", bits))[..., 0], np.where(bits, 255, 0))


def test_16_bits_keep_their_upper_eight(tmp_path):
    deep = RANDOM.integers(0, 2**16, (6, 9)).astype(np.uint16)
    deep[0, :2] = 0, 2**16 - 1
    np.testing.assert_array_equal(read(save(tmp_path / "x.png", deep))[..., 0], deep // 256)


def test_palette_is_colour(tmp_path):
    palette = Image.new("P", (9, 6))
    palette.putdata((GREY % 3).ravel().tolist())
    palette.putpalette([255, 0, 0, 0, 250, 0, 1, 2, 3])
    expected = np.array([[255, 0, 0], [0, 250, 0], [1, 2, 3]], np.uint8)[GREY % 3]
    np.testing.assert_array_equal(read(save(tmp_path / "x.png", palette)), expected)


def test_transparent_pixels_lie_on_black(tmp_path):
    alpha = np.zeros((6, 9), np.uint8)
    alpha[:2], alpha[2:4] = 255, 128
    # colour over black with weight alpha
    weight = alpha[..., np.newaxis] / 255
    rgba = read(save(tmp_path / "rgba.png", np.dstack([COLOUR, alpha]))).astype(float)
    np.testing.assert_allclose(rgba, COLOUR * weight, atol=1)
    la = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))
    grey = read(save(tmp_path / "la.png", la)).astype(float)
    assert grey.shape == (6, 9, 1)
    np.testing.assert_allclose(grey, GREY[..., np.newaxis] * weight, atol=1)


def test_transparent_palette_entry_lies_on_black(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 10, 20, 30, 220, 40])
    palette.putdata([0, 1])
    pixels = read(save(tmp_path / "x.png", palette, transparency=1))
    np.testing.assert_array_equal(pixels, [[[200, 10, 20], [0, 0, 0]]])


def test_cmyk_jpeg_has_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    pixels = read(save(tmp_path / "x.jpg", red, quality=95)).astype(int)
    assert np.abs(pixels - [200, 30, 60]).max() < 12


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_rotation_is_carried_out(tmp_path, orientation, turns, suffix):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # the corner at the top left
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"x{suffix}", np.rot90(upright, -turns).copy(), exif=exif)
    pixels = read(path)[..., 0].astype(int)
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).max() < 30  # JPEG rounds


def test_resizing_averages_instead_of_skipping(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))  # 32 x 32, columns black and white
    pixels = read(save(tmp_path / "x.png", stripes), image_size=4)
    assert pixels.shape == (4, 4, 1)
    assert np.abs(pixels.astype(int) - 128).max() < 16


def test_resizing_to_its_own_size_changes_nothing():
    assert class_folders.resize(COLOUR[:6, :6], 6).tolist() == COLOUR[:6, :6].tolist()


def test_images_of_several_sizes_need_image_size(tmp_path):
    save(two_classes(tmp_path) / "dog/3.png", COLOUR[:5])
    message = error_of(tmp_path)
    assert f"{tmp_path / 'cat/0.png'} has 9 x 6 pixels" in message
    assert f'{tmp_path / "dog/3.png"} has 9 x 5; set "image_size"' in message
    assert load("mine", tmp_path, image_size=7).train.images.shape == (8, 7, 7, 3)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def damaged_files() -> dict[str, bytes]:
    def stored(kind: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.resize(COLOUR, (40, 40, 3))).save(buffer, kind)
        return buffer.getvalue()

    return {
        "empty.png": b"",
        "text.png": b"<html>404</html>",
        "half.png": stored("PNG")[: len(stored("PNG")) // 2],
        "half.jpg": stored("JPEG")[: len(stored("JPEG")) // 2],
        "gif.png": stored("GIF"),
        "header.jpg": stored("JPEG")[:20],
        "bomb.png": png_of_size(60_000, 60_000),
    }


@pytest.mark.parametrize("file_name", damaged_files())
def test_damaged_image_is_named(tmp_path, file_name):
    path = two_classes(tmp_path) / "dog" / file_name
    path.write_bytes(damaged_files()[file_name])
    assert f"{path}: no readable PNG or JPEG image" in error_of(tmp_path, image_size=8)


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(COLOUR).convert("P"), transparency=1)
    intact = path.read_bytes()
    outcomes = set()
    for i in range(len(intact)):
        path.write_bytes(intact[:i] + bytes([intact[i] ^ 0x55]) + intact[i + 1 :])
        try:
            read(path, image_size=8)
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert "refused" in outcomes


# Splits


def test_train_and_test_folders_are_the_splits(tmp_path):
    two_classes(tmp_path / "train", COLOUR, count=3)
    two_classes(tmp_path / "test", COLOUR, count=2)
    save(tmp_path / "test/new/1.png", COLOUR)
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("cat", "dog", "new")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2]


def test_both_splits_agree_in_channels_and_size(tmp_path):
    two_classes(tmp_path / "train", GREY)
    two_classes(tmp_path / "test", COLOUR)
    dataset = load("mine", tmp_path)
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (6, 9, 3)
    save(tmp_path / "test/cat/0.png", COLOUR[:5])
    assert str(tmp_path / "test/cat/0.png") in error_of(tmp_path)


@pytest.mark.parametrize("lone", ["train", "test"])
def test_train_without_test_is_no_class(tmp_path, lone):
    two_classes(tmp_path / lone)
    two_classes(tmp_path / "val")
    assert f"has class folders in {lone}/, expected train/ and test/ together" in error_of(tmp_path)


def test_otherwise_a_fifth_of_each_class_is_held_out(tmp_path):
    for class_name, count in {"many": 20, "two": 2, "one": 1}.items():
        for i in range(count):
            save(tmp_path / class_name / f"{i}.png", GREY)
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("many", "one", "two")
    assert np.bincount(dataset.train.labels).tolist() == [16, 1, 1]
    assert np.bincount(dataset.test.labels, minlength=3).tolist() == [4, 0, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cat/1.png", "cat/2.png"], "classes to train on: 1"),
        (["cat/1.png", "dog/1.png"], "images to test on: 0"),
        (["train/cat/1.png", "test/dog/1.png"], "classes to train on: 1"),
        (["train/cat/1.png", "train/dog/1.png", "test/dog/x.txt"], "holds dog, expected"),
        (["a.txt", "b.csv", "c.npy", "d.bin"], "holds a.txt, b.csv, c.npy, ..., expected one folder"),
    ],
)
def test_too_few_classes_or_images(tmp_path, files, expected):
    for file in files:
        if file.endswith(".png"):
            save(tmp_path / file, GREY)
        else:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    message = error_of(tmp_path)
    assert expected in message and str(tmp_path) in message
