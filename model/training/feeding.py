"""What goes to the devices, and when: all images once, and the indices of many batches at a time; and back again."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from model.params import Params
from model.training.batch_loss import Memory
from model.training.learner import PastBatches

# Batches that go to the device at once.
_STEPS_PER_UPLOAD = 64


def replicate(strategy: tf.distribute.Strategy, array: np.ndarray) -> Any:
    """Returns the array on every device of the strategy."""
    return strategy.experimental_distribute_values_from_function(lambda _: tf.constant(array))


def send_memory(strategy: tf.distribute.Strategy, past: PastBatches | None, params: Params) -> Memory | None:
    """Returns the memory of past batches on every device, None if there is to be none.

    Args:
        strategy: Of the devices.
        past: What is in it; None or fewer than `memory_size` leave room.
        params: The experiment.
    """
    if params.memory_size is None:
        return None
    labels = np.zeros(params.memory_size, np.int32)
    embeddings = np.zeros((params.memory_size, params.embedding_size), np.float32)
    filled = 0 if past is None else min(len(past.labels), params.memory_size)
    if past is not None and filled:
        labels[-filled:], embeddings[-filled:] = past.labels[-filled:], past.embeddings[-filled:]
    return Memory(*(replicate(strategy, array) for array in (labels, embeddings, np.array(filled, np.int32))))


def fetch_memory(strategy: tf.distribute.Strategy, memory: Memory | None) -> PastBatches | None:
    """Returns what is in the memory, the same on all devices."""
    if memory is None:
        return None
    labels, embeddings, filled = (strategy.experimental_local_results(part)[0].numpy() for part in memory)
    return PastBatches(labels[len(labels) - filled :], embeddings[len(labels) - filled :])


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
