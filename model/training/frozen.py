"""Training of the last layer alone: the others keep their weights and statistics, and get no gradient."""

import keras
import tensorflow as tf

from model.training.micro_batches import embed_in_parts
from model.training.network import EMBEDDING


class HeadAlone:
    """Stands in for a network in a training step in which only its last layer learns.

    Args:
        network: As `build_network` makes it.
        size: Images that the other layers take at a time; None takes all at once.
    """

    def __init__(self, network: keras.Model, size: int | None = None) -> None:
        dense = network.get_layer(EMBEDDING)
        self._network, self._size = network, size
        self._body = keras.Model(network.input, dense.input)
        self.trainable_variables = dense.trainable_variables

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Embeds images (B, H, W, C): (B, D) float32; in training, too, the features are those of inference."""
        if not training:  # a model_fn of one's own may ask for that within a training step
            return self._network(images, training=False)
        size = self._size
        features = self._body(images, training=False) if size is None else embed_in_parts(self._body, images, size)
        outputs = tf.stop_gradient(features)  # (B, F)
        first = self._network.layers.index(self._network.get_layer(EMBEDDING))
        for layer in self._network.layers[first:]:
            outputs = layer(outputs)
        return outputs
