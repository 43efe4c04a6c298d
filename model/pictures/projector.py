"""The bundle that TensorBoard's Projector shows: embeddings in a checkpoint, metadata, and a sprite of the images.

What TensorBoard 2.21 wants: sprite and metadata lie in the folder of the config, which it lists only if an event file
is in it; the checkpoint is found by its `checkpoint` file; the sprite is a square grid of at most 8,192 pixels a side;
and what was once read under a name is shown until TensorBoard starts anew, so that other embeddings need another name.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from model.common.files import read_bytes
from model.common.images import Images
from model.pictures.thumbnails import make_sprite, make_thumbnails

_log = logging.getLogger(__name__)

# What says which bundle of a folder counts, the config last.
LAST_FILES = ("checkpoint", "projector_config.pbtxt")


def write_bundle(
    folder: Path,
    name: str,
    embeddings: np.ndarray,
    images: Images,
    metadata: Mapping[str, Sequence[object]],
    bookmarks: bytes,
) -> None:
    """Writes what the Projector needs into a folder.

    Args:
        folder: Where to write, beside an event file, and no other bundle.
        name: What the embeddings are called; part of every file name. Use a new name for other embeddings.
        embeddings: float32 array of shape (N, D), N at most 100,000, which TensorBoard shows.
        images: uint8, of shape (N, H, W, C), C is 1 or 3.
        metadata: Columns by name, at least two, each with N entries.
        bookmarks: A file as `bookmarks.make_bookmarks` returns it.
    """
    tf.train.Checkpoint(**{name: tf.Variable(embeddings)}).write(str(folder / name))
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')  # what says which is the newest
    (folder / f"{name}-metadata.tsv").write_text(_as_table(metadata), encoding="utf-8")
    thumbnails = make_thumbnails(images)
    if thumbnails.shape[1] < images.shape[1]:
        _log.info(
            "The images in the Projector are shrunk to %dx%d pixels, so that %d of them fit into one sprite.",
            *thumbnails.shape[1:3], len(images),
        )  # fmt: skip
    make_sprite(thumbnails).save(folder / f"{name}-sprite.png")
    (folder / f"{name}-bookmarks.json").write_bytes(bookmarks)

    config = projector.ProjectorConfig()
    entry = config.embeddings.add()
    entry.tensor_name = f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
    entry.metadata_path = f"{name}-metadata.tsv"
    entry.sprite.image_path = f"{name}-sprite.png"
    entry.sprite.single_image_dim.extend([thumbnails.shape[2], thumbnails.shape[1]])
    entry.bookmarks_path = f"{name}-bookmarks.json"
    projector.visualize_embeddings(str(folder), config)


def bundle_in(folder: Path) -> set[Path]:
    """Returns the files of the bundle that the `checkpoint` file of a folder names; none if it is somebody else's."""
    try:
        named = re.fullmatch(rb'model_checkpoint_path: "([\w.-]+)"\n', read_bytes(folder / "checkpoint"))
    except FileNotFoundError:
        return set()
    if named is None or not (folder / f"{named[1].decode()}-metadata.tsv").is_file():
        return set()
    name = re.escape(named[1].decode())
    of_bundle = re.compile(name + r"(\.index|\.data-\d{5}-of-\d{5}|-metadata\.tsv|-sprite\.png|-bookmarks\.json)")
    return {path for path in folder.iterdir() if of_bundle.fullmatch(path.name)}


def _as_table(columns: Mapping[str, Sequence[object]]) -> str:
    """Returns tab-separated lines, the first of them the header; there is no escaping, so white space is replaced."""
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    return "".join("\t".join(re.sub(r"\s", " ", str(cell)) for cell in row) + "\n" for row in rows)
