"""Arrays that are kept in `model_dir/eval` from one command to the next; whoever deletes them only waits once more."""

import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.common.files import read_bytes, write_whole

_log = logging.getLogger(__name__)


def path_in(model_dir: Path, name: str) -> Path:
    """Returns the file in the folder of an experiment."""
    return model_dir / "eval" / f"{name}.npz"


def read(path: Path, key: str | None = None) -> dict[str, np.ndarray] | None:
    """Reads the arrays of a file.

    Args:
        path: The file.
        key: What it has to say under "key", so that nothing is taken for what was made from something else.

    Returns:
        The arrays by name; None if there is no file, if it is damaged, or if it has another key.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if key is None or file["key"] == key else None
    except Exception:  # on damaged bytes NumPy and its ZIP reader raise nearly anything
        return None


def read_embeddings(path: Path, key: str, size: int, count: int | None = None) -> dict[str, np.ndarray] | None:
    """Returns the same; None as well if its "embeddings" are not float32 of shape (count, size), None: of any count."""
    kept = read(path, key)
    embeddings = None if kept is None else kept.get("embeddings")
    if embeddings is None or embeddings.dtype != np.float32 or embeddings.shape[1:] != (size,):
        return None
    return kept if count in (None, len(embeddings)) else None


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays into a file; if that cannot be, it is told."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        _log.warning("%s: cannot be written (%s); the next time takes as long.", path, error.strerror)
