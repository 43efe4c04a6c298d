"""Embeds a batch in parts, with the gradient of the whole: the network needs no more memory than for one part.

The loss needs all embeddings of the batch, but not what the layers put out on the way to them. So the parts are
embedded one after the other and that is forgotten; the loss of all says how each embedding should move; and each part
is embedded again to see what that asks of the weights: a third more time, as three passes become four.

References:
    Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from model.training import replicas


class InParts:
    """Stands in for a network in one training step.

    Batch normalization sees each part for itself, and on several devices each device for itself; its moving averages
    are then the mean over the devices.

    Args:
        network: What embeds the images.
        size: Images of a part.
        tape: On which the embeddings, and not the weights, are what there is a gradient of.
    """

    def __init__(self, network: keras.Model, size: int, tape: tf.GradientTape) -> None:
        self._network, self._size, self._tape = network, size, tape
        self._embeddings: tf.Tensor | None = None

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Embeds images (B, H, W, C), B a multiple of the size of a part: (B, D) float32.

        Raises:
            ValueError: The second time with `training`, as there is a gradient of one batch only.
        """
        network = self._network
        if not training:  # a model_fn of one's own may ask for that within a training step
            return network(images, training=False)
        if self._embeddings is not None:
            raise ValueError("Expected one call with training=True in a step with micro_batch_size. Received: two")
        self._parts = tf.reshape(images, [-1, self._size, *images.shape[1:]])  # (parts, size, H, W, C)
        self._weights = [tf.convert_to_tensor(variable) for variable in network.trainable_variables]
        self._before = [tf.convert_to_tensor(variable) for variable in network.non_trainable_variables]
        number = self._parts.shape[0]
        found = tf.TensorArray(tf.float32, number, element_shape=[self._size, network.output_shape[-1]])

        def embed(part: tf.Tensor, state: list[tf.Tensor], found: tf.TensorArray) -> tuple:
            embeddings, state = self._embed(part, state)
            return part + 1, state, found.write(part, embeddings)

        _, after, found = tf.while_loop(
            lambda part, *_: part < number, embed, (tf.constant(0), self._before, found), parallel_iterations=1
        )
        for variable, value in zip(network.non_trainable_variables, after, strict=True):
            is_mean = tf.as_dtype(variable.dtype).is_floating
            variable.assign(replicas.total(value) / replicas.count() if is_mean else value)
        self._embeddings = tf.stop_gradient(tf.reshape(found.concat(), [images.shape[0], network.output_shape[-1]]))
        self._tape.watch(self._embeddings)
        return self._embeddings

    def gradient(self, loss: tf.Tensor, others: Sequence[tf.Variable] = ()) -> list[tf.Tensor]:
        """Returns the gradient of a loss of the embeddings with respect to each weight of the network.

        Args:
            loss: A scalar.
            others: What else the loss depends on; these gradients come last.
        """
        upstream, *of_others = self._tape.gradient(loss, [self._embeddings, *others])  # (B, D)
        upstream = tf.reshape(upstream, [*self._parts.shape[:2], -1])  # (parts, size, D)

        def add(part: tf.Tensor, state: list[tf.Tensor], so_far: list[tf.Tensor]) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch(self._weights)
                embeddings, state = self._embed(part, state)
            gradient = tape.gradient(
                embeddings, self._weights, upstream[part], unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return part + 1, state, [before + new for before, new in zip(so_far, gradient, strict=True)]

        nothing = [tf.zeros_like(weight) for weight in self._weights]
        *_, gradient = tf.while_loop(
            lambda part, *_: part < self._parts.shape[0],
            add,
            (tf.constant(0), self._before, nothing),
            parallel_iterations=1,
        )
        return [*gradient, *of_others]

    def _embed(self, part: tf.Tensor, state: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Embeds a part by the network in a state, (size, D), and returns the state after it."""
        with replicas.alone():
            return self._network.stateless_call(self._weights, state, self._parts[part], training=True)


def embed_in_parts(network: keras.Model, images: tf.Tensor, size: int) -> tf.Tensor:
    """Embeds images (B, H, W, C), B free, as in inference, so many at a time: what the network puts out, (B, D)."""
    output = network.outputs[0]
    number = -(-tf.shape(images)[0] // size)
    found = tf.TensorArray(output.dtype, number, infer_shape=False, element_shape=output.shape)

    def embed(part: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        some = tf.ensure_shape(images[part * size : (part + 1) * size], [None, *images.shape[1:]])
        return part + 1, found.write(part, network(some, training=False))

    _, found = tf.while_loop(lambda part, _: part < number, embed, (tf.constant(0), found), parallel_iterations=1)
    return tf.ensure_shape(found.concat(), [images.shape[0], output.shape[-1]])
