"""What can be said of an experiment before it is trained: what its batches teach, what memory and time it takes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import tqdm

from model.data.input_fn import TrainInput
from model.params import Params
from model.training.doctor import explain_missing
from model.training.learner import Learner
from model.training.model_fn import model_fn
from model.training.steps import compile_train_step

_BATCHES = 200  # to look at
_STEPS = 20  # to time, after those in which everything is compiled
_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Composition:
    """What is in a batch, on average over many. An image that is there several times counts once.

    Attributes:
        num_classes: Different classes.
        copies: Part of the batch that is there already.
        positives: Other images of its class, for an anchor.
        negatives: Images of other classes, for an anchor.
        without_positive: Part of the anchors that have no positive.
        without_negative: Part of the anchors that have no negative.
        num_triplets: Valid triplets.
        teaches: Part of the batches that hold a valid triplet.
    """

    num_classes: float
    copies: float
    positives: float
    negatives: float
    without_positive: float
    without_negative: float
    num_triplets: float
    teaches: float


def compose(data: TrainInput) -> Composition:
    """Looks at the first batches of a training."""
    rows = []
    for step in range(_BATCHES):
        batch = data.batches(step)
        images = np.unique(batch)
        labels = data.labels[images]
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        positives = counts[inverse] - 1  # (B,)
        negatives = len(labels) - counts[inverse]  # (B,)
        triplets = int(np.sum(positives.astype(np.int64) * negatives))
        rows.append(
            (
                len(counts), 1 - len(images) / len(batch), positives.mean(), negatives.mean(),
                np.mean(positives == 0), np.mean(negatives == 0), triplets, triplets > 0,
            )
        )  # fmt: skip
    return Composition(*np.mean(rows, axis=0).tolist())


def seconds_per_step(data: TrainInput, learner: Learner) -> float:
    """Makes some steps and returns the median of what one takes."""
    step = compile_train_step(model_fn, learner, tf.distribute.get_strategy())
    images, labels = tf.constant(data.images), tf.constant(data.labels)
    number = _WARM_UP_STEPS + _STEPS
    batches = tf.constant(np.stack([_some_batch(data, step) for step in range(number)]))
    seconds = []
    for _ in tqdm.trange(number, desc="timing", disable=None, leave=False):
        started = time.perf_counter()
        float(step(images, labels, batches, tf.constant(0, tf.int64)).sums["loss"][0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[_WARM_UP_STEPS:]))


def _some_batch(data: TrainInput, step: int) -> np.ndarray:
    """Returns the images of a step, or as many of them as triplets have that are mined."""
    batch = data.batches(step)
    if data.steps_per_mining is not None:  # pairs, (B, 2): any image will do as a negative
        batch = np.column_stack([batch, np.roll(batch[:, 0], 1)]).ravel()
    return batch.astype(np.int32)


def bytes_of_the_loss(params: Params) -> int:
    """Returns about how much memory the loss takes, beside the network."""
    if params.strategy.mines:
        return 12 * 4 * params.batch_size * params.embedding_size
    return params.strategy.bytes_per_pair * params.batch_size**2


def bytes_of_the_network(network: keras.Model, batch_size: int) -> int:
    """Returns about how much memory a training step takes for weights, gradients, Adam and what layers put out."""
    weights = 4 * 4 * sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    outputs = sum(
        int(np.prod(layer.output.shape[1:])) * tf.as_dtype(layer.compute_dtype).size for layer in network.layers
    )
    return weights + 2 * batch_size * outputs  # the gradient of what a layer puts out is as large


def check(data: TrainInput, params: Params, new_learner: Callable[[], Learner]) -> Iterator[str]:
    """Yields what there is to know before a training, line by line.

    No checkpoint and no curve is written. A few steps are made with a learner that is thrown away.

    Args:
        data: What would be trained on.
        params: The experiment.
        new_learner: Returns what would be trained.
    """
    if data.steps_per_mining is None:
        yield from _about_batches(compose(data), params)
    else:
        yield (
            f"Batches: {params.batch_size} triplets, mined before the steps, {data.steps_per_mining:,} steps at a time."
        )
    yield (
        f"Memory: the loss takes about {bytes_of_the_loss(params) / 1e6:,.1f} MB, the training images "
        f"{data.images.nbytes / 1e6:,.0f} MB."
    )
    learner = new_learner()
    megabytes = bytes_of_the_network(learner.network, data.images_per_step) / 1e6
    yield f"Memory: the network takes about {megabytes:,.0f} MB."
    seconds = seconds_per_step(data, learner)
    steps = data.steps_in(params.num_epochs)
    yield (
        f"Time: {steps:,} steps of {1000 * seconds:.1f} ms, {data.images_per_step / seconds:,.0f} images/s: about "
        f"{tqdm.tqdm.format_interval(steps * seconds)}, evaluations and offline mining not counted."
    )


def _about_batches(batch: Composition, params: Params) -> Iterator[str]:
    yield (
        f"Batches: {params.batch_size} images of {batch.num_classes:.1f} classes; an anchor has "
        f"{batch.positives:.1f} positives and {batch.negatives:.1f} negatives, a batch {batch.num_triplets:,.0f} "
        "triplets."
    )
    if batch.copies > 0:
        yield (
            f"Warning: {batch.copies:.1%} of a batch are copies of other images in it, which teach nothing; lower "
            "num_images_per_class or add images."
        )
    for kind, part in (("positive", batch.without_positive), ("negative", batch.without_negative)):
        if part > 0:
            yield f"Anchors without a {kind}: {part:.1%}."
        if warning := explain_missing(kind, part, params):
            yield f"Warning: {warning}."
    if batch.teaches < 1 and params.strategy.teaches == "triplets":
        yield f"Warning: {1 - batch.teaches:.0%} of the batches have no triplet at all; raise batch_size."
