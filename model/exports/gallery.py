"""The gallery, all training images, as arrays and tables that vector databases read."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.common.files import write_whole

EMBEDDINGS, IMAGES = "embeddings.npy", "images.csv"


def write(folder: Path, embeddings: np.ndarray, names: np.ndarray | None, labels: Sequence[str]) -> None:
    """Writes embeddings, and a table with a line for each: its row as an id, name and label.

    Args:
        folder: Where to.
        embeddings: (N, D) float32.
        names: (N,), of the images; None where they have none, and the column is empty.
        labels: The N names of their classes.
    """
    content = io.BytesIO()
    np.save(content, embeddings, allow_pickle=False)
    write_whole(folder / EMBEDDINGS, content.getvalue())
    said = [""] * len(labels) if names is None else names.tolist()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", "name", "label"))
    writer.writerows(zip(range(len(labels)), said, labels, strict=True))
    write_whole(folder / IMAGES, table.getvalue().encode("utf-8", "surrogateescape"))


def read(folder: Path) -> np.ndarray:
    """Returns the embeddings that were written."""
    return np.load(folder / EMBEDDINGS, allow_pickle=False)
