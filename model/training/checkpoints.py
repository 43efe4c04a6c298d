"""What is saved, how it is found again, and what happens when it is broken.

A checkpoint is a folder `model_dir/checkpoints/step-00001000` with named tensors in TensorFlow's own format, which
carries a checksum for each of them (`tf.train.list_variables` shows them). It is written beside, flushed to the disk
and renamed, so a folder of that name is a whole checkpoint, whatever moment the process was killed at. The newest
is the one with the highest step; there is no state file that could be wrong.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.common.errors import UserError, one_line
from model.common.files import flush

_log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")
_PREFIX = "tensors"


class Damaged(UserError):
    """A checkpoint is not what was written."""


def folder(model_dir: str | os.PathLike[str]) -> Path:
    """Returns the folder of the checkpoints of an experiment."""
    return Path(model_dir) / "checkpoints"


def list_checkpoints(model_dir: str | os.PathLike[str]) -> list[Path]:
    """Returns the checkpoints of an experiment, the oldest first."""
    if not folder(model_dir).is_dir():
        return []
    return sorted((path for path in folder(model_dir).iterdir() if _NAME.fullmatch(path.name)), key=step_of)


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
    beside = parent / f"tmp-{path.name}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _delete_unfinished(parent)
        beside.mkdir()
        names = sorted(tensors)
        tf.raw_ops.SaveV2(
            prefix=str(beside / _PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
        )
        for written in beside.iterdir():
            flush(written)
        flush(beside)
        if path.exists():  # a damaged one, or the same state saved again
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
        raise UserError(f"{path}: cannot write the checkpoint: {one_line(error)}; older ones are untouched") from None
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint.

    Args:
        path: Its folder.

    Returns:
        Every tensor by name, text as bytes; all of them have been read and their checksums compared.

    Raises:
        Damaged: It is damaged.
        UserError: There is no such checkpoint, or it may not be read.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with _without_wildcards(path) as plain:
            reader = tf.train.load_checkpoint(str(plain / _PREFIX))
            tensors = {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    except (PermissionError, MemoryError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError) as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {one_line(error)}") from None
    except (tf.errors.OpError, OSError, IndexError, ValueError, RuntimeError, SystemError) as error:
        raise Damaged(
            f"{path}: the checkpoint is damaged ({one_line(error)}); delete this folder to go on without it"
        ) from None
    return tensors


@contextlib.contextmanager
def _without_wildcards(path: Path) -> Iterator[Path]:
    """Returns a block in which a folder has a name that TensorFlow does not take for a pattern."""
    if not set("*?[\\") & set(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as beside:
        link = Path(beside, "checkpoint")
        link.symlink_to(path.resolve(), target_is_directory=True)
        yield link


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a fingerprint of what a checkpoint holds: the SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()


def load_newest(model_dir: str | os.PathLike[str]) -> tuple[Path, dict[str, np.ndarray]] | None:
    """Reads the newest checkpoint that is whole; says which ones it had to pass over.

    Args:
        model_dir: Folder of the experiment.

    Returns:
        The checkpoint's folder and its tensors by name, or None where the experiment has no checkpoint at all.

    Raises:
        UserError: There are checkpoints and all of them are damaged. Training never starts from scratch then.
    """
    paths = list_checkpoints(model_dir)
    for path in reversed(paths):
        try:
            return path, load(path)
        except Damaged as error:
            _log.warning("%s", error)
    if paths:
        raise UserError(
            f"{folder(model_dir)}: none of its {len(paths)} checkpoints can be read; restore one from a backup, or "
            "delete the folder to start from scratch"
        )
    return None


def _delete_unfinished(parent: Path) -> None:
    for path in parent.glob("tmp-*"):
        shutil.rmtree(path)
