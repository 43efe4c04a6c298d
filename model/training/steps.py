"""The compiled steps: what runs on the device, once a batch."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from model.training import replicas
from model.training.augmentation import augment, prepare_images
from model.training.frozen import HeadAlone
from model.training.guard import Broken
from model.training.learner import Learner
from model.training.micro_batches import InParts, embed_in_parts
from model.training.model_fn import EstimatorSpec, ModeKeys
from model.triplet_loss import PAIRS_AT_ONCE, Sums

# Until the host looks again whether it is to stop, of steps that are shorter than that.
_SECONDS_OF_A_CALL = 0.25

ModelFn = Callable[..., EstimatorSpec]


class TrainStepResult(NamedTuple):
    """What a training step tells; reading it waits for the device."""

    sums: Sums  # by name, (sum, count) over the batch
    learning_rate: tf.Tensor  # the one that this step used
    broken: Broken
    gradient_norm: tf.Tensor
    embeddings: tf.Tensor  # (B, D)
    labels: tf.Tensor  # (B,) of these
    indices: tf.Tensor  # (B,) of these, among the training images
    images: Mapping[str, tf.Tensor]
    memory: Any  # after this step, on each device; None if there is none


def compile_train_step(
    model_fn: ModelFn,
    learner: Learner,
    strategy: tf.distribute.Strategy,
    *,
    streams: bool = False,
    head_alone: bool = False,
) -> Callable[..., TrainStepResult]:
    """Compiles one step of training.

    Args:
        model_fn: The `model_fn` contract.
        learner: What learns; its optimizer must be there.
        strategy: Spreads the step over devices, each with a part of the batch; the gradient is the mean of theirs,
            which `batch_loss` makes that of the whole batch. With `on_nan` "skip", it counts as 0 if it or the loss is
            not finite.
        streams: Whether a step gets its own images, else all of them.
        head_alone: Whether only the last layer learns.

    Returns:
        step(images, labels, batches, done, memory=None): all uint8 training images (N, H, W, C) or those of the step
        (B, H, W, C), all labels (N,), the int32 indices (S, B) of the next batches, the scalar int64 global step before
        the first of them, and the memory after the step before. Each call makes one step, the one that the optimizer
        has come to.
    """
    params, network, optimizer = learner.params, learner.network, learner.optimizer
    if optimizer is None:
        raise ValueError("Expected a learner with an optimizer. Received: None")
    head = HeadAlone(network, params.micro_batch_size) if head_alone else None
    vectors = learner.vectors
    variables = [*(head or network).trainable_variables, *vectors]

    def replica_step(images: Any, labels: Any, batches: Any, done: Any, memory: Any) -> dict[str, Any]:
        step = tf.convert_to_tensor(optimizer.iterations)  # the ones made so far
        indices = batches[step - done]  # (B / R,)
        images = images if streams else tf.gather(images, indices)
        features = augment(prepare_images(images), params, step)  # (B / R, H, W, C)
        classes = tf.gather(labels, indices)  # (B / R,)
        with tf.GradientTape() as tape:
            parts = InParts(network, params.micro_batch_size, tape) if params.micro_batch_size and not head else None
            more = {} if memory is None else {"memory": memory.from_step(params.memory_start_step, step)}
            if learner.class_vectors is not None:
                more["class_vectors"] = learner.class_vectors
            spec = model_fn(features, classes, ModeKeys.TRAIN, params, head or parts or network, step, **more)
            loss = tf.convert_to_tensor(spec.loss) / replicas.count()
        gradients = parts.gradient(loss, vectors) if parts else tape.gradient(loss, variables)
        seen = {"embeddings": spec.predictions["embeddings"], "labels": classes, "indices": indices}
        seen = {name: replicas.gather(tf.stop_gradient(part)) for name, part in seen.items()}
        return {
            **replicas.total({"loss": loss, "gradients": gradients, "sums": dict(spec.metrics)}),
            "shown": {**seen, "images": dict(spec.images)},
            "memory": None if memory is None else memory.after(seen["labels"], seen["embeddings"]),
        }

    @tf.function(autograph=False)
    def train_step(images: Any, labels: Any, batches: Any, done: Any, memory: Any = None) -> TrainStepResult:
        learning_rate = tf.identity(optimizer.learning_rate)
        everywhere = strategy.run(replica_step, (images, labels, batches, done, memory))
        # What the devices know of each other is the same on all: that of the first decides for all.
        here = tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], everywhere)
        loss, gradients = here["loss"], here["gradients"]
        norm = tf.linalg.global_norm(gradients)
        is_finite = tf.math.is_finite(norm + tf.cast(loss, norm.dtype))
        if params.on_nan == "skip":
            gradients = [
                None if gradient is None else tf.where(is_finite, gradient, tf.zeros_like(gradient))
                for gradient in gradients
            ]
        optimizer.apply(gradients, variables)
        broken = Broken(_is_broken(loss), _is_broken(norm), _is_broken(tf.linalg.global_norm(_floating(network))))
        sums = {"loss": (loss, tf.ones_like(loss)), **here["sums"]}  # a model_fn may name no metrics
        return TrainStepResult(sums, learning_rate, broken, norm, **here["shown"], memory=everywhere["memory"])

    return train_step


def repeat(train_step: tf.types.experimental.PolymorphicFunction) -> Callable[..., TrainStepResult]:
    """Compiles several steps into one call, in which nothing waits for Python between one and the next.

    Args:
        train_step: As `compile_train_step` returns it.

    Returns:
        steps(images, labels, batches, done, memory, count): makes `count` steps, a scalar int32, at least 1, with the
        bits of so many calls of `train_step`. The result is that of the last of them; but for `broken`, which holds
        what each of them says, (count,).
    """

    @tf.function(autograph=False)
    def train_steps(
        images: Any, labels: Any, batches: Any, done: Any, memory: Any, count: tf.Tensor
    ) -> TrainStepResult:
        of_one = train_step.get_concrete_function(images, labels, batches, done, memory).structured_outputs
        nothing = tf.nest.map_structure(_nothing_like, of_one._replace(memory=()))
        told = tf.TensorArray(tf.int32, count, element_shape=(len(Broken._fields),))

        def body(made: tf.Tensor, told: tf.TensorArray, memory: Any, _: Any) -> tuple[Any, ...]:
            result = train_step(images, labels, batches, done, None if memory == () else memory)
            told = told.write(made, tf.stack(result.broken))
            return made + 1, told, () if result.memory is None else result.memory, result._replace(memory=())

        begin = tf.constant(0), told, () if memory is None else memory, nothing
        _, told, memory, last = tf.while_loop(lambda made, *_: made < count, body, begin, parallel_iterations=1)
        broken = Broken(*tf.unstack(told.stack(), axis=1))
        return last._replace(broken=broken, memory=None if memory == () else memory)

    return train_steps


def _nothing_like(spec: tf.TensorSpec) -> tf.Tensor:
    """Returns zeros of a shape, of which what is not known of it stays unknown."""
    sizes = [] if spec.shape.rank is None else [size or 0 for size in spec.shape]
    return tf.compat.v1.placeholder_with_default(tf.zeros(sizes, spec.dtype), spec.shape)


class Pace:
    """How many steps a call of `repeat` makes: so many that a request to stop does not wait for long.

    Attributes:
        most: That many at most, 1 at first.
    """

    def __init__(self) -> None:
        self.most = 1

    def take(self, count: int, make_steps: Callable[..., TrainStepResult], *arguments: Any) -> TrainStepResult:
        """Makes steps, waits for them, and adapts to the time that they took.

        Args:
            count: How many.
            make_steps: As `repeat` returns it.
            arguments: All that it takes but `count`.
        """
        started = time.perf_counter()
        result = make_steps(*arguments, tf.constant(count))
        result.broken.weights.numpy()
        fit = int(_SECONDS_OF_A_CALL * count / (time.perf_counter() - started))
        self.most = max(1, min(fit, max(self.most, 2 * count)))
        return result


def _is_broken(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.logical_not(tf.math.is_finite(value)), tf.int32)


def _floating(network: keras.Model) -> list[tf.Tensor]:
    """Returns the weights and moving averages of a network, without the states of its random generators."""
    variables = network.variables
    return [tf.convert_to_tensor(variable) for variable in variables if tf.as_dtype(variable.dtype).is_floating]


def compile_eval_step(model_fn: ModelFn, learner: Learner) -> Callable[..., tuple[Mapping[str, tf.Tensor], Sums]]:
    """Compiles step(images, labels) -> (predictions, sums): uint8 (B, H, W, C) and int32 (B,), B free.

    With `micro_batch_size` the network takes so many images at a time, as in training.
    """
    network, size = learner.network, learner.params.micro_batch_size
    embed = network if size is None else lambda images, training: embed_in_parts(network, images, size)
    signature: list[tf.TensorSpec] | None = [_images_spec(learner), tf.TensorSpec((None,), tf.int32)]
    if learner.params.batch_size**2 > PAIRS_AT_ONCE:
        signature = None  # for a loss that bounds its memory, each size is traced by itself

    @tf.function(input_signature=signature, autograph=False)
    def eval_step(images: tf.Tensor, labels: tf.Tensor) -> tuple[Mapping[str, tf.Tensor], Sums]:
        spec = model_fn(prepare_images(images), labels, ModeKeys.EVAL, learner.params, embed)
        return spec.predictions, spec.metrics

    return eval_step


def compile_predict_step(model_fn: ModelFn, learner: Learner) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """Compiles step(images) -> predictions: uint8 (B, H, W, C), B free."""

    @tf.function(input_signature=[_images_spec(learner)], autograph=False)
    def predict_step(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return model_fn(prepare_images(images), None, ModeKeys.PREDICT, learner.params, learner.network).predictions

    return predict_step


def compile_serving_step(model_fn: ModelFn, learner: Learner) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """Compiles step(images) -> predictions for images of other programs, (B, H, W, C), B free.

    Of uint8, or float32: then whatever is no whole number from 0 to 255 is an InvalidArgumentError. With this choice of
    two, TensorFlow does not convert an array to uint8 by itself.
    """
    predict_step = compile_predict_step(model_fn, learner)

    @tf.function(autograph=False)
    def serving_step(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        if images.dtype == tf.uint8:
            return predict_step(images)
        pixels = tf.cast(tf.clip_by_value(images, 0.0, 255.0), tf.uint8)
        is_pixel = tf.reduce_all(tf.cast(pixels, images.dtype) == images)  # never of NaN
        expected = "Expected images of uint8, or whole numbers from 0 to 255. Received at most and at least:"
        with tf.control_dependencies(
            [tf.debugging.Assert(is_pixel, [expected, tf.reduce_max(images), tf.reduce_min(images)])]
        ):
            return predict_step(tf.identity(pixels))

    spec = _images_spec(learner)
    for dtype in (tf.uint8, tf.float32):  # the first is what a server of the model takes
        serving_step.get_concrete_function(tf.TensorSpec(spec.shape, dtype, name=spec.name))
    return serving_step


def _images_spec(learner: Learner) -> tf.TensorSpec:
    return tf.TensorSpec((None, *learner.network.input_shape[1:]), tf.uint8, name="images")
