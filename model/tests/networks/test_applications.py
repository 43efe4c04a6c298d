"""Each network of keras.applications sees of an image what the preprocessing of its family in Keras makes of it."""

import types

import keras
import numpy as np
import pytest

from model.networks.entries import NETWORKS

MODULES = {
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "MobileNetV3Large": "mobilenet_v3",
    "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetV2B1": "efficientnet_v2",
    "EfficientNetV2B2": "efficientnet_v2",
    "EfficientNetV2B3": "efficientnet_v2",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
}
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3)).astype(np.float32)


def seen(name, pixels, monkeypatch):
    """What a network is given of images of one color each, (n, 1, 1, C) from 0 to 255."""

    def build(include_top, weights, input_tensor):
        assert (include_top, weights) == (False, None)
        return types.SimpleNamespace(output=input_tensor)

    monkeypatch.setattr(keras.applications, name, build)
    images = keras.Input((4, 4, pixels.shape[-1]))
    model = keras.Model(images, NETWORKS[name].load()(images, seed=1))
    return model.predict(np.tile(pixels / 255, (1, 4, 4, 1)), verbose=0)  # the mean over the image: (n, 3)


def test_every_application_is_here():
    assert {*MODULES, "EfficientNetB0", "cnn"} == {*NETWORKS}


@pytest.mark.parametrize("name", MODULES)
def test_the_preprocessing_is_that_of_keras(name, monkeypatch):
    expected = getattr(keras.applications, MODULES[name]).preprocess_input(PIXELS.copy())[:, 0, 0]
    np.testing.assert_allclose(seen(name, PIXELS, monkeypatch), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "MobileNetV2"])
def test_a_grey_image_is_one_of_three_equal_channels(name, monkeypatch):
    grey = PIXELS[..., :1]
    colored = np.repeat(grey, 3, axis=-1)
    np.testing.assert_array_equal(seen(name, grey, monkeypatch), seen(name, colored, monkeypatch))


@pytest.mark.slow
def test_efficientnet_b0_standardizes_as_it_did_when_its_weights_were_made():
    """(image - mean) / standard deviation, of ImageNet: Keras itself mends its first layers for that."""
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, NETWORKS["EfficientNetB0"].load()(images, seed=1))
    normalization = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    # Keras' file holds these, the second where one would expect its square.
    normalization.mean, normalization.variance = (
        keras.ops.reshape(keras.ops.cast(value, "float32"), (1, 1, 1, 3)) for value in (mean, deviation)
    )
    found = keras.Model(images, normalization.output)(np.tile(PIXELS / 255, (1, 32, 32, 1)))
    np.testing.assert_allclose(found[:, 0, 0], (PIXELS[:, 0, 0] / 255 - mean) / deviation, rtol=1e-4, atol=1e-4)
