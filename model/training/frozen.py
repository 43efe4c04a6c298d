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


class Adam(keras.optimizers.Adam):
    """Adam whose bias correction counts the gradients of each variable, and not the steps of the run.

    Averages that begin at 0 are too small at first, and are divided by 1 - beta^t. A variable that gets its first
    gradient after many steps would not be corrected any more: as the average of the squares grows the more slowly, its
    first steps would be up to 6.5 times as long as the learning rate allows, in just the weights that are to change
    little.

    References:
        Kingma, Ba: Adam: A Method for Stochastic Optimization, 2015, section 3.
    """

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes what is remembered of each variable."""
        if self.built:
            return
        super().build(variables)
        self._gradients = [
            self.add_variable((), dtype="int64", name=f"gradients_{index}") for index in range(len(variables))
        ]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Makes a step by a gradient."""
        seen = self._gradients[self._get_variable_index(variable)]
        self.assign(seen, seen + 1)
        by_own = self._correction(seen) / self._correction(self.iterations + 1)
        super().update_step(gradient, variable, learning_rate * by_own)

    def _correction(self, steps: tf.Tensor) -> tf.Tensor:
        """Returns sqrt(1 - beta_2^t) / (1 - beta_1^t), by which the learning rate is multiplied."""
        t = tf.cast(tf.convert_to_tensor(steps), tf.float32)
        return tf.sqrt(1 - tf.pow(float(self.beta_2), t)) / (1 - tf.pow(float(self.beta_1), t))
