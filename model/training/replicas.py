"""What the devices of a step have in common: each has its part of the batch, and they compute what one device would.

Inside `strategy.run` these functions speak of all devices; anywhere else there is one, which has everything.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_alone = contextvars.ContextVar("alone", default=False)


def count() -> int:
    """Returns how many devices share the batch."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None or _alone.get() else context.num_replicas_in_sync


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets a device be the only one in the block, as in loops, where devices cannot wait for each other."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def index() -> tf.Tensor:
    """Returns which part of the batch is here, an int32 scalar from 0."""
    context = tf.distribute.get_replica_context()
    return tf.constant(0) if context is None else tf.cast(context.replica_id_in_sync_group, tf.int32)


def total(values: Any) -> Any:
    """Returns the sum over all devices of each tensor of a nested structure; None stays."""
    if count() == 1:
        return values
    flat = tf.nest.flatten(values)
    there = [value for value in flat if value is not None]
    summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, there))
    return tf.nest.pack_sequence_as(values, [value if value is None else next(summed) for value in flat])


def gather(part: tf.Tensor) -> tf.Tensor:
    """Returns what all devices have, one after the other: (B / R, ...) -> (B, ...)."""
    if count() == 1:
        return part
    # Without `identity`, what is not computed here has no device that the others could send their part to.
    whole = tf.distribute.get_replica_context().all_gather(tf.identity(part), axis=0)
    return tf.ensure_shape(whole, [None if part.shape[0] is None else count() * part.shape[0], *part.shape[1:]])


def slice_of(whole: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """Returns the part of this device: (B, ...) -> (B / R, ...)."""
    rest = whole.shape.rank - 1
    return tf.slice(whole, [index() * size, *[0] * rest], [size, *[-1] * rest])
