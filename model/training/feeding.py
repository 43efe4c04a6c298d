"""What goes to the devices, and when: all images once, and the indices of many batches at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# Batches that go to the device at once.
_STEPS_PER_UPLOAD = 64


def replicate(strategy: tf.distribute.Strategy, array: np.ndarray) -> Any:
    """Returns the array on every device of the strategy."""
    return strategy.experimental_distribute_values_from_function(lambda _: tf.constant(array))


def upload(
    strategy: tf.distribute.Strategy,
    batch_of: Callable[[int], np.ndarray],
    to_come: range,
    steps_per_mining: int | None,
) -> Iterator[tuple[int, Any, Any]]:
    """Yields each step, with the batches of some steps on the devices and the global step before the first of them."""
    # Between two steps even the smallest transfer takes 0.2 ms, so many batches are sent at once. A batch of the next
    # round of offline mining is not asked for yet: it needs the weights that the last step of this round leaves.
    first = to_come.start
    while first < to_come.stop:
        end = min(first + _STEPS_PER_UPLOAD, to_come.stop)
        if steps_per_mining is not None:
            end = min(end, first + steps_per_mining - (first - 1) % steps_per_mining)
        batches = np.stack([batch_of(step - 1) for step in range(first, end)])  # (S, B)
        missing = _STEPS_PER_UPLOAD - len(batches)
        batches = np.pad(batches, [(0, missing), (0, 0)])  # always of one shape, so that the step is compiled once
        parts = np.split(batches, strategy.num_replicas_in_sync, axis=1)
        on_devices = strategy.experimental_distribute_values_from_function(
            lambda context, parts=parts: tf.constant(parts[context.replica_id_in_sync_group])
        )
        done = tf.constant(first - 1, tf.int64)
        for step in range(first, end):
            yield step, on_devices, done
        first = end
