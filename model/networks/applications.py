"""Networks of `keras.applications`, from images in [0, 1] to features, each with the preprocessing of its family."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

# Of the images of ImageNet, red, green, blue, in [0, 1].
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEAN_OF_CAFFE = (123.68, 116.779, 103.939)  # in [0, 255]


class Preprocessing(keras.layers.Layer):
    """Computes scale * image + offset for each channel of images in [0, 1]; grey ones get three equal channels.

    Args:
        scale: One number, or one each for red, green and blue.
        offset: The same.
        is_bgr: Whether the channels are then turned round, to blue, green, red.
        name: What Keras calls the layer.
        dtype: As for every layer.

    Example:
        >>> grey = keras.ops.full([1, 1, 1, 1], 0.75)  # one pixel
        >>> Preprocessing(scale=2.0, offset=-1.0)(grey).numpy().tolist()
        [[[[0.5, 0.5, 0.5]]]]
    """

    def __init__(
        self,
        scale: float | Sequence[float],
        offset: float | Sequence[float],
        is_bgr: bool = False,
        name: str = "preprocessing",
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=False)
        self.scale, self.offset, self.is_bgr = scale, offset, is_bgr

    def call(self, images: Any) -> Any:
        """Returns (B, H, W, 3) float32 for (B, H, W, C), C = 1 or 3."""
        if images.shape[-1] == 1:
            images = keras.ops.repeat(images, 3, axis=-1)
        outputs = images * self.scale + self.offset
        return outputs[..., ::-1] if self.is_bgr else outputs

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Returns the shape of what `call` returns."""
        return (*input_shape[:-1], 3)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"scale": self.scale, "offset": self.offset, "is_bgr": self.is_bgr, "name": self.name}


def from_0_to_255() -> Preprocessing:
    """Returns the preprocessing of families that normalize inside."""
    return Preprocessing(255.0, 0.0)


def from_minus_1_to_1() -> Preprocessing:
    """Returns the preprocessing of MobileNetV2 and ResNetV2."""
    return Preprocessing(2.0, -1.0)


def standardized() -> Preprocessing:
    """Returns the preprocessing of DenseNet: (image - mean) / standard deviation."""
    scale = [1 / deviation for deviation in _DEVIATION]
    return Preprocessing(scale, [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)])


def of_caffe() -> Preprocessing:
    """Returns the preprocessing of ResNet: blue, green, red from 0 to 255, less their means."""
    return Preprocessing(255.0, [-mean for mean in _MEAN_OF_CAFFE], is_bgr=True)


def of_efficientnet() -> Preprocessing:
    """Returns the preprocessing of EfficientNet.

    The network itself computes (255 * image / 255 - mean) / sqrt(d), d the standard deviation, from numbers in the
    file of weights. The weights were made for (image - mean) / d, for which Keras divides by sqrt(d) once more behind
    that, but only where it loads ImageNet's weights itself. With image / sqrt(d) + mean - mean / sqrt(d) in the place
    of the image, the result is the same.
    """
    scale = [255 * deviation**-0.5 for deviation in _DEVIATION]
    return Preprocessing(
        scale, [255 * mean * (1 - deviation**-0.5) for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)]
    )


def application(
    build: Callable[..., keras.Model], preprocessing: Callable[[], Preprocessing]
) -> Callable[..., keras.KerasTensor]:
    """Returns a function (images, seed) -> features, the mean over the image of what an application puts out.

    Args:
        build: Of `keras.applications`.
        preprocessing: Returns the layer before it.
    """

    def features(images: keras.KerasTensor, *, seed: int) -> keras.KerasTensor:
        del seed  # build_network seeds what is drawn here
        body = build(include_top=False, weights=None, input_tensor=preprocessing()(images))
        return keras.layers.GlobalAveragePooling2D(dtype="float32", name="average_pool")(body.output)

    return features
