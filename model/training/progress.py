"""What a person sees of a training run: a bar in a terminal, lines in the log, curves in TensorBoard."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tensorflow as tf
import tqdm

from model.training import event_files
from model.training.doctor import Batch, Finding

_log = logging.getLogger(__name__)

# A line goes to the log this often; it is shown only where there is no terminal that shows the bar.
_SECONDS_BETWEEN_LINES = 10.0

# Images of a batch whose distances are shown: there are as many as pairs.
_MAX_PAIRED = 256


class TrainingProgress:
    """Reports epoch, step, loss, images/s and the time left.

    Args:
        model_dir: Folder of the event files.
        steps_per_epoch: Not a whole number in general.
        images_per_step: What the network sees.
        steps: The global steps that are going to be made, the last of them the end of the training.
    """

    def __init__(self, model_dir: Path, steps_per_epoch: float, images_per_step: int, steps: range) -> None:
        self._steps_per_epoch, self._images_per_step = steps_per_epoch, images_per_step
        self._max_steps = steps.stop - 1
        self._num_epochs = max(1, round(self._max_steps / steps_per_epoch))
        self._writer = event_files.open_writer(model_dir, steps)
        self._bar = tqdm.tqdm(
            initial=steps.start - 1,
            total=self._max_steps,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}",
        )
        self._trained_steps = self._reported_steps = 0
        self._trained_seconds = self._reported_seconds = 0.0
        self._last_line = time.perf_counter()
        self.restart_clock(steps.start - 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        self._writer.close()

    def restart_clock(self, step: int) -> None:
        """Leaves the time since the last lap out: it went into compiling, evaluating or saving."""
        self._clock_step, self._clock_time = step, time.perf_counter()

    def lap(self, step: int) -> tuple[int, float]:
        """Returns how many steps were made since the clock was started or read last, and the seconds that they took."""
        steps, seconds = step - self._clock_step, time.perf_counter() - self._clock_time
        self._trained_steps += steps
        self._trained_seconds += seconds
        self.restart_clock(step)
        return steps, seconds

    def report(self, batch: Batch, images: Mapping[str, tf.Tensor]) -> None:
        """Shows and writes where the run is.

        Args:
            batch: What is known of the last one.
            images: By name, images of shape (n, H, W, C) in [0, 1].
        """
        step, scalars = batch.step, dict(batch.scalars)
        steps, seconds = self._trained_steps - self._reported_steps, self._trained_seconds - self._reported_seconds
        self._reported_steps, self._reported_seconds = self._trained_steps, self._trained_seconds
        if steps:
            scalars["steps_per_second"] = steps / seconds
            scalars["images_per_second"] = steps * self._images_per_step / seconds
            self._show(step, scalars["loss"], scalars["images_per_second"])
        with self._writer.as_default(step=step):
            event_files.write_scalars(scalars)
            event_files.write_images(images)
            for tag, values in _distributions(batch).items():
                tf.summary.histogram(tag, values)

    def warn(self, step: int, finding: Finding) -> None:
        """Shows and writes what the doctor found."""
        _log.warning("Step %d: %s.", step, finding.message)
        self.write(step, finding)

    def write(self, step: int, finding: Finding) -> None:
        """Writes what the doctor found, for TensorBoard."""
        with self._writer.as_default(step=step):
            tf.summary.text(f"doctor/{finding.name}", finding.message)

    def flush(self) -> None:
        """Waits until everything reported is in the event file."""
        self._writer.flush()

    def _show(self, step: int, loss: float, images_per_second: float) -> None:
        epoch = min(self._num_epochs, int((step - 1) / self._steps_per_epoch) + 1)
        left = tqdm.tqdm.format_interval((self._max_steps - step) * self._trained_seconds / self._trained_steps)
        state = f"loss {loss:.4f}, {images_per_second:,.0f} images/s, {left} left"
        self._bar.set_description_str(f"epoch {epoch}/{self._num_epochs}", refresh=False)
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(step - self._bar.n)
        if step == self._max_steps or time.perf_counter() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.perf_counter()
            line = f"epoch {epoch}/{self._num_epochs}, step {step}/{self._max_steps}, {state}"
            _log.info(line, extra={"on_bar": not self._bar.disable})


def _distributions(batch: Batch) -> dict[str, np.ndarray]:
    """Returns, by tag, norms of a batch's embeddings, and distances of its pairs: of one class, and of two."""
    embeddings, labels = batch.embeddings[:_MAX_PAIRED], batch.labels[:_MAX_PAIRED]
    first, second = np.triu_indices(len(labels), 1)
    distances = np.linalg.norm(embeddings[first] - embeddings[second], axis=1)
    same = labels[first] == labels[second]
    return {
        "distances/embedding_norm": np.linalg.norm(batch.embeddings, axis=1),
        "distances/same_class": distances[same],
        "distances/different_classes": distances[~same],
    }
