"""What learns and what it remembers, the network, the optimizer and where the run is, as named tensors on disk."""

import dataclasses
import itertools
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.common.errors import UserError
from model.params import Params
from model.training import checkpoints

_log = logging.getLogger(__name__)

# Parameters that decide which weights there are, what they mean and what they see: a run cannot go on with others.
_PARAMS_OF_THE_WEIGHTS = (
    "dataset", "image_size", "num_channels", "num_blocks", "convolutions_per_block", "use_batch_norm",
    "embedding_size", "normalize_embeddings", "test_time_augmentation",
    "validation_size", "validation_classes", "holdout_classes", "split_seed",
)  # fmt: skip


# Parameters that decide which triplets are mined offline: those of a round are no use under others.
_PARAMS_OF_THE_TRIPLETS = ("triplet_strategy", "mining_size", "batch_size", "distance", "seed")


@dataclass(frozen=True)
class RunState:
    """Where a run is."""

    global_step: int = 0
    watched_metric: str = ""
    best_value: float = -math.inf
    best_step: int = 0
    evaluations_without_best: int = 0
    data_digest: str = ""
    code_version: str = ""

    @classmethod
    def from_checkpoint(cls, path: Path, tensors: Mapping[str, np.ndarray]) -> "RunState":
        """Returns the state that a checkpoint holds.

        Args:
            path: Where it comes from, for the message.
            tensors: What `checkpoints.load` read there.

        Raises:
            UserError: It is no checkpoint of a run.
        """
        if "run/params" not in tensors:
            raise UserError(f"{path}: not a checkpoint of this program; use a new folder")
        state: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if f"run/{field.name}" not in tensors:  # saved before there was such a field
                continue
            value = tensors[f"run/{field.name}"].item()
            state[field.name] = value.decode() if isinstance(value, bytes) else value
        return cls(**state)

    def after_step(self, global_step: int) -> "RunState":
        """Returns the state after a training step."""
        return dataclasses.replace(self, global_step=global_step)

    def without_best(self) -> "RunState":
        """Returns the state as if there had been no evaluation."""
        return RunState(self.global_step, data_digest=self.data_digest, code_version=self.code_version)

    def after_evaluation(self, metric: str, value: float) -> "RunState":
        """Returns the state after an evaluation of the watched metric; higher is better, and NaN never best."""
        before = self if metric == self.watched_metric else RunState()
        if value > before.best_value:
            best_value, best_step, without_best = value, self.global_step, 0
        else:
            best_value, best_step = before.best_value, before.best_step
            without_best = before.evaluations_without_best + 1
        return dataclasses.replace(
            self,
            watched_metric=metric,
            best_value=best_value,
            best_step=best_step,
            evaluations_without_best=without_best,
        )


@dataclass(frozen=True)
class MinedRound:
    """The batches of one round of offline mining: their images, (S, 3 * B) int32."""

    number: int
    batches: np.ndarray


@dataclass
class Learner:
    """A network, the optimizer that changes it (None where nothing is learned), and the state of the run."""

    params: Params
    network: keras.Model
    optimizer: keras.optimizers.Optimizer | None = None
    state: RunState = RunState()
    mined: MinedRound | None = None

    def save(self, model_dir: Path, keep: int) -> Path:
        """Saves a checkpoint of everything and returns its folder.

        Raises:
            UserError: A weight is not finite (nothing is saved then), or the checkpoint cannot be written.
        """
        tensors: dict[str, Any] = {f"run/{name}": np.array(v) for name, v in dataclasses.asdict(self.state).items()}
        tensors["run/params"] = np.array(self.params.to_json())
        if self.mined is not None:
            tensors["mined/number"], tensors["mined/batches"] = np.array(self.mined.number), self.mined.batches
        for name, variable in self._variables().items():
            value = variable.numpy()
            if not np.isfinite(value).all():
                raise UserError(
                    f"{model_dir}: '{name}' holds NaN or infinity at step {self.state.global_step}, which is not "
                    "saved; go on from the last checkpoint with a lower learning_rate in params.json"
                )
            tensors[name] = value
        return checkpoints.save(model_dir, self.state.global_step, tensors, keep, self.state.best_step)

    def restore(self, path: Path, tensors: dict[str, np.ndarray]) -> None:
        """Takes over the state of a checkpoint, all of it or nothing.

        Args:
            path: Where it comes from, for messages.
            tensors: What `checkpoints.load` read there.

        Raises:
            UserError: It is not a checkpoint of this network under these parameters.
        """
        state = RunState.from_checkpoint(path, tensors)
        changed = self._compare_params(path, tensors)
        variables = self._variables()
        for name, variable in variables.items():
            if name not in tensors:
                raise UserError(f"{path}: holds no '{name}': it was saved by another network; use a new folder")
            if tensors[name].shape != tuple(variable.shape):
                raise UserError(
                    f"{path}: '{name}' has shape {tensors[name].shape}, the network of params.json needs "
                    f"{tuple(variable.shape)}; use a new folder"
                )
        for name, variable in variables.items():
            variable.assign(tensors[name])
        self.state = state
        if "mined/number" in tensors and not changed.intersection(_PARAMS_OF_THE_TRIPLETS):
            self.mined = MinedRound(tensors["mined/number"].item(), tensors["mined/batches"])

    def _compare_params(self, path: Path, tensors: dict[str, np.ndarray]) -> set[str]:
        """Returns the names of the parameters that are not those of the checkpoint, if it can be used under these."""
        # A parameter that was not there yet had its default.
        saved = json.loads(Params().to_json()) | json.loads(tensors["run/params"].item())
        now = json.loads(self.params.to_json())
        changed = [name for name in now if saved[name] != now[name]]
        for name in changed:
            change = f"'{name}' is {json.dumps(now[name])} in params.json and was {json.dumps(saved[name])}"
            if name in _PARAMS_OF_THE_WEIGHTS:
                raise UserError(f"{path}: {change} when this was saved; set it back, or use a new folder")
            if self.optimizer is not None:
                _log.info("%s until step %d.", change, tensors["run/global_step"])
        return set(changed)

    def _variables(self) -> dict[str, tf.Variable]:
        """Returns everything that a step may change, by name: random-generator states of the layers, too."""
        variables = list(self.network.variables)
        if self.optimizer is not None:
            # The learning rate is a variable only if it is constant; then params.json decides it.
            variables += [v for v in self.optimizer.variables if v is not self.optimizer.learning_rate]
        named = dict(zip(_stable_names(variables), (variable.value for variable in variables), strict=True))
        if len(named) != len(variables):
            raise ValueError(f"Expected layers with different names. Received: {[v.path for v in variables]}")
        return named


def _stable_names(variables: Sequence[keras.Variable]) -> Iterator[str]:
    """Yields the path of each variable, in which Keras counts the random generators of the process, not the network."""
    count = itertools.count()
    for variable in variables:
        layer, _, rest = variable.path.partition("/")
        if re.fullmatch(r"seed_generator(_\d+)?", layer):
            number = next(count)
            layer = f"seed_generator_{number}" if number else "seed_generator"
        yield f"{layer}/{rest}" if rest else layer
