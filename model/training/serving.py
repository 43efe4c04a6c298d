"""The network as other programs run it: one Keras model, from uint8 images to embeddings."""

from typing import Any

import keras
import tensorflow as tf

from model.training.augmentation import prepare_images
from model.training.learner import Learner
from model.training.model_fn import ModeKeys
from model.training.steps import ModelFn


class ServingNetwork(keras.Model):
    """A network with all that an embedding takes: images are scaled, and looked at as `test_time_augmentation` says.

    Keras writes it in the forms that it knows:

        network.export("model.tflite", format="litert", input_signature=network.signature)

    Args:
        model_fn: The `model_fn` contract.
        learner: Whose network it is.

    Attributes:
        signature: Of the images, (N, H, W, C) uint8 with N free, as `export` takes it.
    """

    def __init__(self, model_fn: ModelFn, learner: Learner) -> None:
        super().__init__(name="serving")
        self._model_fn, self._params, self.network = model_fn, learner.params, learner.network
        shape = (None, *learner.network.input_shape[1:])
        self.signature = (tf.TensorSpec(shape, tf.uint8, name="images"),)
        self.built = True  # as its network is: exporters ask

    def call(self, images: Any) -> dict[str, Any]:
        """Returns the predictions by name: "embeddings", (N, D) float32."""
        spec = self._model_fn(prepare_images(images), None, ModeKeys.PREDICT, self._params, self.network)
        return dict(spec.predictions)
