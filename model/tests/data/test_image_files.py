"""Image files of every kind: their pixels, or what is wrong with them."""

import errno
import io
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.common.errors import UserError
from model.data import image_files
from model.data.decoding import Decoding
from model.data.image_files import DamagedImage, is_image, read_image
from model.tests.images import COLOUR, GREY, RANDOM, png_of_size, save


def read(path: Path, image_size: int | None = None) -> np.ndarray:
    with image_files.metadata_ignored():
        return read_image(path, Decoding(image_size)).pixels


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


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\x40", 1, [0, 77]),
        (2, b"\x18", 1, [0, 77, 170, 0]),
        (4, b"\x05\xf0", 5, [0, 77, 255, 0]),
        (8, b"\x00\x32\xc3", 195, [0, 50, 77]),
        (16, struct.pack(">4H", 0, 50_000, 50_001, 12_800), 50_000, [0, 77, 195, 50]),
    ],
)
def test_a_transparent_value_of_any_depth_lies_on_the_ground(tmp_path, depth, row, transparent, expected):
    path = tmp_path / "x.png"
    png = png_of_size(len(expected), 1, depth, 0, b"\0" + row, struct.pack(">H", transparent))
    path.write_bytes(png)
    for ground in (77, 0):
        decoded = read_image(path, Decoding(), ground)
        assert decoded.pixels.ravel().tolist() == [ground if value == 77 else value for value in expected]


def test_a_transparent_colour_of_8_bits_lies_on_black_and_one_of_16_is_refused(tmp_path):
    path, (red, grey) = tmp_path / "x.png", ([200, 0, 0], [9, 9, 9])
    for depth, code in ((8, "B"), (16, "H")):
        row = b"\0" + struct.pack(f">6{code}", *red, *grey)
        path.write_bytes(png_of_size(2, 1, depth, 2, row, struct.pack(">3H", *grey)))
        if depth == 8:
            assert read_image(path, Decoding()).pixels.tolist() == [[red, [0, 0, 0]]]
        else:  # also where nothing is decoded yet
            for decoding in (Decoding(), Decoding(blank=True)):
                with pytest.raises(DamagedImage, match="transparent colour of 16 bits, expected an alpha channel"):
                    read_image(path, decoding)


def test_what_is_not_seen_is_not_what_is_brightest(tmp_path):
    """Else dark images of 16 bits are not told of."""
    path = tmp_path / "x.png"
    for colours, values in ((6, [1000, 4095, 0, 65535]), (4, [4095, 65535])):
        path.write_bytes(png_of_size(1, 1, 16, colours, b"\0" + struct.pack(f">{len(values)}H", *values)))
        assert read_image(path, Decoding()).brightest == 15 * 257
    path.write_bytes(png_of_size(2, 1, 16, 0, b"\0" + struct.pack(">2H", 4095, 65535), b"\xff\xff"))
    assert read_image(path, Decoding()).brightest == 4095


def test_16_bit_grey_with_alpha_is_grey(tmp_path):
    path = tmp_path / "x.png"
    values = [50 * 256, 65535, 60 * 256, 0]  # grey, alpha
    path.write_bytes(png_of_size(2, 1, 16, 4, b"\0" + struct.pack(">4H", *values)))
    decoded = read_image(path, Decoding())
    assert decoded.pixels.tolist() == [[[50], [0]]] and decoded.kind == "16-bit grey with transparency"
    assert not decoded.heeds_image_bits
    assert read_image(path, Decoding(blank=True)).pixels.shape == (1, 2, 1)


def test_cmyk_jpeg_has_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    pixels = read(save(tmp_path / "x.jpg", red, quality=95)).astype(int)
    assert np.abs(pixels - [200, 30, 60]).max() < 12


# Where the first row and the first column of the stored image are when it is upright, as EXIF says of 1 to 8.
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W) as a file of this orientation holds it."""
    rows, columns = SIDES[orientation]
    lines = upright.T if rows in ("left", "right") else upright
    row_step, column_step = (-1 if side in ("right", "bottom") else 1 for side in (rows, columns))
    return np.ascontiguousarray(lines[::row_step, ::column_step])


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("TIFF", {}),
     ("TIFF", {"compression": "tiff_lzw"})],
)  # fmt: skip
def test_exif_rotation_is_carried_out(tmp_path, orientation, kind, options):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8], upright[:8, 8:16] = 255, 100  # the corner at the top left, and what is right of it
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "x"
    path.write_bytes(stored(kind, as_stored(upright, orientation), exif=exif, **options))
    decoded = read_image(path, Decoding())
    pixels = decoded.pixels[..., 0].astype(int)
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).max() < 30  # JPEG rounds
    assert decoded.kind.endswith("turned by EXIF") == (orientation != 1)


@pytest.mark.parametrize("orientation", SIDES)
def test_a_tiff_of_16_bits_is_turned_once(tmp_path, orientation):
    path = tmp_path / "x"
    path.write_bytes(stored("TIFF", as_stored(GREY, orientation).astype(np.uint16) << 8, tiffinfo={274: orientation}))
    np.testing.assert_array_equal(read(path)[..., 0], GREY)


def test_resizing_averages_instead_of_skipping(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))  # 32 x 32, columns black and white
    pixels = read(save(tmp_path / "x.png", stripes), image_size=4)
    assert pixels.shape == (4, 4, 1)
    assert np.abs(pixels.astype(int) - 128).max() < 16


def test_resizing_to_its_own_size_changes_nothing():
    assert image_files.resize(COLOUR[:6, :6], (6, 6)).tolist() == COLOUR[:6, :6].tolist()


def stored(kind: str, pixels: np.ndarray | Image.Image = COLOUR, **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


WIDE = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)  # H, W, C


@pytest.mark.parametrize("image", [WIDE, WIDE[..., :1]])
@pytest.mark.parametrize("is_high", [False, True])
def test_a_square_of_an_oblong_image(tmp_path, image, is_high):
    """Cropped and padded, what is seen of it is not touched where no side has to be resized; as a file and an array."""
    black = np.zeros_like(image[:2])
    expected = {"crop": image[:, 2:6], "pad": np.concatenate([black, image, black])}
    for fit, square in expected.items():
        picture, size = (image.swapaxes(0, 1), square.swapaxes(0, 1)) if is_high else (image, square)
        path = save(tmp_path / "image.png", np.squeeze(picture))
        side = len(size)
        found = image_files.read_image(path, Decoding(image_size=side, image_fit=fit))
        assert found.pixels.tolist() == size.tolist()
        assert found.ratio == 2
        assert image_files.resize(picture, (side, side), fit).tolist() == size.tolist()
    assert image_files.read_image(path, Decoding(image_size=4)).pixels.shape == (4, 4, image.shape[2])


def test_a_square_of_a_line(tmp_path):
    for shape in ((1, 500), (500, 1)):
        path = save(tmp_path / "line.png", np.full(shape, 9, np.uint8))
        for fit in ("stretch", "crop", "pad"):
            assert image_files.read_image(path, Decoding(image_size=8, image_fit=fit)).pixels.shape == (8, 8, 1)


LARGE = np.resize(COLOUR, (40, 40, 3))
# Which JPEG keeps nearly as it is.
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:160:24, 0:200:16], 90), axis=-1).astype(np.uint8)
DAMAGED = {
    "empty": b"",
    "text": b"<html>404</html>",
    "half a PNG": stored("PNG", LARGE)[: len(stored("PNG", LARGE)) // 2],
    "half a JPEG": stored("JPEG", LARGE)[: len(stored("JPEG", LARGE)) // 2],
    "a header": stored("JPEG", LARGE)[:20],
    "billions of pixels": png_of_size(60_000, 60_000),
    "a few too many pixels": png_of_size(13_000, 13_000),
    "an old format": stored("PCX", LARGE),
    "a program": stored("EPS", LARGE),
    "fractions": stored("TIFF", GREY.astype(np.float32)),
    "32 bits": stored("TIFF", GREY.astype(np.int32) << 16),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_cannot_be_decoded_is_refused_whatever_it_is_called(tmp_path, what):
    path = tmp_path / "x.png"
    path.write_bytes(DAMAGED[what])
    with pytest.raises(DamagedImage, match="no readable image") as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "()" not in message


# How each is saved, and whether its pixels come out as they were.
KINDS = {
    "PNG": (COLOUR, {}, True),
    "JPEG": (SMOOTH, {"quality": 95}, False),
    "MPO": (SMOOTH, {"quality": 95}, False),
    "WEBP": (COLOUR, {"lossless": True}, True),
    "BMP": (COLOUR, {}, True),
    "TIFF": (COLOUR, {}, True),
    "PPM": (COLOUR, {}, True),
    "GIF": (Image.fromarray(COLOUR).quantize(64), {}, True),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_the_content_decides_and_not_the_name(tmp_path, kind, suffix):
    pixels, options, is_exact = KINDS[kind]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(stored(kind, pixels, **options))
    expected = np.asarray(pixels.convert("RGB") if isinstance(pixels, Image.Image) else pixels).astype(int)
    assert np.abs(read(path).astype(int) - expected).max() <= (0 if is_exact else 12)
    assert is_image(path)
    (tmp_path / "notes").write_bytes(b"no image")
    assert not is_image(tmp_path / "notes")


def translucent(mode: str) -> Image.Image:
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.putalpha(100)
    return picture


# Images that are stored in every way that a format has.
STORED = {
    **{kind: (kind, pixels, options) for kind, (pixels, options, _) in KINDS.items()},
    "black and white": ("PNG", GREY > 127, {}),
    "PBM": ("PPM", GREY > 127, {}),
    "grey PNG": ("PNG", GREY, {}),
    "grey JPEG": ("JPEG", GREY, {}),
    "grey WebP": ("WEBP", GREY, {}),
    "grey GIF": ("GIF", GREY, {}),
    "grey BMP": ("BMP", GREY, {}),
    "PGM": ("PPM", GREY, {}),
    "16 bits": ("PNG", GREY.astype(np.uint16) << 8, {}),
    "16 bits, TIFF": ("TIFF", GREY.astype(np.uint16) << 8, {}),
    "16 bits, PGM": ("PPM", GREY.astype(np.uint16) << 8, {}),
    "RGBA": ("PNG", translucent("RGB"), {}),
    "grey with transparency": ("PNG", translucent("L"), {}),
    "grey with a transparent value": ("PNG", GREY, {"transparency": 3}),
    "palette with a transparent entry": ("PNG", Image.fromarray(COLOUR).convert("P"), {"transparency": 1}),
    "palette of greys": ("PNG", Image.fromarray(GREY).convert("P"), {}),
    "CMYK": ("JPEG", Image.fromarray(COLOUR).convert("CMYK"), {}),
    "CMYK, TIFF": ("TIFF", Image.fromarray(COLOUR).convert("CMYK"), {}),
    "YCbCr": ("TIFF", Image.fromarray(COLOUR).convert("YCbCr"), {}),
    **{
        f"{kind}, turned {turn}": (kind, COLOUR, {"exif": {274: turn}})
        for kind in ("PNG", "JPEG", "TIFF")
        for turn in range(9)
    },
    "TIFF, turned by XMP": ("TIFF", COLOUR, {"tiffinfo": {700: b'<x tiff:Orientation="6"/>'}}),
}


@pytest.mark.parametrize("image_size", [None, 7])
@pytest.mark.parametrize("what", STORED)
def test_a_blank_image_has_the_shape_of_the_decoded_one(tmp_path, what, image_size):
    kind, pixels, options = STORED[what]
    if "exif" in options:
        exif = Image.Exif()
        exif.update(options["exif"])
        options = {"exif": exif}
    path = tmp_path / "x"
    path.write_bytes(stored(kind, pixels, **options))
    with image_files.metadata_ignored():
        blank = read_image(path, Decoding(image_size, blank=True))
        decoded = read_image(path, Decoding(image_size))
    assert blank.pixels.shape == decoded.pixels.shape and blank.pixels.dtype == np.uint8
    assert not blank.pixels.any() and not any(blank.pixels.strides)


def test_what_can_be_no_image_by_its_first_bytes_is_not_taken_for_a_blank_one(tmp_path):
    path, read_all_the_same = tmp_path / "x", set()
    for what, content in DAMAGED.items():
        path.write_bytes(content)
        if not isinstance(image_files.read_unless_damaged(path, Decoding(blank=True)), DamagedImage):
            read_all_the_same.add(what)
    assert read_all_the_same == {"half a PNG", "half a JPEG", "32 bits"}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_the_first_of_several_pictures_counts(tmp_path, kind):
    path = tmp_path / "x"
    others = [Image.fromarray(255 - GREY)] * 2
    lossless = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(stored(kind, GREY, save_all=True, append_images=others, **lossless))
    np.testing.assert_array_equal(read(path)[..., 0], GREY)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_bits_that_are_used_are_those_of_an_image_of_8(tmp_path, bits):
    path = save(tmp_path / "x.png", (GREY.astype(np.uint16) << (bits - 8)) + 2 ** (bits - 8) - 1)
    decoded = read_image(path, Decoding(image_bits=bits))
    np.testing.assert_array_equal(decoded.pixels[..., 0], GREY)
    assert decoded.brightest == (int(GREY.max()) << (bits - 8)) + 2 ** (bits - 8) - 1
    assert read_image(save(tmp_path / "8.png", GREY), Decoding()).brightest is None


def test_brighter_than_the_bits_that_are_used_is_white(tmp_path):
    path = save(tmp_path / "x.png", np.array([[0, 4095, 4096, 65535]], np.uint16))
    assert read_image(path, Decoding(image_bits=12)).pixels.ravel().tolist() == [0, 255, 255, 255]


def test_colour_of_16_bits_tells_how_bright_it_is(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_of_size(1, 2, 16, 2, struct.pack(">B3HB3H", 0, 4095, 0, 0, 0, 256, 0, 0)))
    decoded = read_image(path, Decoding())
    assert decoded.pixels.tolist() == [[[15, 0, 0]], [[1, 0, 0]]]
    assert decoded.brightest == 15 * 257 and not decoded.heeds_image_bits


@pytest.mark.parametrize("width", [53, 54, 160, 1600])
def test_a_width_with_a_16_in_it_is_no_depth(tmp_path, width):
    """BMP has the bytes of a row, 160 for example, where others have their depth."""
    path = tmp_path / "x.bmp"
    path.write_bytes(stored("BMP", np.full((2, width, 3), 30, np.uint8)))
    assert read_image(path, Decoding()).brightest is None


def jpeg_with_exif(payload: bytes) -> bytes:
    """A JPEG file with any bytes in the place of its EXIF block."""
    jpeg = stored("JPEG", SMOOTH, quality=95)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block with these (tag, type, count, value) in its first directory."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


ON_ITS_SIDE = (0x0112, 3, 1, struct.pack("<H", 6))
# Odd metadata, and whether the image is turned nevertheless.
ODD_EXIF = {
    "nothing": (b"Exif\0\0", False),
    "no directory": (b"Exif\0\0II*\0" + struct.pack("<I", 9999), False),
    "an address": (b"Exif\0\0http://n", False),
    "cut off": (directory(ON_ITS_SIDE)[:14], False),
    "no such orientation": (directory((0x0112, 3, 1, bytes(2))), False),
    "an orientation in letters": (directory((0x0112, 2, 2, b"6\0")), False),
    "an orientation elsewhere": (directory((0x0112, 5, 1, struct.pack("<I", 90000))), False),
    "a resolution in letters": (directory(ON_ITS_SIDE, (0x011A, 2, 3, b"72\0")), True),
    "a place in letters": (directory(ON_ITS_SIDE, (0x8825, 2, 4, b"abc\0")), True),
    "a type that there is not": (directory(ON_ITS_SIDE, (0x9000, 99, 1, b"\1\2\3\4")), True),
    "a note of the camera elsewhere": (directory(ON_ITS_SIDE, (0x927C, 7, 5000, struct.pack("<I", 20))), True),
}


@pytest.mark.parametrize("what", ODD_EXIF)
def test_odd_metadata_refuse_no_image(tmp_path, what):
    payload, is_turned = ODD_EXIF[what]
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg_with_exif(payload))
    pixels = read(path).astype(int)
    expected = np.rot90(SMOOTH, -1) if is_turned else SMOOTH
    assert pixels.shape == expected.shape and np.abs(pixels - expected).max() < 12


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    """Sixteen threads must not need sixteen times the memory."""
    monkeypatch.setattr(image_files, "_MAX_PIXELS_BESIDE_OTHERS", 10)
    path, decode, at_once, most = save(tmp_path / "x.png", GREY), image_files._decode, [], []

    def counting(*arguments):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.01)
        decoded = decode(*arguments)
        at_once.pop()
        return decoded

    monkeypatch.setattr(image_files, "_decode", counting)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read(path), range(8)))
    assert len(most) == 8 and max(most) == 1


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(image_files, "_decode", no_memory)
    with pytest.raises(MemoryError):
        read(save(tmp_path / "x.png", GREY))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_not_damaged(tmp_path):
    path = save(tmp_path / "x.png", GREY)
    path.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        image_files.read_unless_damaged(path, Decoding())


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(blank=True)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_what_the_system_says_is_no_damage(tmp_path, monkeypatch, kind, decoding):
    """Whether it does so when the file is opened, or in the midst of reading it."""
    path = tmp_path / "x"
    path.write_bytes(stored(kind, RANDOM.integers(0, 256, (100, 100, 3), np.uint8)))
    opened = Path.open

    class Failing(io.FileIO):
        fails_at = 0

        def readinto(self, buffer):
            if self.tell() >= self.fails_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    monkeypatch.setattr(Path, "open", lambda self, mode: io.BufferedReader(Failing(self), 16))
    for fails_at in (0,) if decoding.blank else (0, 500, 2_000):
        Failing.fails_at = fails_at
        with pytest.raises(UserError, match=f"^{path}: Input/output error; make the file readable") as caught:
            image_files.read_unless_damaged(path, decoding)
        assert not isinstance(caught.value, DamagedImage)
    monkeypatch.setattr(Path, "open", opened)
    for missing in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(UserError, match=f"^{missing}: (No such file|Is a directory)"):
            image_files.read_unless_damaged(missing, decoding)


def test_an_offset_that_leads_nowhere_is_damage(tmp_path):
    """The system refuses to look there, which is the fault of the file all the same."""
    path = tmp_path / "x"
    content = bytearray(stored("TIFF", GREY, big_tiff=True))
    content[8:16] = struct.pack("<Q", 2**63 - 1)  # where the first directory is
    path.write_bytes(content)
    with pytest.raises(DamagedImage):
        read_image(path, Decoding())


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(COLOUR).convert("P"), transparency=1)
    intact = path.read_bytes()
    outcomes = set()
    for i in range(len(intact)):
        path.write_bytes(intact[:i] + bytes([intact[i] ^ 0x55]) + intact[i + 1 :])
        try:
            read(path, image_size=8)
            outcomes.add("read")
        except DamagedImage:
            outcomes.add("refused")
    assert "refused" in outcomes
