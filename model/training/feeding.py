"""What goes to the devices, and when: images, the indices of many batches at a time, the memory; and back again."""

import collections
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model.common import devices
from model.common.images import Images
from model.params import Params
from model.training.batch_loss import Memory
from model.training.learner import PastBatches

# Batches whose indices go to the device at once, and those whose images are read before their step comes.
_STEPS_PER_UPLOAD, _STEPS_AHEAD = 64, 4
# Of images that are resident.
_MOST_BYTES_ON_A_GPU, _SHARE_OF_MEMORY = 2 * 10**9, 0.25


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


class Window(NamedTuple):
    """The batches of some steps, which go to the devices together.

    Attributes:
        steps: The global steps, one after the other.
        indices: (S, B) int32, which images these are, step by step.
        on_devices: The same on each device, its part of each batch, with rows of zeros behind them.
        done: Scalar int64, the global step before the first of them.
    """

    steps: range
    indices: np.ndarray
    on_devices: Any
    done: tf.Tensor


class Feed:
    """Brings the images of a training to its devices.

    Images are resident, all of them on each device, where they are in memory and there is room for them once more: on
    GPUs if they take at most 2 GB, else if they take, for each device of this process, at most a quarter of the memory
    that is free. Otherwise they are streamed: each step gets its own, which a thread takes four batches ahead. Both
    ways the steps see the same images in the same order.

    Args:
        strategy: Of the devices.
        images: (N, H, W, C) uint8.
    """

    def __init__(self, strategy: tf.distribute.Strategy, images: Images) -> None:
        self._strategy, self._images = strategy, images
        self.streams = not _are_resident(images, strategy)

    def steps(
        self, batch_of: Callable[[int], np.ndarray], to_come: range, steps_per_mining: int | None
    ) -> Generator[tuple[range, Any, Any, Any], None, None]:
        """Yields what `compile_train_step` says that steps take.

        Args:
            batch_of: From the number of steps made before to indices, (B,) int32.
            to_come: The global steps.
            steps_per_mining: After so many steps the indices depend on what was learned in them; None: they never do.

        Yields:
            Some of the steps, one where images are streamed, the images, the batches of these steps and maybe more, and
            the global step before the first of these batches.
        """
        of_steps = windows(self._strategy, batch_of, to_come, steps_per_mining)
        if self.streams:
            yield from self._stream(of_steps, steps_per_mining)
            return
        images = replicate(self._strategy, self._images[:])
        for window in of_steps:
            yield window.steps, images, window.on_devices, window.done

    def _stream(
        self, of_steps: Iterator[Window], steps_per_mining: int | None
    ) -> Iterator[tuple[range, Any, Any, Any]]:
        waiting = ((window, i) for window in of_steps for i in range(len(window.steps)))
        ahead: collections.deque[tuple[Window, int, Future[Any]]] = collections.deque()
        pool = ThreadPoolExecutor(1)
        try:
            is_last = False
            while True:
                while len(ahead) <= _STEPS_AHEAD and not (ahead and is_last):
                    try:
                        window, i = next(waiting)
                    except StopIteration:
                        break
                    ahead.append((window, i, pool.submit(self._take, window.indices[i])))
                    is_last = steps_per_mining is not None and window.steps[i] % steps_per_mining == 0
                if not ahead:
                    return
                window, i, images = ahead.popleft()
                yield window.steps[i : i + 1], images.result(), window.on_devices, window.done
        finally:
            pool.shutdown(cancel_futures=True)

    def _take(self, batch: np.ndarray) -> Any:
        """Reads the images of a batch, and brings to each device its part."""
        parts = np.split(batch, self._strategy.num_replicas_in_sync)
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(self._images[parts[context.replica_id_in_sync_group]])
        )


def _are_resident(images: Images, strategy: tf.distribute.Strategy) -> bool:
    if not isinstance(images, np.ndarray):
        return False
    if tf.config.list_physical_devices("GPU"):
        return images.nbytes <= _MOST_BYTES_ON_A_GPU
    free = devices.memory_of_machine()
    copies = len(strategy.experimental_local_results(replicate(strategy, np.zeros(0))))
    return free is None or copies * images.nbytes <= _SHARE_OF_MEMORY * free


def windows(
    strategy: tf.distribute.Strategy,
    batch_of: Callable[[int], np.ndarray],
    to_come: range,
    steps_per_mining: int | None,
) -> Iterator[Window]:
    """Yields the batches of all steps to come, many at a time; `Feed.steps` says of what."""
    # Between two steps even the smallest transfer takes 0.2 ms, so many batches are sent at once. A batch of the next
    # round of offline mining is not asked for yet: it needs the weights that the last step of this round leaves.
    first = to_come.start
    while first < to_come.stop:
        end = min(first + _STEPS_PER_UPLOAD, to_come.stop)
        if steps_per_mining is not None:
            end = min(end, first + steps_per_mining - (first - 1) % steps_per_mining)
        indices = np.stack([batch_of(step - 1) for step in range(first, end)])  # (S, B)
        missing = _STEPS_PER_UPLOAD - len(indices)
        padded = np.pad(indices, [(0, missing), (0, 0)])  # always of one shape, so that the step is compiled once
        parts = np.split(padded, strategy.num_replicas_in_sync, axis=1)
        on_devices = strategy.experimental_distribute_values_from_function(
            lambda context, parts=parts: tf.constant(parts[context.replica_id_in_sync_group])
        )
        yield Window(range(first, end), indices, on_devices, tf.constant(first - 1, tf.int64))
        first = end
