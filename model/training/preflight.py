"""What can be said of an experiment before it is trained: what its batches teach, what memory and time it takes."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tqdm

from model.common.devices import free_memory
from model.data.input_fn import TrainInput
from model.networks.entries import NETWORKS
from model.params import Params
from model.training.doctor import count_partners, explain_missing
from model.training.feeding import Feed, replicate, send_memory
from model.training.learner import Learner, PastBatches
from model.training.model_fn import model_fn
from model.training.network import Size, size_of_network
from model.training.steps import compile_train_step
from model.triplet_loss import PAIRS_AT_ONCE, PAIRS_OF_A_BLOCK

_BATCHES = 200  # to look at
_STEPS = 20  # to time, after those in which everything is compiled
_WARM_UP_STEPS = 3
_SECONDS = 3.0  # after the first step, which is compiled
# Of a batch that takes more memory than this by the estimate, only some images are timed, a multiple of these.
_MOST_BYTES, _FEWEST_IMAGES = 2 * 10**9, 6

# Of the memory that is free, what a step may take by the estimate, which leaves out what convolutions need to work.
_SHARE_OF_MEMORY = 0.5
# TensorFlow counts the numbers of a tensor in 32 bits here and there.
_MOST_WEIGHTS = 2**31 - 1


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
        labels = data.labels[batch]
        positives, negatives = count_partners(labels, batch)
        triplets = int(np.sum(positives.astype(np.int64) * negatives))
        rows.append(
            (
                len(np.unique(labels)), 1 - len(positives) / len(batch), positives.mean(), negatives.mean(),
                np.mean(positives == 0), np.mean(negatives == 0), triplets, triplets > 0,
            )
        )  # fmt: skip
    return Composition(*np.mean(rows, axis=0).tolist())


def seconds_per_step(
    data: TrainInput, learner: Learner, num_images: int, strategy: tf.distribute.Strategy | None = None
) -> float:
    """Makes steps, for three seconds at most once everything is compiled; returns the median of what one takes.

    Args:
        data: What would be trained on; a step sees noise with the labels of its first batch, over and over, as what is
            on an image makes no step longer or shorter.
        learner: What would be trained, which these steps spoil.
        num_images: How many of the batch; the time of fewer is multiplied, as convolutions take it for each image.
        strategy: What spreads a step over devices; None takes the default one.
    """
    strategy, params = strategy or tf.distribute.get_strategy(), learner.params
    batch = _some_batch(data)[:num_images]
    number = _WARM_UP_STEPS + _STEPS
    these = np.arange(len(batch), dtype=np.int32)  # in each step, into these images alone
    noise = np.random.default_rng(0).integers(0, 256, (len(batch), *data.images.shape[1:]), np.uint8)
    labels = replicate(strategy, data.labels[batch])
    memory = None
    if params.memory_size:
        past = np.resize(data.labels, params.memory_size), np.ones((params.memory_size, params.embedding_size))
        memory = send_memory(strategy, PastBatches(*past), params)
    feed = Feed(strategy, noise)
    step = compile_train_step(model_fn, learner, strategy, streams=feed.streams)
    seconds: list[float] = []
    fed = (rest for steps, *rest in feed.steps(lambda _: these, range(1, number + 1), None) for _ in steps)
    for images, batches, done in tqdm.tqdm(fed, "timing", number, disable=None, leave=False):
        started = time.perf_counter()
        float(step(images, labels, batches, done, memory).sums["loss"][0])  # waits for the device
        seconds.append(time.perf_counter() - started)
        if sum(seconds[1:]) >= _SECONDS:
            break
    return float(np.median(seconds[_WARM_UP_STEPS:] or seconds[-1:])) * data.images_per_step / len(batch)


def _some_batch(data: TrainInput) -> np.ndarray:
    """Returns the images of a step, or as many of them as triplets have that are mined."""
    batch = data.batches(0)
    if data.steps_per_mining is not None:  # pairs, (B, 2): any image will do as a negative
        batch = np.column_stack([batch, np.roll(batch[:, 0], 1)]).ravel()
    return batch.astype(np.int32)


def _images_to_time(size: Size, data: TrainInput, params: Params, precision: str, devices: int) -> int:
    """Returns how many images of a batch a step is timed with, so that it takes neither long nor much memory."""
    if free_memory() is None:  # a GPU is fast, and slower for each of a few images
        return data.images_per_step
    # As many to each device, whole triplets of those that are mined, and there as many to each part.
    of_a_device = math.lcm(3 if params.strategy.mines else 1, params.micro_batch_size or 1)
    fewest = math.lcm(_FEWEST_IMAGES, devices * of_a_device)
    fixed = bytes_of_the_network(size, 0, precision)
    of_an_image = bytes_of_the_network(size, 1, precision) - fixed
    most = max(_MOST_BYTES - fixed, 0) // of_an_image // fewest * fewest
    return min(data.images_per_step, max(most, fewest))


def bytes_of_the_loss(params: Params, num_classes: int) -> int:
    """Returns about how much memory the loss takes, beside the network, with images of so many classes."""
    if params.strategy.mines:
        return 12 * 4 * params.batch_size * params.embedding_size
    pairs = params.batch_size * (params.batch_size + (params.memory_size or 0))
    of_pairs = params.strategy.bytes_per_pair * (pairs if pairs <= PAIRS_AT_ONCE else PAIRS_OF_A_BLOCK)
    if not params.strategy.learns_class_vectors:
        return of_pairs
    # Similarities to all vectors; and these, with a gradient and Adam's two numbers for each of theirs.
    return of_pairs + num_classes * (params.batch_size * params.strategy.bytes_per_pair + 4 * 4 * params.embedding_size)


def bytes_of_the_network(size: Size, batch_size: int, precision: str = "float32") -> int:
    """Returns about how much memory a training step takes for weights, gradients, Adam and what layers put out.

    Args:
        size: Of the network.
        batch_size: Images of a step.
        precision: "float32" or "mixed_bfloat16".
    """
    bytes_per_output = 4 if precision == "float32" else 2
    # Adam has two numbers for each weight; the gradient of what a layer puts out is as large as that.
    return 4 * 4 * size.weights + 2 * batch_size * size.outputs * bytes_per_output


def too_large(params: Params, image_shape: tuple[int, int, int]) -> str:
    """Returns what to change in a network of more weights than a tensor or the memory holds; "" if they fit."""
    if too_small(params, image_shape):
        return ""
    size, free = size_of_network(params, image_shape), free_memory()
    if size.weights <= _MOST_WEIGHTS and (free is None or 4 * 4 * size.weights <= free):
        return ""
    own = NETWORKS[params.network].parameters
    lower = "image_size, num_channels or" if "num_channels" in own else "image_size or"
    more_blocks = ", or raise num_blocks if most are in the dense layer" if "num_blocks" in own else ""
    part = f", {size.weights_of_embedding:,} of them in the last layer"
    takes = f"with gradients and Adam {4 * 4 * size.weights / 1e9:,.0f} GB"
    has = "" if free is None else f", and {free / 1e9:,.0f} GB of memory are free"
    return (
        f"the network would have {size.weights:,} weights{part}: {takes}{has}; lower {lower} "
        f"embedding_size{more_blocks}"
    )


def too_small(params: Params, image_shape: tuple[int, int, int]) -> str:
    """Returns what to change where images are smaller than the network can take; "" where they are not."""
    height, width, _ = image_shape
    smallest = NETWORKS[params.network].smallest_side
    if min(height, width) >= smallest:
        return ""
    return (
        f"'network' \"{params.network}\" takes images of at least {smallest}x{smallest} pixels, these have "
        f"{height}x{width}; set image_size"
    )


def warm_up_too_long(params: Params, num_steps: int) -> str:
    """Returns what to change if the learning rate never comes to its height in so many steps; "" if it does."""
    if params.warmup_steps < num_steps:
        return ""
    return (
        f"'warmup_steps' must be fewer than the {num_steps:,} steps of the training, received {params.warmup_steps:,}"
    )


def check(
    data: TrainInput,
    params: Params,
    new_learner: Callable[[], Learner],
    precision: str = "float32",
    strategy: tf.distribute.Strategy | None = None,
) -> Iterator[str]:
    """Yields what there is to know before a training, line by line.

    No checkpoint and no curve is written. A few steps are made with a learner that is thrown away, unless they might
    take more than half of the memory that is free.

    Args:
        data: What would be trained on. Of its images, only the number and the shape are looked at.
        params: The experiment.
        new_learner: Returns what would be trained.
        precision: "float32" or "mixed_bfloat16", the arithmetic of the convolutions.
        strategy: What spreads a step over devices; None takes the default one.
    """
    if data.steps_per_mining is None:
        yield from _about_batches(compose(data), params)
    else:
        yield (
            f"Batches: {params.batch_size} triplets, mined before the steps, {data.steps_per_mining:,} steps at a time."
        )
    of_the_loss = bytes_of_the_loss(params, len(np.unique(data.labels)))
    yield (
        f"Memory: the loss takes about {of_the_loss / 1e6:,.1f} MB, the training images "
        f"{data.images.nbytes / 1e6:,.0f} MB."
    )
    free = free_memory()
    if problem := too_small(params, data.images.shape[1:]):
        yield f"Warning: {problem}."
        return
    size = size_of_network(params, data.images.shape[1:])
    of_network = bytes_of_the_network(size, params.micro_batch_size or data.images_per_step, precision)
    yield f"Memory: the network of {size.weights:,} weights takes about {of_network / 1e6:,.0f} MB."
    steps = data.steps_in(params.num_epochs)
    if warning := warm_up_too_long(params, steps):
        yield f"Warning: {warning}."
    if warning := too_large(params, data.images.shape[1:]):
        yield f"Warning: {warning}."
        return
    total = of_network + of_the_loss
    if free is not None and total > _SHARE_OF_MEMORY * free:
        has_channels = "num_channels" in NETWORKS[params.network].parameters
        yield (
            f"Warning: that is more than {_SHARE_OF_MEMORY:.0%} of the {free / 1e6:,.0f} MB of free memory, so no step "
            f"is timed; lower batch_size{', image_size or num_channels' if has_channels else ' or image_size'}, or set "
            "micro_batch_size."
        )
        return
    devices = 1 if strategy is None else strategy.num_replicas_in_sync
    num_images = _images_to_time(size, data, params, precision, devices)
    seconds = seconds_per_step(data, new_learner(), num_images, strategy)
    yield (
        f"Time: {steps:,} steps of {1000 * seconds:.1f} ms, {data.images_per_step / seconds:,.0f} images/s: about "
        f"{tqdm.tqdm.format_interval(steps * seconds)}, evaluations and offline mining not counted"
        + (f"; measured with {num_images} images." if num_images < data.images_per_step else ".")
    )


def _about_batches(batch: Composition, params: Params) -> Iterator[str]:
    yield (
        f"Batches: {params.batch_size} images of {batch.num_classes:.1f} classes; an anchor has "
        f"{batch.positives:.1f} positives and {batch.negatives:.1f} negatives, a batch {batch.num_triplets:,.0f} "
        "triplets."
    )
    if batch.copies > 0:
        lower = "batch_size" if params.num_images_per_class is None else "num_images_per_class"
        yield (
            f"Warning: {batch.copies:.1%} of a batch are copies of other images in it, which teach nothing; lower "
            f"{lower} or add images."
        )
    if params.memory_size:
        return  # partners are looked for in batches gone by, too
    for kind, part in (("positive", batch.without_positive), ("negative", batch.without_negative)):
        if part > 0:
            yield f"Anchors without a {kind}: {part:.1%}."
        if warning := explain_missing(kind, part, params):
            yield f"Warning: {warning}."
    if batch.teaches < 1 and params.strategy.teaches == "triplets":
        yield f"Warning: {1 - batch.teaches:.0%} of the batches have no triplet at all; raise batch_size."
