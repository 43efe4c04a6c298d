"""How a checkpoint is written, found again, and recognised as broken. `Learner.save` decides what is in one.

A checkpoint is a folder `model_dir/checkpoints/step-00001000` with named tensors in TensorFlow's own format, which
carries a checksum for each of them (`tf.train.list_variables` shows them), and beside them the SHA-256 of every byte
(`sha256sum --check tensors.sha256` in the folder checks it). It is written beside, flushed to the disk and renamed, so
a folder of that name is a whole checkpoint, whatever moment the process was killed at. The newest is the one with the
highest step; there is no state file that could be wrong.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from pydantic import ValidationError

from model.common.commands import command
from model.common.errors import MAKE_ROOM, UserError, one_line, says_full
from model.common.files import delete, flush
from model.params import Params
from model.training.run_state import RunState

_log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")
_PREFIX = "tensors"
_FILES = (f"{_PREFIX}.data-00000-of-00001", f"{_PREFIX}.index")
_DIGESTS = f"{_PREFIX}.sha256"

# Parameters that decide which weights there are, what they mean and what they see: a run cannot go on with others.
_PARAMS_OF_THE_WEIGHTS = (
    "dataset", "image_size", "image_fit", "image_bits", "rotated_classes",
    "network", "weights", "weights_sha256", "num_channels", "num_blocks", "convolutions_per_block", "use_batch_norm",
    "pooling", "frozen_batch_norm",
    "embedding_size", "normalize_embeddings", "test_time_augmentation",
    "validation_size", "validation_classes", "holdout_classes", "split_seed",
)  # fmt: skip

# What tells when and how fast a run was made, and not what it came to.
_CIRCUMSTANCES = {"run/code_version", "run/devices", "run/timed_steps", "run/timed_seconds"}


class Damaged(UserError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, read once: state, parameters and digest come from here.

    Attributes:
        path: Its folder.
        tensors: Every tensor by name, text as bytes.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]

    @property
    def step(self) -> int:
        """The global step."""
        return step_of(self.path)

    @functools.cached_property
    def state(self) -> RunState:
        """Where the run was.

        Raises:
            UserError: It is no checkpoint of a run.
        """
        if "run/params" not in self.tensors:
            raise UserError(f"{self.path}: not a checkpoint of this program; use a new folder")
        return RunState.from_tensors(self.tensors)

    @functools.cached_property
    def params(self) -> Params:
        """The parameters that the last steps were made under; one that was not there yet had its default.

        Raises:
            UserError: It is no checkpoint of a run, or one of a version that had other parameters.
        """
        state = self.state
        try:
            return Params.model_validate_json(self.tensors["run/params"].item())
        except ValidationError as error:
            names = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
            raise UserError(
                f"{self.path}: this version does not understand the parameters of step {state.global_step} ({names}); "
                "use the version that trained it"
            ) from None

    def check_network(self, params: Params) -> None:
        """Makes sure that parameters describe the network that this is of, and what it has seen.

        Raises:
            UserError: They do not.
        """
        for name, (before, now) in params.changes_from(self.params).items():
            # null is a size of the data, which can be the other one; images of other shapes are found by their weights
            is_same = name == "image_size" and None in (before, now)
            # a file that has been moved, with the same digest
            is_same |= name == "weights" and params.weights_sha256 == self.params.weights_sha256 is not None
            if name in _PARAMS_OF_THE_WEIGHTS and not is_same:
                raise UserError(
                    f"{self.path}: '{name}' is {json.dumps(now)} in params.json and was {json.dumps(before)} when this "
                    "was saved; set it back, or use a new folder"
                )

    def check_data(self, train_sha256: str) -> None:
        """Makes sure that training images are those that this was trained on, as far as both are known.

        Args:
            train_sha256: `Dataset.train_sha256` of the images, or "".

        Raises:
            UserError: They are others.
        """
        if self.state.train_sha256 and train_sha256 and self.state.train_sha256 != train_sha256:
            raise UserError(
                f"{self.path}: the training images are not those that this was trained on; put the old ones back, or "
                "use a new folder"
            )

    @functools.cached_property
    def digest(self) -> str:
        """A fingerprint: the SHA-256 of names, types, shapes and values of all but the circumstances of the run."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            if name not in _CIRCUMSTANCES:
                found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
                found.update(tensor.tobytes())
        return found.hexdigest()


def folder(model_dir: str | os.PathLike[str]) -> Path:
    """Returns the folder of the checkpoints of an experiment."""
    return Path(model_dir) / "checkpoints"


def list_checkpoints(model_dir: str | os.PathLike[str]) -> list[Path]:
    """Returns the checkpoints of an experiment, the oldest first; what has the name of one must be a folder.

    Raises:
        UserError: Where the folder of the checkpoints should be is something else: a run would begin at step 0.
    """
    parent = folder(model_dir)
    if not parent.is_dir():
        if os.path.lexists(parent):
            raise UserError(
                f"{parent}: no folder, or a link to one that is not there; bring back the checkpoints, or delete it to "
                "start from scratch"
            )
        return []
    paths = parent.iterdir()
    return sorted((path for path in paths if _NAME.fullmatch(path.name) and path.is_dir()), key=step_of)


def name_of(step: int) -> str:
    """Returns the name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Returns the global step of a checkpoint, which its name tells."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path}: expected the folder of a checkpoint, such as checkpoints/step-00001000")
    return int(match[1])


def save(
    model_dir: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, tf.Tensor | np.ndarray],
    keep: int,
    best_step: int | None = None,
) -> Path:
    """Saves a checkpoint and deletes the oldest ones.

    Args:
        model_dir: Folder of the experiment.
        step: The global step.
        tensors: What to save, by name.
        keep: How many of the newest checkpoints to keep, this one among them.
        best_step: The step of one that is kept beside these, whatever its age.

    Returns:
        The folder of the checkpoint.

    Raises:
        UserError: It could not be written, because the disk is full, for example. Older ones are untouched.
    """
    parent = folder(model_dir)
    path = parent / name_of(step)
    beside = (
        parent / f"tmp-{path.name}"
    )  # a name for all, as the lock of the experiment lets one process save at a time
    try:
        parent.mkdir(exist_ok=True)  # in the folder of the experiment, which is there or was taken away
        _delete_unfinished(parent)
        beside.mkdir()
        names = sorted(tensors)
        tf.raw_ops.SaveV2(
            prefix=str(beside / _PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
        )
        (beside / _DIGESTS).write_text(_digests_of(beside))
        for written in beside.iterdir():
            flush(written)
        flush(beside)
        if path.exists() or path.is_symlink():  # a damaged one, or the same state saved again
            path.rename(parent / f"tmp-old-{path.name}")
        beside.rename(path)
        flush(parent)
        older = [
            other for other in list_checkpoints(model_dir) if step_of(other) < step and step_of(other) != best_step
        ]
        newer = [other for other in list_checkpoints(model_dir) if step_of(other) > step]  # damaged, passed over
        for old in newer + older[: max(0, len(older) - keep + 1)]:
            old.rename(parent / f"tmp-old-{old.name}")
        _delete_unfinished(parent)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        more = f"; {MAKE_ROOM}" if says_full(str(error)) else ""
        raise UserError(
            f"{path}: cannot write the checkpoint: {one_line(error)}; older ones are untouched{more}"
        ) from None
    return path


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint: every tensor, and with it every checksum; one of an older version has no SHA-256.

    Args:
        path: Its folder.

    Raises:
        Damaged: It is damaged.
        UserError: There is no such checkpoint, or it may not be read.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    step = step_of(path)
    try:
        if (path / _DIGESTS).exists() and (path / _DIGESTS).read_text() != _digests_of(path):
            raise ValueError(f"its bytes are not those that {_DIGESTS} tells of")
        with _without_wildcards(path) as plain:
            reader = tf.train.load_checkpoint(str(plain / _PREFIX))
            tensors = {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    except (PermissionError, MemoryError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError) as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {one_line(error)}") from None
    except (tf.errors.OpError, OSError, IndexError, ValueError, RuntimeError, SystemError) as error:
        raise Damaged(
            f"{path}: the checkpoint is damaged ({one_line(error)}); delete this folder to go on without it"
        ) from None
    try:
        if "run/global_step" in tensors and (holds := RunState.from_tensors(tensors).global_step) != step:
            raise ValueError(f"it holds step {holds}")
    except ValueError as error:
        raise Damaged(
            f"{path}: the checkpoint is damaged: {one_line(error)}; delete this folder to go on without it"
        ) from None
    return Checkpoint(path, tensors)


def _digests_of(path: Path) -> str:
    """Returns a line for each file of tensors in a folder, as `sha256sum` prints it."""
    lines = []
    for name in _FILES:
        with (path / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def load_unless_deleted(path: Path) -> Checkpoint | None:
    """Reads a checkpoint that was there a moment ago: None if a training that goes on has deleted it since.

    Args:
        path: Its folder.

    Raises:
        UserError: As `load`.
    """
    try:
        return load(path)
    except UserError:
        if path.is_dir():
            raise
        return None


@contextlib.contextmanager
def _without_wildcards(path: Path) -> Iterator[Path]:
    """Gives a folder another name while the block runs, if TensorFlow would take its own for a pattern."""
    if not set("*?[\\") & set(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as beside:
        link = Path(beside, "checkpoint")
        link.symlink_to(path.resolve(), target_is_directory=True)
        yield link


def load_newest(model_dir: str | os.PathLike[str]) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole; says which ones it had to pass over.

    Args:
        model_dir: Folder of the experiment.

    Returns:
        The checkpoint, or None where the experiment has none at all.

    Raises:
        UserError: There are checkpoints and all of them are damaged. Training never starts from scratch then.
    """
    paths = list_checkpoints(model_dir)
    for path in reversed(paths):
        try:
            found = load_unless_deleted(path)
        except Damaged as error:
            _log.warning("%s", error)
            continue
        return found or load_newest(model_dir)  # a training that deletes one has saved a newer one
    if paths:
        raise UserError(
            f"{folder(model_dir)}: none of its {len(paths)} checkpoints can be read; restore one from a backup, or "
            "delete the folder to start from scratch"
        )
    return None


def stamps(model_dir: str | os.PathLike[str]) -> list[tuple[Path, int]]:
    """Returns the checkpoints of an experiment with the time of each, which are others once anything has changed."""
    found = []
    for path in list_checkpoints(model_dir):
        with contextlib.suppress(FileNotFoundError):  # deleted in this moment, by a training that goes on
            found.append((path, path.stat().st_mtime_ns))
    return found


def choose(
    model_dir: Path,
    choice: str | None = None,
    read_newest: Callable[[], Checkpoint | None] | None = None,
    data_dir: Path | None = None,
) -> Checkpoint:
    """Reads the checkpoint that a person or a command asks for.

    Args:
        model_dir: Folder of the experiment.
        choice: "newest", "best" (the one that the validation images chose) or the folder of one; None takes the best
            where images chose one, else the newest.
        read_newest: Returns the newest, for somebody who has read it; `load_newest` otherwise.
        data_dir: As for `command`.

    Raises:
        UserError: It is not there, or cannot be read.
    """
    if choice not in (None, "newest", "best"):
        return load(Path(choice))
    newest = read_newest() if read_newest else load_newest(model_dir)
    if newest is None:
        train = command("train.py", model_dir, data_dir=data_dir)
        raise UserError(f"{folder(model_dir)}: no checkpoint; train first: {train}")
    if choice == "newest":
        return newest
    best_step = newest.state.best_step
    best = folder(model_dir) / name_of(best_step)
    if best_step and best.is_dir():
        found = newest if best == newest.path else load_unless_deleted(best)
        return found or choose(model_dir, choice, read_newest, data_dir)  # meanwhile there is another best one
    if choice == "best":
        raise UserError(
            f"{model_dir}: no best checkpoint, which training keeps once it has evaluated the images of "
            "'validation_size' or 'validation_classes' in params.json; choose --checkpoint newest"
        )
    if best_step:
        _log.warning("The best checkpoint, of step %d, is not there any more; taking the newest.", best_step)
    return newest


def _delete_unfinished(parent: Path) -> None:
    for path in parent.glob("tmp-*"):
        delete(path)
