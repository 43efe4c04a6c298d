"""What `network` can name: how each network is made, and all else that has to be known of it.

A network of one's own is one function and one entry in `NETWORKS`. What `params.json` may say, the estimate of the
memory and the weights to begin with follow from the entry, and so does the schema, whose file `make schema` writes.
Nothing here needs TensorFlow: a function is fetched when a network is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

# (images (B, H, W, C) in [0, 1], seed=..., and the parameters of the entry by name) -> features (B, F), in layers of
# Keras that leave the arithmetic to the global policy. What they draw without a seed, `build_network` seeds.
Features = Callable[..., "keras.KerasTensor"]

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights for ImageNet that Keras offers.

    Attributes:
        url: Where it is; its last part is the name of the file.
        digest: MD5 or SHA-256, as many hexadecimal digits as that has; "" where Keras knows none.
    """

    url: str
    digest: str = ""

    @property
    def name(self) -> str:
        """The name of the file, under which Keras keeps it."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Network:
    """How images become features.

    Attributes:
        load: Returns the function that makes the layers.
        smallest_side: Fewest pixels that an image must have in height and in width.
        imagenet: The weights that `weights` "imagenet" stands for; None where there are none.
        has_batch_norm: Whether there is batch normalization in it, whatever the parameters say.
        parameters: Keys of `params.json` that this network reads; with networks that do not list them they are
            refused.
        size: Returns a function (image shape, and the parameters by name) -> weights, numbers that all layers put out
            for an image, features; for a network that may be too large to be built. None where building tells.
    """

    load: Callable[[], Features]
    smallest_side: int = 1
    imagenet: WeightsFile | None = None
    has_batch_norm: bool = False
    parameters: frozenset[str] = frozenset()
    size: Callable[[], Callable[..., tuple[int, int, int]]] | None = None


def _cnn() -> Any:
    from model.networks import cnn

    return cnn


def _application(
    choose: Callable[[Any], Callable[..., "keras.Model"]],
    preprocess: Callable[[Any], Callable[[], Any]],
    url: str,
    digest: str = "",
    has_batch_norm: bool = True,
) -> Network:
    """Returns the entry of a network of `keras.applications`.

    Args:
        choose: From that module to the function that builds the network.
        preprocess: From `model.networks.applications` to the function that makes its preprocessing.
        url: Of ImageNet's weights for it.
        digest: Of that file.
        has_batch_norm: As for `Network`.
    """

    def load() -> Features:
        import keras

        from model.networks import applications

        return applications.application(choose(keras.applications), preprocess(applications))

    return Network(load, smallest_side=32, imagenet=WeightsFile(url, digest), has_batch_norm=has_batch_norm)


NETWORKS: dict[str, Network] = {
    "cnn": Network(
        lambda: _cnn().cnn,
        parameters=frozenset({"num_channels", "num_blocks", "convolutions_per_block", "use_batch_norm", "pooling"}),
        size=lambda: _cnn().size_of_cnn,
    ),
    "MobileNetV2": _application(
        lambda keras: keras.MobileNetV2,
        lambda its: its.from_minus_1_to_1,
        _KERAS + "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    "MobileNetV3Small": _application(
        lambda keras: keras.MobileNetV3Small,
        lambda its: its.from_0_to_255,
        _KERAS + "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "MobileNetV3Large": _application(
        lambda keras: keras.MobileNetV3Large,
        lambda its: its.from_0_to_255,
        _KERAS + "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "EfficientNetB0": _application(
        lambda keras: keras.EfficientNetB0,
        lambda its: its.of_efficientnet,
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "50bc09e76180e00e4465e1a485ddc09d",
    ),
    "EfficientNetV2B0": _application(
        lambda keras: keras.EfficientNetV2B0,
        lambda its: its.from_0_to_255,
        _KERAS + "efficientnet_v2/efficientnetv2-b0_notop.h5",
        "893217f2bb855e2983157299931e43ff",
    ),
    "EfficientNetV2B1": _application(
        lambda keras: keras.EfficientNetV2B1,
        lambda its: its.from_0_to_255,
        _KERAS + "efficientnet_v2/efficientnetv2-b1_notop.h5",
        "0e80663031ca32d657f9caa404b6ec37",
    ),
    "EfficientNetV2B2": _application(
        lambda keras: keras.EfficientNetV2B2,
        lambda its: its.from_0_to_255,
        _KERAS + "efficientnet_v2/efficientnetv2-b2_notop.h5",
        "1dfe2e7a5d45b6632553a8961ea609eb",
    ),
    "EfficientNetV2B3": _application(
        lambda keras: keras.EfficientNetV2B3,
        lambda its: its.from_0_to_255,
        _KERAS + "efficientnet_v2/efficientnetv2-b3_notop.h5",
        "f6abf7b5849ac99a89b50dd3fd532856",
    ),
    "ResNet50": _application(
        lambda keras: keras.ResNet50,
        lambda its: its.of_caffe,
        _KERAS + "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
    ),
    "ResNet50V2": _application(
        lambda keras: keras.ResNet50V2,
        lambda its: its.from_minus_1_to_1,
        _KERAS + "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "fac2f116257151a9d068a22e544a4917",
    ),
    "ConvNeXtTiny": _application(
        lambda keras: keras.ConvNeXtTiny,
        lambda its: its.from_0_to_255,
        _KERAS + "convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        has_batch_norm=False,
    ),
    "DenseNet121": _application(
        lambda keras: keras.DenseNet121,
        lambda its: its.standardized,
        _KERAS + "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "30ee3e1110167f948a6b9946edeeb738",
    ),
}


def networks_with(parameter: str) -> list[str]:
    """Returns the names of the networks that read a parameter of their own; none if it belongs to all.

    Example:
        >>> networks_with("num_channels")
        ['cnn']
    """
    return [name for name, network in NETWORKS.items() if parameter in network.parameters]
