"""Images that no data set ever held: what becomes of them, beside images that were made by hand to be just that."""

import os

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.common.errors import UserError
from model.data import image_files
from model.new_images import convert as conversion
from model.tests.drawings import draw
from model.tests.experiments import digits
from model.tests.images import save

SIZE = 28


def convert(folder, picture, images, **options):
    """What becomes of a picture, saved in a folder, where these are the training images."""
    path = folder / f"picture.{options.pop('suffix', 'png')}"
    picture.save(path, **options)
    return conversion.read(path, images.shape[1:], conversion.learn_framing(images))


@pytest.fixture(scope="module")
def by_mass():
    """As MNIST: drawn in a box of 20 pixels, that lies where the centre of mass is in the middle of 28."""
    random = np.random.default_rng(0)
    images = np.zeros((60, SIZE, SIZE, 1), np.uint8)
    for index, image in enumerate(images):
        width = int(random.integers(5, 16))
        drawn = np.zeros((20, width))
        drawn[:, 2] = drawn[-3:] = drawn[index % 5] = 255  # heavy below and at the left, more or less
        y, x = (round(14 - float(np.average(np.arange(n) + 0.5, weights=drawn.sum(axis=1 - axis))))
                for axis, n in enumerate(drawn.shape))  # fmt: skip
        image[y : y + 20, x : x + width, 0] = drawn
    return images


@pytest.fixture(scope="module")
def by_box():
    """Dark rectangles in the middle of white paper, the longer side 16 of 32 pixels, in colour."""
    images = np.full((40, 32, 32, 3), 255, np.uint8)
    for index, image in enumerate(images):
        half = 2 + index % 6
        image[8:24, 16 - half : 16 + half] = 90
        image[20:24, 16 - half : 16 + half] = (250, 10 * (index % 4), 120)  # the centre of mass is elsewhere
    return images


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(1).integers(0, 256, (30, 16, 16, 3), np.uint8)


# ------------------------------------------------------------------------------------------- what is learned


def test_the_framing_of_boxes_placed_by_their_mass(by_mass):
    framing = conversion.learn_framing(by_mass)
    assert framing.background.tolist() == [0] and framing.by_mass and framing.peak == 255
    assert framing.size == pytest.approx(20 / 28)
    np.testing.assert_allclose(framing.center, 0.5, atol=0.5 / 28)


def test_the_framing_of_boxes_in_the_middle(by_box):
    framing = conversion.learn_framing(by_box)
    assert framing.background.tolist() == [255, 255, 255] and not framing.by_mass
    assert framing.size == 0.5 and framing.center == (0.5, 0.5)


def test_content_by_hand():
    """Two pixels of one strength and one of half of it, on paper of level 100."""
    image = np.full((8, 10, 1), 100, np.uint8)
    image[2, 3] = image[2, 6] = 200
    image[5, 4] = 150
    content = conversion._find_content(image)
    assert content.box == (2, 3, 6, 7) and content.border.tolist() == [100] and content.peak == 100
    assert content.mass == pytest.approx(((2.5 + 2.5 + 5.5 / 2) / 2.5, (3.5 + 6.5 + 4.5 / 2) / 2.5))
    assert content.center(by_mass=False) == (4, 5)


def test_dust_is_no_content():
    image = np.zeros((300, 300, 1), np.uint8)
    image[100:200, 120:160] = 255
    image[10, 290] = image[295, 5] = 255
    assert conversion._find_content(image).box == (100, 120, 200, 160)


def test_photos_have_no_background(photos):
    assert conversion.learn_framing(photos) is None


def test_empty_training_images_have_no_framing():
    assert conversion.learn_framing(np.zeros((3, 8, 8, 1), np.uint8)) is None


def test_one_training_image_is_enough(by_mass):
    assert conversion.learn_framing(by_mass[:1]).size == pytest.approx(20 / 28)


# ------------------------------------------------------------------------------------------- what is not touched


@pytest.mark.parametrize("which", ["by_mass", "by_box", "photos", "digits"])
def test_what_is_as_the_training_images_stays_bit_for_bit(request, tmp_path, which):
    images = digits().test.images[:50] if which == "digits" else request.getfixturevalue(which)
    framing = conversion.learn_framing(digits().train.images if which == "digits" else images)
    for image in images:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(tmp_path / "x.png")
        seen = conversion.read(tmp_path / "x.png", images.shape[1:], framing)
        np.testing.assert_array_equal(seen.image, image)
        assert seen.steps == () and not seen.is_blank
        if framing is not None:
            np.testing.assert_array_equal(conversion._frame(255 - image, images.shape[1:3], framing)[0], image)


def test_grey_saved_as_colour_and_back(tmp_path, by_mass):
    seen = convert(tmp_path, Image.fromarray(by_mass[0, ..., 0]).convert("RGB"), by_mass)
    np.testing.assert_array_equal(seen.image, by_mass[0])
    assert (seen.size, seen.kind, seen.steps) == ((28, 28), "RGB", ("grey",))


def test_the_files_of_training_images_are_resized_as_loading_does(tmp_path, by_mass):
    """They lie there in another size, and it is for "image_size" to say what training is given."""
    files = by_mass.repeat(3, axis=1).repeat(3, axis=2)
    images = np.stack([image_files.resize(image, (SIZE, SIZE)) for image in files])
    for file, image in zip(files[:5], images, strict=False):
        seen = convert(tmp_path, Image.fromarray(file[..., 0]), images)
        np.testing.assert_array_equal(seen.image, image)
        assert seen.steps == ("resized to 28x28",)


def test_photos_are_resized_and_no_more(tmp_path, photos):
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8))
    seen = convert(tmp_path, picture, photos)
    np.testing.assert_array_equal(seen.image, image_files.resize(np.asarray(picture), (16, 16)))
    assert seen.steps == ("stretched to 16x16",)
    assert convert(tmp_path, draw(3), photos).steps == ("RGB", "resized to 16x16")


@pytest.mark.parametrize(
    ("fit", "said"), [("stretch", "stretched"), ("crop", "resized and cut"), ("pad", "resized and padded")]
)
def test_a_photo_becomes_square_as_the_training_images_did(tmp_path, fit, said):
    path = save(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8))
    seen = conversion.read(path, (16, 16, 3), None, image_fit=fit)
    trained_on = image_files.read_image(path, image_files.Decoding(image_size=16, image_fit=fit)).pixels
    np.testing.assert_array_equal(seen.image, trained_on)
    assert seen.steps == (f"{said} to 16x16",)


# ------------------------------------------------------------------------------------------- what is converted


def test_a_rectangle_is_placed_by_its_box(tmp_path, by_box):
    picture = Image.new("L", (640, 300), 0)
    ImageDraw.Draw(picture).rectangle((500, 20, 539, 179), 200)  # 40 x 160, inverted 16 high and 4 wide
    seen = convert(tmp_path, picture, by_box)
    assert seen.steps == (
        "RGB", "inverted", "cropped to its content", "16 pixels", "centred by box", "contrast stretched", "32x32"
    )  # fmt: skip
    expected = np.full((32, 32, 3), 255, np.uint8)
    expected[8:24, 14:18] = 255 - 240  # the contrast of the training images
    np.testing.assert_allclose(seen.image, expected, atol=35)  # soft edges
    np.testing.assert_array_equal(seen.image[9:23, 15:17], expected[9:23, 15:17])


def test_a_rectangle_is_placed_by_its_mass(tmp_path, by_mass):
    """An upside-down T of 100 x 100: the bar at the foot weighs as much as the stem, which has its middle higher."""
    picture = Image.new("L", (400, 300), 0)
    ImageDraw.Draw(picture).rectangle((250, 110, 269, 189), 255)  # 20 x 80
    ImageDraw.Draw(picture).rectangle((210, 190, 309, 209), 255)  # 100 x 20
    seen = convert(tmp_path, picture, by_mass)
    assert seen.steps == ("cropped to its content", "20 pixels", "centred by mass", "28x28")
    image = seen.image[..., 0].astype(float)
    framing = conversion.learn_framing(by_mass)
    for axis in (0, 1):
        center = np.average(np.arange(28) + 0.5, weights=image.sum(axis=1 - axis))
        assert center == pytest.approx(28 * framing.center[axis], abs=0.05)
        assert (image.sum(axis=1 - axis) > 0.1 * image.sum() / 28).sum() in (20, 21)


@pytest.mark.parametrize("digit", range(10))
def test_black_on_white_is_white_on_black(tmp_path, by_mass, digit):
    size = (150 + 50 * digit, 400 - 20 * digit)
    white, black = (convert(tmp_path, draw(digit, size, *colors), by_mass) for colors in ((255, 0), (0, 255)))
    np.testing.assert_array_equal(white.image, black.image)
    assert [step for step in black.steps if step != "inverted"] == list(white.steps) and "inverted" in black.steps
    assert white.image.max() == 255


def as_16_bit(picture):
    return Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)


def as_palette(picture):
    return picture.convert("RGB").quantize(16)


def on_nothing(picture):
    """Black, and transparent where nothing is drawn."""
    alpha = Image.fromarray(255 - np.asarray(picture))
    return Image.merge("LA", (Image.new("L", picture.size), alpha)).convert("RGBA")


@pytest.mark.parametrize(
    ("change", "options", "kind"),
    [
        (lambda picture: picture, {}, "grey"),
        (lambda picture: picture.convert("RGB"), {}, "RGB"),
        (lambda picture: picture.convert("RGBA"), {}, "RGBA"),
        (lambda picture: picture.convert("1"), {}, "black and white"),
        (as_palette, {}, "palette"),
        (as_16_bit, {}, "16-bit grey"),
        (on_nothing, {}, "RGBA"),
        (lambda picture: picture, {"suffix": "jpg", "quality": 80}, "grey"),
        (lambda picture: picture.convert("CMYK"), {"suffix": "jpg", "quality": 95}, "CMYK"),
    ],
)
def test_however_it_is_stored(tmp_path, by_mass, change, options, kind):
    expected = convert(tmp_path, draw(2), by_mass).image
    seen = convert(tmp_path, change(draw(2, ink=0, paper=255)), by_mass, **options)
    assert seen.kind == kind and "inverted" in seen.steps
    assert ("laid on white" in seen.steps) == (change is on_nothing)
    np.testing.assert_allclose(seen.image, expected, atol=25)
    assert np.abs(seen.image.astype(int) - expected).mean() < 1.5


def test_exif_turns_it(tmp_path, by_mass):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    turned = draw(4).transpose(Image.Transpose.ROTATE_90)
    seen = convert(tmp_path, turned, by_mass, exif=exif)
    assert seen.kind == "grey, turned by EXIF"
    np.testing.assert_array_equal(seen.image, convert(tmp_path, draw(4), by_mass).image)


def test_a_scan_of_pencil_on_grey_paper(tmp_path, by_mass):
    """Noise, grey paper that is darker on one side, JPEG: as if it was ink on white."""
    clean = np.asarray(draw(5, (500, 400), 110, 210)).astype(float)
    noisy = clean + np.random.default_rng(0).normal(0, 4, clean.shape) + np.linspace(-8, 8, 500)
    seen = convert(tmp_path, Image.fromarray(noisy.round().astype(np.uint8)), by_mass, suffix="jpg", quality=70)
    assert seen.steps == (
        "inverted", "cropped to its content", "20 pixels", "centred by mass", "contrast stretched", "28x28"
    )  # fmt: skip
    expected = convert(tmp_path, draw(5, (500, 400)), by_mass).image.astype(int)
    assert np.abs(seen.image - expected).mean() < 3 and (conversion._border(seen.image) == 0).all()


def test_hair_lines_in_a_large_picture(tmp_path, by_mass):
    seen = convert(tmp_path, draw(7, (3000, 2500), pen=0.01), by_mass)
    assert "contrast stretched" in seen.steps and seen.image.max() == 255


@pytest.mark.parametrize("size", [(1, 1), (1000, 10), (10, 1000), (2, 1)])
@pytest.mark.parametrize("level", [0, 120, 255])
def test_blank_pictures(tmp_path, by_mass, by_box, photos, size, level):
    for images in (by_mass, by_box, photos):
        seen = convert(tmp_path, Image.new("L", size, level), images)
        assert seen.is_blank and seen.image.shape == images.shape[1:] and len(np.unique(seen.image)) == 1
    assert (convert(tmp_path, Image.new("L", size, level), by_mass).image == 0).all()


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (3, 3)])
def test_odd_sizes(tmp_path, by_mass, size):
    picture = Image.new("L", size, 255)
    picture.putpixel((size[0] // 2, size[1] // 2), 0)
    seen = convert(tmp_path, picture, by_mass)
    assert not seen.is_blank and seen.image.shape == (28, 28, 1) and seen.image.max() > 100


def test_a_picture_without_background_is_said(tmp_path, by_mass):
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 90), np.uint8))
    assert convert(tmp_path, picture, by_mass).steps == ("no plain background", "stretched to 28x28")


def test_training_images_need_not_be_square(tmp_path):
    images = np.zeros((20, 20, 60, 1), np.uint8)
    for index, image in enumerate(images):
        image[5:15, 10 : 40 + index % 10] = 255
    seen = convert(tmp_path, draw(8), images)
    assert seen.image.shape == (20, 60, 1) and "20x60" not in seen.steps and "60x20" in seen.steps
    assert convert(tmp_path, Image.effect_noise((30, 30), 200), images).image.shape == (20, 60, 1)


# ------------------------------------------------------------------------------------------- files


def test_folders_are_searched_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a/x/1.jpg", "c.jpeg", ".hidden/1.png", "b/.1.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw(1).save(tmp_path / name, "PNG")
    found = conversion.find_images([tmp_path / "c.jpeg", tmp_path])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["c.jpeg", "a/x/1.jpg", "b/10.PNG", "b/2.png", "c.jpeg"]


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("asked/1.png", "album/2.png", "album/.hidden/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw(1).save(tmp_path / name, "PNG")
    (tmp_path / "asked/album").symlink_to(tmp_path / "album")
    (tmp_path / "album/again").symlink_to(tmp_path / "album")
    (tmp_path / "album/back").symlink_to(tmp_path / "asked")
    found = conversion.find_images([tmp_path / "asked"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["asked/1.png", "asked/album/2.png"]


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    draw(1).save(tmp_path / "1.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed: Permission denied.*; expected a folder of images"):
        conversion.find_images([tmp_path])


def damaged(path):
    draw(3).save(path)
    path.write_bytes(path.read_bytes()[:300])


def much_too_large(path):
    Image.new("1", (13_000, 13_000)).save(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "holds no image"),
        (lambda path: path.touch(), "no readable image"),
        (lambda path: path.write_text("hello"), "no readable image"),
        (lambda path: draw(3).save(path, "PCX"), "no readable image"),
        (damaged, "no readable image"),
        (much_too_large, "169,000,000 pixels, expected at most"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, make, expected):
    make(tmp_path / "x.png")
    with pytest.raises(UserError, match=expected) as raised:
        conversion.find_images([tmp_path / "x.png"])
    assert "\n" not in str(raised.value) and str(tmp_path / "x.png") in str(raised.value)


def test_damaged_images_are_named_all_at_once(tmp_path, by_mass):
    for name in ("1.png", "2.png", "3.png"):
        Image.fromarray(by_mass[0, ..., 0]).save(tmp_path / name)
    for name in ("1.png", "3.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 3 images cannot be read: .*1\.png \(.*3\.png \("):
        conversion.find_images([tmp_path])
