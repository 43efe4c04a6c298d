"""Where a run is, what its evaluations found, and how it came there: kept in each checkpoint under `run/`."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.common import json_file
from model.params import Params, part_of_a_run

# Parameters that decide when something is written, and not what is learned.
_WITHOUT_TRACE = {"save_summary_steps", "save_checkpoints_steps", "keep_checkpoint_max"}


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        global_step: Steps made.
        watched_metric: The metric by which evaluations chose, "" before the first.
        best_value: Its highest value.
        best_step: The global step of the last evaluation that is as good as that, but for one standard error; that
            checkpoint is kept.
        evaluations_without_best: Evaluations since that of the highest value.
        train_sha256: `Dataset.train_sha256` of the images that are learned from, "" where it is not known.
        code_version: `versions.code_version` of the last steps.
        timed_steps: Steps whose time was taken: not those in which something is compiled.
        timed_seconds: What they took.
        params_history: JSON text, as `changes` reads it.
        devices: How many of them shared the last steps; 0 where there were none, or nobody knows.
    """

    global_step: int = 0
    watched_metric: str = ""
    best_value: float = -math.inf
    best_step: int = 0
    evaluations_without_best: int = 0
    train_sha256: str = ""
    code_version: str = ""
    timed_steps: int = 0
    timed_seconds: float = 0.0
    params_history: str = "[]"
    devices: int = 0

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "RunState":
        """Returns the state that the tensors of a checkpoint hold; a field that is not among them has its default.

        Raises:
            ValueError: They hold what `to_tensors` never returns.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if f"run/{field.name}" in tensors:
                value = tensors[f"run/{field.name}"].item()
                values[field.name] = value.decode() if isinstance(value, bytes) else value
                if type(values[field.name]) is not type(field.default):
                    raise ValueError(f"'run/{field.name}' is {values[field.name]!r}")
        state = cls(**values)
        counts = (state.global_step, state.best_step, state.evaluations_without_best, state.devices, state.timed_steps)
        if min(counts) < 0 or not 0 <= state.timed_seconds < math.inf:
            raise ValueError("a count below 0, or no time, in 'run/...'")
        if not state.best_value < math.inf:
            raise ValueError(f"'run/best_value' is {state.best_value}")
        _read_history(state.params_history)
        return state

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Returns what `from_tensors` reads."""
        return {f"run/{name}": np.array(value) for name, value in dataclasses.asdict(self).items()}

    @property
    def changes(self) -> tuple[Mapping[str, Any], ...]:
        """Which parameters held from which step on, where a run went on under others.

        Each entry has "from_step" and "params": the first, of step 0, the original values of all keys that changed
        later, each further one the new values from its step on. Empty for a run whose parameters never changed.
        """
        return _read_history(self.params_history)

    @property
    def train_seconds(self) -> float | None:
        """What all training steps took, at the pace of those that were timed; None where none was."""
        return self.timed_seconds / self.timed_steps * self.global_step if self.timed_steps else None

    def after_step(self, global_step: int) -> "RunState":
        """Returns the state after a training step."""
        return dataclasses.replace(self, global_step=global_step)

    def after_time(self, steps: int, seconds: float) -> "RunState":
        """Returns the state after the time of some steps was taken."""
        return dataclasses.replace(
            self, timed_steps=self.timed_steps + steps, timed_seconds=self.timed_seconds + seconds
        )

    def without_best(self) -> "RunState":
        """Returns the state as if there had been no evaluation."""
        return dataclasses.replace(
            self, watched_metric="", best_value=-math.inf, best_step=0, evaluations_without_best=0
        )

    def after_evaluation(self, metric: str, value: float, num_images: int) -> "RunState":
        """Returns the state after an evaluation of the watched metric; higher is better, and NaN never best.

        Of two checkpoints that so many images cannot tell apart, the later one has learned more: it counts as the best
        unless an earlier one was better by more than a standard error. That is at most sqrt(m (1 - m) / N) for the mean
        m of N numbers from 0 to 1, whatever these are.

        Args:
            metric: Its name.
            value: Its value; a mean over images of numbers from 0 to 1, or nothing is left to chance.
            num_images: Over how many images it is the mean.

        References:
            Breiman, Friedman, Olshen, Stone: Classification and Regression Trees, 1984, section 3.4.3, the rule of one
            standard error. Bhatia, Davis: A Better Bound on the Variance, 2000.
        """
        before = self if metric == self.watched_metric else self.without_best()
        best_value, best_step = before.best_value, before.best_step
        without_best = before.evaluations_without_best + 1
        if value > best_value:
            best_value, without_best = value, 0
        if value >= best_value - math.sqrt(max(0.0, best_value * (1 - best_value)) / num_images):
            best_step = self.global_step
        return dataclasses.replace(
            self,
            watched_metric=metric,
            best_value=best_value,
            best_step=best_step,
            evaluations_without_best=without_best,
        )

    def under(self, before: Params, now: Params) -> "RunState":
        """Returns the state of a run that goes on from here under other parameters than before."""
        changed = {key: pair for key, pair in now.changes_from(before).items() if key not in _WITHOUT_TRACE}
        if before.learning_rate_schedule == now.learning_rate_schedule == "constant":
            changed.pop("num_epochs", None)  # a run of 20 epochs that is made longer is a run of 40 epochs
        if not changed:
            return self
        known = {key for entry in self.changes for key in entry["params"]}
        first = {key: old for key, (old, _) in changed.items() if key not in known}
        history = [dict(entry) for entry in self.changes] or [{"from_step": 0, "params": {}}]
        history[0] = {"from_step": 0, "params": {**history[0]["params"], **first}}
        history.append({"from_step": self.global_step, "params": {key: new for key, (_, new) in changed.items()}})
        return dataclasses.replace(self, params_history=json.dumps(history))


def _read_history(text: str) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(part_of_a_run(**entry) for entry in json_file.parse(text))
    except TypeError as error:
        raise ValueError(f"'run/params_history' is {text!r}") from error
