"""What becomes of a batch of images on the device: scaled to [0, 1] and, in training, moved a little if asked."""

import itertools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from model.params import Params
from model.training import replicas

# Limits of the random affine augmentation, each drawn uniformly from [-limit, limit].
_MAX_ROTATION = 10 / 180 * math.pi  # radians
_MAX_SHEAR = 0.1  # tangent of the angle
_MAX_ZOOM = 0.1  # relative to the size
_MAX_SHIFT = 0.08  # relative to the size

_TEST_TIME_SHIFT = 0.04  # relative to the size
# Points a side of the grid that bends a drawing.
_GRID = 4

_LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are

Draw = Callable[[int], tf.Tensor]


def prepare_images(images: tf.Tensor) -> tf.Tensor:
    """Scales uint8 images (B, H, W, C) to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def augment(images: tf.Tensor, params: Params, step: tf.Tensor) -> tf.Tensor:
    """Changes images (B, H, W, C), scaled to [0, 1], as the parameters ask for, by a draw that (seed, step) decides.

    On several devices, images are changed as the one device would that has all of them.
    """

    def draw(number: int) -> tf.Tensor:
        key = tf.stack([tf.cast(params.seed, tf.int64), tf.cast(step, tf.int64)])
        size = tf.shape(images)[0]
        # For the images of all devices, of which these are some.
        drawn = tf.random.stateless_uniform((number, replicas.count() * size), key, -1.0, 1.0, alg="philox")
        return drawn[:, replicas.index() * size :][:, :size]  # (number, B)

    return AUGMENTATIONS[params.augmentation](images, draw, params)


def test_time_views(images: tf.Tensor, name: str) -> list[tf.Tensor]:
    """Returns what else an image is looked at as where it is not learned from.

    Args:
        images: (B, H, W, C).
        name: What `test_time_augmentation` names.

    Returns:
        Images of the same shape: none, their mirror images, or what they are when shifted in eight directions, by
        4 % of their size and a pixel at least. There, what comes in from outside mirrors what is at the edge.
    """
    if name == "mirror":
        return [images[:, :, ::-1]]
    if name == "off":
        return []
    height, width = images.shape[1:3]
    down, right = (max(1, round(_TEST_TIME_SHIFT * side)) for side in (height, width))
    wider = tf.pad(images, [[0, 0], [down, down], [right, right], [0, 0]], "SYMMETRIC")
    corners = itertools.product((0, down, 2 * down), (0, right, 2 * right))
    return [wider[:, y : y + height, x : x + width] for y, x in corners if (y, x) != (down, right)]


def affine(images: tf.Tensor, draw: Draw, params: Params) -> tf.Tensor:
    """Rotates, zooms, shears and shifts each image a little; outside an image is the background it has at its edge."""
    return _move(images, draw(7), params.augmentation_strength)


def affine_and_flip(images: tf.Tensor, draw: Draw, params: Params) -> tf.Tensor:
    """Mirrors half of the images left to right before that."""
    drawn = draw(7)
    images = tf.where(drawn[6, :, tf.newaxis, tf.newaxis, tf.newaxis] < 0, images[:, :, ::-1], images)
    return _move(images, drawn, params.augmentation_strength)


def drawing(images: tf.Tensor, draw: Draw, params: Params) -> tf.Tensor:
    """Makes the strokes of each drawing thicker or thinner, bends it, and moves it as `affine` does.

    It does not matter whether strokes are bright or dark.

    References:
        Simard, Steinkraus, Platt: Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis,
        2003, for smooth random displacements, here those of a few points; erosion and dilation are those of grey
        images (Serra: Image Analysis and Mathematical Morphology, 1982).
    """
    drawn = draw(8 + 2 * _GRID**2)  # (40, B)
    stroke = params.drawing_stroke * drawn[7, :, tf.newaxis, tf.newaxis, tf.newaxis]  # (B, 1, 1, 1)
    brighter = tf.nn.max_pool2d(images, 3, 1, "SAME")
    darker = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    images += tf.nn.relu(stroke) * (brighter - images) + tf.nn.relu(-stroke) * (darker - images)
    grid = tf.reshape(tf.transpose(drawn[8:]), [-1, _GRID, _GRID, 2])  # (B, 4, 4, 2)
    images = bend(images, params.drawing_bend * grid)
    return _move(images, drawn, params.augmentation_strength)


def bend(images: tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
    """Shows at each point of an image what is a little beside it; outside an image is what is at its edge.

    Args:
        images: (B, H, W, C).
        grid: (B, G, G, 2), how far down and how far to the right of itself what a point shows lies, relative to the
            size. Between the points of the grid it is a cubic spline of theirs.
    """
    height, width, channels = images.shape[1:]
    beside = tf.image.resize(grid, (height, width), "bicubic") * (height, width)  # (B, H, W, 2)
    rows = tf.clip_by_value(tf.range(height, dtype=tf.float32)[:, tf.newaxis] + beside[..., 0], 0, height - 1)
    columns = tf.clip_by_value(tf.range(width, dtype=tf.float32) + beside[..., 1], 0, width - 1)  # (B, H, W)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]  # (B, H, W, 1), in [0, 1)
    flat = tf.reshape(images, [-1, height * width, channels])

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        place = tf.minimum(row, height - 1) * width + tf.minimum(column, width - 1)
        return tf.gather(flat, tf.cast(place, tf.int32), batch_dims=1)  # (B, H, W, C)

    upper = (1 - right) * at(top, left) + right * at(top, left + 1)
    lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def photo(images: tf.Tensor, draw: Draw, params: Params) -> tf.Tensor:
    """Cuts a part out of each image, mirrors half of them, and changes their light and colors.

    References:
        Szegedy et al.: Going Deeper with Convolutions, 2015, section 6, for the part that is cut out. Howard: Some
        Improvements on Deep Convolutional Neural Network Based Image Classification, 2014, for the colors, one after
        the other as here: brightness, contrast, saturation, hue.
    """
    area, ratio, left, top, mirror, *colors = tf.unstack(draw(9))  # (B,) each, in [-1, 1]
    area = params.photo_area + (1.0 - params.photo_area) * (area + 1) / 2
    ratio = tf.exp(ratio * math.log(params.photo_aspect_ratio))  # by how much the part is wider, for its height
    # Relative to the size of the image, as all that follows. Where a side would be longer than that of the image, it is
    # as long, and the other one such that the area stays as drawn.
    part_width = tf.clip_by_value(tf.sqrt(area * ratio), area, 1.0)
    part_height = area / part_width
    top, left = (1 - part_height) * (top + 1) / 2, (1 - part_width) * (left + 1) / 2
    bottom, right = top + part_height, left + part_width
    if params.photo_mirror:
        is_mirrored = mirror < 0
        left, right = tf.where(is_mirrored, right, left), tf.where(is_mirrored, left, right)
    boxes = tf.stack([top, left, bottom, right], axis=1)  # (B, 4)
    images = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), images.shape[1:3])
    limits = params.photo_brightness, params.photo_contrast, params.photo_saturation
    brightness, contrast, saturation = (
        1.0 + limit * drawn[:, tf.newaxis, tf.newaxis, tf.newaxis]  # (B, 1, 1, 1)
        for limit, drawn in zip(limits, colors[:3], strict=True)
    )
    images = _within(images * brightness)
    mean = tf.reduce_mean(_grey(images), axis=(1, 2), keepdims=True)  # (B, 1, 1, 1)
    images = _within(mean + contrast * (images - mean))
    if images.shape[3] == 1:
        return images
    grey = _grey(images)  # (B, H, W, 1)
    images = _within(grey + saturation * (images - grey))
    return turn_hue(images, params.photo_hue * colors[3])


def _grey(images: tf.Tensor) -> tf.Tensor:
    """Returns the luma of images (B, H, W, C) by ITU-R BT.601: (B, H, W, 1)."""
    return images if images.shape[3] == 1 else tf.tensordot(images, _LUMA, [[3], [0]])[..., tf.newaxis]


def _within(images: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images, 0.0, 1.0)


def turn_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Turns the hue of images, whose saturation and value, by HSV, stay.

    Args:
        images: (B, H, W, 3), red, green, blue in [0, 1].
        turns: (B,), parts of the color circle.
    """
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images), axis=3)  # (B, H, W) each
    hue = tf.math.floormod(hue + turns[:, tf.newaxis, tf.newaxis], 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=3))


def _move(images: tf.Tensor, draw: tf.Tensor, strength: float) -> tf.Tensor:
    """Moves images (B, H, W, C) by numbers (7, B), of which each image takes six."""
    # The transform maps each point of the output to the point of the input that it shows:
    #   [x_in]   [cos r  -sin r] [1 + zoom_x     shear ] [x_out - center]
    #   [y_in] = [sin r   cos r] [    0      1 + zoom_y] [y_out - center] + center + shift
    height, width = images.shape[1], images.shape[2]
    draw *= strength
    rotation, shear = draw[0] * _MAX_ROTATION, draw[1] * _MAX_SHEAR
    zoom_x, zoom_y = 1.0 + draw[2] * _MAX_ZOOM, 1.0 + draw[3] * _MAX_ZOOM
    cos, sin = tf.cos(rotation), tf.sin(rotation)
    a0, a1 = cos * zoom_x, cos * shear - sin * zoom_y
    b0, b1 = sin * zoom_x, sin * shear + cos * zoom_y
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    a2 = center_x - a0 * center_x - a1 * center_y + draw[4] * _MAX_SHIFT * width
    b2 = center_y - b0 * center_x - b1 * center_y + draw[5] * _MAX_SHIFT * height
    zero = tf.zeros_like(a0)
    transform = tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)  # (B, 8)
    background = _background(images)
    moved = keras.ops.image.affine_transform(images - background, transform, fill_mode="constant", fill_value=0.0)
    return moved + background


def _background(images: tf.Tensor) -> tf.Tensor:
    """Returns the median of each channel along the edge of images (B, H, W, C): (B, 1, 1, C)."""
    edge = tf.concat([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)  # (B, E, C)
    return tf.sort(edge, axis=1)[:, edge.shape[1] // 2, tf.newaxis, tf.newaxis]


# What `augmentation` can name. (images (B, H, W, C) in [0, 1], draw, parameters) -> images of the same shape; draw(n)
# gives (n, B) numbers from -1 to 1, drawn for each image by itself.
AUGMENTATIONS: dict[str, Callable[[tf.Tensor, Draw, Params], tf.Tensor]] = {
    "off": lambda images, draw, params: images,
    "affine": affine,
    "affine_and_flip": affine_and_flip,
    "drawing": drawing,
    "photo": photo,
}
