"""What learns and what it remembers, the network, the optimizer and where the run is, as named tensors on disk."""

import collections
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from model.common.errors import UserError
from model.params import Params
from model.training import checkpoints
from model.training.checkpoints import Checkpoint
from model.training.class_vectors import ClassVectors
from model.training.run_state import RunState

_log = logging.getLogger(__name__)

# Parameters that decide which triplets are mined offline: those of a round are no use under others.
_PARAMS_OF_THE_TRIPLETS = {"triplet_strategy", "mining_size", "batch_size", "distance", "seed"}

# In a checkpoint, the labels of the classes whose vectors it holds.
_CLASSES = "class_vectors/labels"


@dataclass(frozen=True)
class MinedRound:
    """The batches of one round of offline mining: their images, (S, 3 * B) int32."""

    number: int
    batches: np.ndarray


@dataclass(frozen=True)
class PastBatches:
    """The memory of past batches: labels (F,) int32 and embeddings (F, D) float32, the oldest first."""

    labels: np.ndarray
    embeddings: np.ndarray


@dataclass
class Learner:
    """A network, the optimizer that changes it (None where nothing is learned), and the state of the run.

    With a loss that compares embeddings with a vector for each class, these vectors are learned, too; where nothing is
    learned, they are not there.
    """

    params: Params
    network: keras.Model
    optimizer: keras.optimizers.Optimizer | None = None
    class_vectors: ClassVectors | None = None
    state: RunState = field(default_factory=RunState)
    mined: MinedRound | None = None
    memory: PastBatches | None = None

    def save(self, model_dir: Path, keep: int) -> Path:
        """Saves a checkpoint of everything and returns its folder.

        Raises:
            UserError: A weight is not finite (nothing is saved then), or the checkpoint cannot be written.
        """
        tensors = self.tensors()
        for name in self._variables():
            if not np.isfinite(tensors[name]).all():
                raise UserError(
                    f"{model_dir}: '{name}' holds NaN or infinity at step {self.state.global_step}, which is not "
                    "saved; go on from the last checkpoint with a lower learning_rate in params.json"
                )
        return checkpoints.save(model_dir, self.state.global_step, tensors, keep, self.state.best_step)

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns everything, as a checkpoint holds it."""
        weights = {name: variable.numpy() for name, variable in self._variables().items()}
        tensors = self.state.to_tensors() | weights
        tensors["run/params"] = np.array(self.params.to_json())
        if None not in self.network.input_shape[1:]:
            tensors["run/image_shape"] = np.array(self.network.input_shape[1:], np.int64)
        if self.class_vectors is not None:
            tensors[_CLASSES] = self.class_vectors.labels
        if self.mined is not None:
            tensors["mined/number"], tensors["mined/batches"] = np.array(self.mined.number), self.mined.batches
        if self.memory is not None:
            tensors["memory/labels"], tensors["memory/embeddings"] = self.memory.labels, self.memory.embeddings
        return tensors

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over the state of a checkpoint, all of it or nothing.

        Raises:
            UserError: It is not a checkpoint of this network under these parameters.
        """
        path, tensors = checkpoint.path, checkpoint.tensors
        checkpoint.check_network(self.params)
        changed = self.params.changes_from(checkpoint.params)
        self._check_image_shape(checkpoint)
        if self.class_vectors is not None:
            self._check_classes(checkpoint, self.class_vectors)
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
        self.state = checkpoint.state.under(checkpoint.params, self.params)
        for name, (before, now) in changed.items() if self.optimizer is not None else ():
            _log.info(
                "'%s' is %s in params.json and was %s until step %d.",
                name, json.dumps(now), json.dumps(before), checkpoint.step,
            )  # fmt: skip
        if "mined/number" in tensors and not changed.keys() & _PARAMS_OF_THE_TRIPLETS:
            self.mined = MinedRound(tensors["mined/number"].item(), tensors["mined/batches"])
        if "memory/labels" in tensors:
            self.memory = PastBatches(tensors["memory/labels"], tensors["memory/embeddings"])

    def _check_classes(self, checkpoint: Checkpoint, vectors: ClassVectors) -> None:
        """Finds that the vectors of a checkpoint are not those of the classes that are learned from."""
        labels = checkpoint.tensors.get(_CLASSES)
        if labels is None:
            raise UserError(
                f'{checkpoint.path}: holds no class vectors, as triplet_strategy was "'
                f'{checkpoint.params.triplet_strategy}", and "{self.params.triplet_strategy}" learns them; use a new '
                "folder"
            )
        if not np.array_equal(labels, vectors.labels):
            raise UserError(
                f"{checkpoint.path}: holds vectors of other classes than those of the training images; use a new folder"
            )

    @property
    def vectors(self) -> list[keras.Variable]:
        """The vectors of the classes, one variable or none."""
        return [] if self.class_vectors is None else [self.class_vectors.variable]

    def _check_image_shape(self, checkpoint: Checkpoint) -> None:
        """Finds images of another size than that of training, which weights behind an average would take."""
        trained_on, shape = checkpoint.tensors.get("run/image_shape"), self.network.input_shape[1:]
        if trained_on is not None and None not in shape and not np.array_equal(trained_on, shape):
            before, now = ("x".join(map(str, np.ravel(sides))) for sides in (trained_on, np.array(shape)))
            raise UserError(
                f"{checkpoint.path}: trained on images of {before}, and these are of {now}; set image_size back, or "
                "use a new folder"
            )

    def _variables(self) -> dict[str, tf.Variable]:
        """Returns everything that a step may change, by name: random-generator states of the layers, too."""
        variables = [*self.network.variables, *self.vectors]
        if self.optimizer is not None:
            # The learning rate is a variable only if it is constant; then params.json decides it.
            variables += [v for v in self.optimizer.variables if v is not self.optimizer.learning_rate]
        named = dict(zip(_stable_names(variables), (variable.value for variable in variables), strict=True))
        if len(named) != len(variables):
            raise ValueError(f"Expected layers with different names. Received: {[v.path for v in variables]}")
        return named


def _stable_names(variables: Sequence[keras.Variable]) -> Iterator[str]:
    """Yields the path of each variable, in which Keras counts some things in the process, and not in the network.

    Those are random generators, and weights of a layer that have no name.
    """
    counts = collections.Counter[str]()
    for variable in variables:
        path = ""
        for part in variable.path.split("/"):
            if match := re.fullmatch(r"(seed_generator|variable)(_\d+)?", part):
                kind = f"{path}{match[1]}"
                part = f"{match[1]}_{counts[kind]}" if counts[kind] else match[1]
                counts[kind] += 1
            path += f"{part}/"
        yield path.removesuffix("/")
