"""Takes a trained network out of the house: writes it, reads it by the program that it is for, compares, explains."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.common import devices, files, json_file
from model.common.commands import command
from model.common.draws import stratified_sample
from model.common.errors import UserError, listed, one_line, one_line_errors
from model.common.images import Images, subset
from model.common.versions import library_versions
from model.exports import readme
from model.exports.formats import FORMATS
from model.exports.readme import Facts, Threshold

if TYPE_CHECKING:
    from model.runner import Trained

_log = logging.getLogger(__name__)

# Images that are compared, and pixels that are embedded at a time.
_NUM_COMPARED, _MAX_PIXELS = 256, 2**20
# By how much a number of an embedding may differ, relative to the largest one. Rounding alone makes 1e-6 or so.
_TOLERANCE = 1e-3

_ABOUT, _README = "export.json", "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where it is.
        files: Its files, in the order of their names.
        facts: What is known of it.
    """

    folder: Path
    files: tuple[Path, ...]
    facts: Facts

    @property
    def report(self) -> str:
        """One line on how near it comes to the network."""
        return (
            f"{self.facts.format}, step {self.facts.step:,}: largest difference from the network's own embeddings "
            f"{self.facts.difference:.2g}, of {readme.compared(self.facts)}."
        )


def folder_for(model_dir: Path, format_name: str, output_dir: Path | None = None) -> Path:
    """Returns where an export goes, after quick checks of what is needed and of what is there.

    Args:
        model_dir: Folder of the experiment.
        format_name: Of `FORMATS`.
        output_dir: The folder; None takes `export/<format>` in that of the experiment.

    Raises:
        UserError: A package is missing, or the folder holds what no export wrote.
    """
    FORMATS[format_name].check_packages(format_name)
    folder = output_dir or model_dir / "export" / format_name
    if not os.path.lexists(folder):
        return folder
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: a file or a link, expected a folder; name another one by --output_dir")
    ours = _files_of_export(folder)
    found = folder.rglob("*") if ours else folder.iterdir()  # not all of a disk
    if strange := sorted({path.relative_to(folder).as_posix() for path in found if not _is_folder(path)} - ours):
        raise UserError(
            f"{folder}: would be replaced, and holds what no export wrote: {listed(strange, most=3)}; move it away, or "
            "name another folder by --output_dir"
        )
    if folder.is_mount() or folder.samefile("."):
        raise UserError(
            f"{folder}: the current folder or a mounted one, which cannot be replaced as a whole; name a folder in it "
            "by --output_dir"
        )
    if not ours and any(folder.iterdir()):
        raise UserError(f"{folder}: would be replaced, and is no export, nor empty; name another by --output_dir")
    return folder


def _files_of_export(folder: Path) -> set[str]:
    """Returns the names of the files that an export wrote into a folder; empty if that is none."""
    try:
        names = json_file.parse(files.read_bytes(folder / _ABOUT))["files"]
        return {_ABOUT, *(name for name in names if isinstance(name, str))}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def export(trained: "Trained", format_name: str, folder: Path) -> Exported:
    """Writes a network or its gallery, compares it with the network's own embeddings, and explains it in a README.

    All of it computes in float32, which every program has, whatever the precision of the training.

    Args:
        trained: What to export.
        format_name: Of `FORMATS`.
        folder: As `folder_for` returns it; what an earlier export wrote there is replaced as a whole.

    Raises:
        UserError: The exporter cannot write this network, what it wrote computes something else, or the disk is full.
            Nothing is written then.
    """
    model_dir, exact = trained.experiment.model_dir, trained.in_float32()
    with one_line_errors(folder), files.folder_beside(folder.parent) as beside:
        new = beside / "new"
        new.mkdir()
        chosen, own = _own_embeddings(exact, FORMATS[format_name].compared)
        seen = _write_and_read(exact, format_name, new, chosen)
        difference = float(np.abs(seen - own).max()) if seen.shape == own.shape else np.inf
        if not difference <= _TOLERANCE * np.abs(own).max():
            raise UserError(
                f"{model_dir}: as {format_name}, the network gives other embeddings, which differ by up to "
                f"{difference:.2g} of {np.abs(own).max():.2g}; nothing is exported, take another --format"
            )
        in_training = None
        if trained.precision != exact.precision:
            _, of_training = _own_embeddings(trained, FORMATS[format_name].compared)
            in_training = float(np.abs(seen - of_training).max())
        facts = _facts(trained, format_name, len(own), difference, in_training)
        files.write_whole(new / _README, readme.text(facts))
        names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        about = {**facts.as_json(), "versions": library_versions(), "files": names}
        files.write_whole(new / _ABOUT, json.dumps(about, indent=2, allow_nan=False) + "\n")
        files.replace_folder(new, folder)
    if not facts.is_scored:
        which = "--checkpoint", str(trained.checkpoint.path)
        evaluate = command("evaluate.py", model_dir, *which, data_dir=trained.experiment.data_dir)
        _log.warning("No scores of this checkpoint, so the export has no threshold; %s makes them.", evaluate)
    elif facts.threshold is None:
        _log.warning("The test images have too few pairs of one class, so the export has no threshold; add images.")
    return Exported(folder, tuple(folder / name for name in sorted([*names, _ABOUT])), facts)


def _chosen(trained: "Trained", split: str) -> tuple[Images, np.ndarray]:
    """Returns the images of a split, and the indices of those that are compared."""
    data = trained.experiment.data
    images = data.test if split == "test" else data.train
    return images.images, stratified_sample(images.labels, trained.params.seed, _NUM_COMPARED)


def _own_embeddings(trained: "Trained", split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns which images of a split are compared, and what the network itself says of them."""
    images, chosen = _chosen(trained, split)
    return chosen, trained.embed(subset(images, chosen))


def _write_and_read(trained: "Trained", format_name: str, folder: Path, chosen: np.ndarray) -> np.ndarray:
    """Writes files, and returns the embeddings that the program they are for computes by them."""
    form = FORMATS[format_name]
    images, _ = _chosen(trained, form.compared)
    with devices.quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # converters and their libraries warn of each other
        try:
            form.write(trained, folder)
            embed = form.read(folder)
            return np.concatenate([embed(images, some) for some in _batches(images, chosen)])
        except (OSError, UserError, MemoryError):
            raise
        except Exception as error:  # of converters and runtimes, which raise nearly anything
            raise UserError(
                f"{trained.experiment.model_dir}: the network {trained.params.network} cannot be written as "
                f"{format_name}, or not be run then: {one_line(error) or type(error).__name__}; take another --format"
            ) from error


def _batches(images: Images, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yields one index, and then as many at a time as the memory holds: a batch may be of any size."""
    size = max(2, _MAX_PIXELS // (images.shape[1] * images.shape[2]))
    yield chosen[:1]
    for start in range(1, len(chosen), size):
        yield chosen[start : start + size]


def _facts(
    trained: "Trained", format_name: str, num_compared: int, difference: float, in_training: float | None
) -> Facts:
    experiment, params, scores = trained.experiment, trained.params, trained.scores
    group = None if scores is None else scores.calibrated_group
    threshold = None if scores is None or group is None else Threshold.of(scores.metrics, group)
    return Facts(
        format=format_name,
        dataset=experiment.data.name,
        step=trained.checkpoint.step,
        digest=trained.checkpoint.digest,
        image_shape=experiment.summary.image_shape,
        image_fit=params.image_fit,
        image_bits=params.image_bits,
        num_images=len(experiment.data.train.labels) if format_name == "embeddings" else None,
        embedding_size=params.embedding_size,
        has_unit_length=params.has_unit_length,
        test_time_augmentation=params.test_time_augmentation,
        is_scored=scores is not None,
        threshold=threshold,
        num_compared=num_compared,
        difference=difference,
        precision=trained.precision,
        difference_in_training=in_training,
    )
