"""An audit of labels: networks that have not seen an image say which label it should have.

The training images are dealt into folds. For each fold a network learns from all others, as an experiment of its own
whose `params.json` names the images of the fold in `exclude_images`. Embeddings of two networks cannot be compared, so
the neighbours of an image are those that the network of its fold has learned from, as that network sees them.

A folder `audit/3_folds/fold_1` holds the list `held_out.txt`, what `train.py` keeps of any experiment, `output.log`
with what it printed, and `trained` once it has come to its end. So an audit that was killed goes on where it was.
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from model.common.commands import ROOT
from model.common.draws import Stream, permutation
from model.common.errors import Interrupted, UserError
from model.common.files import lock, write_whole
from model.common.images import Images, Kind
from model.common.signals import stop_requests
from model.common.text import class_name, printable
from model.params import Params
from model.scoring.label_errors import DOUBTED, NUM_NEIGHBORS, JudgedLabels, judge
from model.studies import trial_process

_log = logging.getLogger(__name__)

_TRAIN = ROOT / "train.py"
_SECONDS_BETWEEN_LOOKS = 0.2

# In the folder of an experiment.
FOLDER = "audit"
EXCLUDE = "exclude.txt"
# Of each image, so many neighbours are told.
NUM_TOLD = 3


@dataclass(frozen=True, eq=False)
class Fold:
    """Images that a network does not learn from.

    Attributes:
        folder: The experiment that learns from the others.
        held_out: (n,) int64, indices of the images among all training images.
    """

    folder: Path
    held_out: np.ndarray


class NamedImages(Protocol):
    """Images of a data set, as its `Split` has them."""

    @property
    def images(self) -> Images:
        """(N, H, W, C) uint8."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) integers."""

    @property
    def names(self) -> np.ndarray | None:
        """(N,), what each is called."""

    def where(self, chosen: np.ndarray) -> "NamedImages":
        """Returns those that a mask, (N,) bool, chooses."""


class Network(Protocol):
    """What was trained, as `Trained` is."""

    @property
    def learned(self) -> NamedImages:
        """The images that it has learned from."""

    def embed(self, images: Images) -> np.ndarray:
        """Returns embeddings, (N, D)."""


@dataclass(frozen=True, eq=False)
class Audited:
    """Images whose labels were judged by those that a network has learned from.

    Attributes:
        indices: (n,) int64, which of a split they are.
        images: They themselves.
        learned: What the network has learned from, among which their neighbours are.
        judged: What these say.
    """

    indices: np.ndarray
    images: NamedImages
    learned: NamedImages
    judged: JudgedLabels


def deal(labels: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Deals images into folds, those of each class evenly.

    An image that is the only one of its class is in none: nobody else could say that it is of that class.

    Args:
        labels: (N,) integers.
        num_folds: At least 2. Of a class with fewer images each is in another fold.
        seed: Decides.

    Returns:
        int64 indices, ascending, of each fold.

    Raises:
        UserError: A fold would hold no image.
    """
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = permutation(seed, Stream.FOLDS, size=len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    row = by_class[sizes[inverse[by_class]] > 1]  # in which each class is one piece
    if len(row) < num_folds:
        raise UserError(
            f"--folds: expected at most {len(row)}, the number of training images with another one of their class, "
            f"received {num_folds}"
        )
    return [np.sort(row[fold::num_folds]).astype(np.int64) for fold in range(num_folds)]


def check(model_dir: Path, params: Params) -> None:
    """Makes sure that images have names.

    Raises:
        UserError: Copies of them are turned, which have none.
    """
    if params.rotated_classes is not None:
        raise UserError(
            f"{model_dir / 'params.json'}: 'rotated_classes' is {json.dumps(params.rotated_classes)}, and turned "
            "copies of images have no labels of their own to be wrong; audit an experiment without"
        )


@contextlib.contextmanager
def alone(model_dir: Path, num_folds: int) -> Iterator[None]:
    """Keeps other processes from making and training the same folds while the block runs.

    Raises:
        UserError: One does so already.
    """
    parent = _parent(model_dir, num_folds)
    parent.mkdir(parents=True, exist_ok=True)
    with lock(parent / ".lock", f"{parent}: another process audits here; wait for it or stop it"):
        yield


def _parent(model_dir: Path, num_folds: int) -> Path:
    return model_dir / FOLDER / f"{num_folds}_folds"


def prepare(
    model_dir: Path, params: Params, labels: np.ndarray, num_folds: int, list_of: Callable[[np.ndarray], str]
) -> list[Fold]:
    """Makes the experiments of all folds, as far as they are not there; to be called in a block of `alone`.

    Args:
        model_dir: Folder of the experiment whose labels are audited.
        params: Its parameters, with which each fold is trained.
        labels: (N,), of all training images.
        num_folds: As for `deal`.
        list_of: Returns a list, as a text, that leaves out training images with these indices.

    Raises:
        UserError: A fold was begun with other parameters or images.
    """
    check(model_dir, params)
    parent = _parent(model_dir, num_folds)
    dealt = deal(labels, num_folds, params.split_seed)
    folds = [Fold(parent / f"fold_{number}", held_out) for number, held_out in enumerate(dealt, 1)]
    for fold in folds:
        _prepare(fold.folder, params, list_of(fold.held_out))
    return folds


def _prepare(folder: Path, params: Params, held_out: str) -> None:
    """Writes the two files of a fold, the parameters last."""
    list_path, params_path = folder / "held_out.txt", folder / "params.json"
    params = params.model_copy(update={"exclude_images": str(list_path)})
    if params_path.exists():
        before = Params.from_json(params_path)
        is_same = before.model_copy(update={"exclude_images": str(list_path)}) == params
        is_same &= list_path.exists() and os.fsdecode(list_path.read_bytes()) == held_out
        if not is_same and (folder / "checkpoints").exists():
            raise UserError(
                f"{folder}: was begun with other parameters or images than there are now; delete {folder.parent} to "
                "begin anew"
            )
        if is_same and before == params:
            return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(list_path, os.fsencode(held_out))
    write_whole(params_path, json.dumps(params.differences(), indent=2) + "\n")


def train(folds: Sequence[Fold], data_dir: Path | None, images: Kind = "auto") -> None:
    """Trains each fold that has not come to its end, one after the other, as `train.py` does; in that block, too.

    Args:
        folds: As `prepare` makes them.
        data_dir: As for `open_experiment`, like `images`.
        images: Where the images are to lie.

    Raises:
        UserError: A training broke down.
        Interrupted: SIGINT, SIGTERM or SIGHUP came. The training under way has saved its state.
    """
    with stop_requests() as stop:
        for number, fold in enumerate(folds, 1):
            if (fold.folder / "trained").exists():
                continue
            _log.info(
                "Training fold %d of %d; what it prints goes to %s.", number, len(folds), fold.folder / "output.log"
            )
            why = _train(fold.folder, data_dir, images, lambda: stop.signal_number is not None)
            if stop.signal_number is not None:
                raise Interrupted(
                    "Stopped; the fold under way is saved, and the same command goes on.", stop.signal_number
                )
            if why:
                raise UserError(f"{fold.folder}: its training broke down: {why}")
            write_whole(fold.folder / "trained", "")


def _train(folder: Path, data_dir: Path | None, images: Kind, is_stopping: Callable[[], bool]) -> str:
    """Trains an experiment in a process of its own, which saves its state if it is stopped.

    Returns:
        Why it broke down; "" if it has come to its end, or was stopped.
    """
    arguments: list[str | Path] = ["--model_dir", folder, "--no_scores", "--images", images]
    if data_dir is not None:
        arguments += ["--data_dir", data_dir]
    trial_process.wait_for_others(folder, is_stopping)
    if is_stopping():
        return ""
    code, said = trial_process.run(_TRAIN, arguments, folder / "output.log", _SECONDS_BETWEEN_LOOKS, is_stopping)
    return said if code else ""


def judge_held_out(
    folds: Sequence[Fold], images: NamedImages, open_network: Callable[[Path], Network], k: int = NUM_NEIGHBORS
) -> list[Audited]:
    """Judges the labels of all training images, each by the network that has not learned from it.

    Images that are in no fold come last, without a score.

    Args:
        folds: As `train` leaves them.
        images: The training images.
        open_network: Opens what was trained in a folder.
        k: How many neighbours vote.
    """
    audited = []
    for fold in folds:
        is_held_out = np.zeros(len(images.labels), bool)
        is_held_out[fold.held_out] = True
        network = open_network(fold.folder)
        audited.append(replace(judge_by(network, images.where(is_held_out), k), indices=fold.held_out))
    in_no_fold = np.ones(len(images.labels), bool)
    in_no_fold[np.concatenate([fold.held_out for fold in folds])] = False
    return [*audited, _without_score(images, in_no_fold)] if in_no_fold.any() else audited


def _without_score(images: NamedImages, chosen: np.ndarray) -> Audited:
    """Returns what there is to say of images, chosen by a mask, whose labels nobody can judge."""
    indices, some = np.flatnonzero(chosen), images.where(chosen)
    count, nothing = len(indices), np.empty((len(indices), 0))
    judged = JudgedLabels(np.full(count, np.nan), np.full(count, -1), nothing.astype(int), nothing, np.ones(count))
    return Audited(indices, some, some, judged)


def judge_by(network: Network, images: NamedImages, k: int = NUM_NEIGHBORS) -> Audited:
    """Judges the labels of images, as `label_errors.judge` does, by those that a network has learned from."""
    learned = network.learned
    of_images, of_learned = network.embed(images.images), network.embed(learned.images)
    indices = np.arange(len(images.labels))
    return Audited(indices, images, learned, judge(of_images, images.labels, of_learned, learned.labels, k))


def _ranked(audited: Sequence[Audited]) -> list[tuple[Audited, int]]:
    """Returns all images, each as one of some that were judged and its index there, most suspicious first.

    Of equal scores that comes first whose own class is farther away than another one; images that could not be judged
    are the last.
    """
    images = [(part, index) for part in audited for index in range(len(part.images.labels))]
    return sorted(images, key=lambda image: (_score(*image), -image[0].judged.ratio[image[1]]))


def _score(part: Audited, index: int) -> float:
    score = float(part.judged.score[index])
    return math.inf if math.isnan(score) else score


def table(audited: Sequence[Audited], class_names: Sequence[str]) -> bytes:
    """Returns a CSV file with a line for each image, most suspicious first.

    `score` is that of `label_errors.py`, empty where there is none, and `suggested` the class with most of the vote.
    """
    columns = ["image", "label", "suggested", "score"]
    of_neighbor = ["", "_label", "_distance"]
    columns += [f"neighbor_{number}{what}" for number in range(1, NUM_TOLD + 1) for what in of_neighbor]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for part, index in _ranked(audited):
        judged, suggested = part.judged, part.judged.suggested[index]
        row = [
            _name(part.images, index),
            class_names[part.images.labels[index]],
            class_names[suggested] if suggested >= 0 else "",
            f"{judged.score[index]:.4f}" if suggested >= 0 else "",
        ]
        near, distances = judged.nearest[index, :NUM_TOLD], judged.distances[index, :NUM_TOLD]
        for neighbor, distance in zip(near, distances, strict=True):
            label = class_names[part.learned.labels[neighbor]]
            row += [_name(part.learned, neighbor), label, f"{distance:.4f}"]
        writer.writerow([*row, *[""] * (len(columns) - len(row))])
    return file.getvalue().encode("utf-8", "surrogateescape")


def doubted_rows(
    audited: Sequence[Audited], class_names: Sequence[str], most: int
) -> list[list[tuple[np.ndarray, str]]]:
    """Returns the doubted images, most suspicious first, each with its nearest neighbours, as a contact sheet has them.

    Args:
        audited: Images that were judged.
        class_names: Of the labels 0, 1, ...
        most: How many to show.
    """
    doubted = [(part, index) for part, index in _ranked(audited) if part.judged.is_doubted[index]]
    rows = []
    for part, index in doubted[:most]:
        judged = part.judged
        label, suggested = (
            class_name(class_names[place], 14) for place in (part.images.labels[index], judged.suggested[index])
        )
        name = printable(_name(part.images, index), 12, keeps_start=False)
        caption = f"{label}\nor {suggested}?\n{judged.score[index]:.2f} {name}"
        row = [(part.images.images[index], caption)]
        for neighbor in judged.nearest[index, :NUM_TOLD]:
            row.append((part.learned.images[neighbor], class_name(class_names[part.learned.labels[neighbor]], 18)))
        rows.append(row)
    return rows


def _name(images: NamedImages, index: int) -> str:
    return "" if images.names is None else str(images.names[index])


def write(
    model_dir: Path, split: str, audited: Sequence[Audited], class_names: Sequence[str], sheet: bytes | None
) -> list[Path]:
    """Writes the table of a split and its contact sheet.

    Args:
        model_dir: Folder of the experiment.
        split: "train" or "test".
        audited: Its images, judged.
        class_names: Of the labels 0, 1, ...
        sheet: Content of a PNG file; None where no label is doubted.

    Returns:
        The files.
    """
    folder = model_dir / FOLDER
    folder.mkdir(exist_ok=True)
    contents = {f"{split}.csv": table(audited, class_names), f"{split}.png": sheet}
    for name, content in contents.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier audit
        else:
            write_whole(folder / name, content)
    return [folder / name for name, content in contents.items() if content is not None]


def write_exclusions(
    model_dir: Path, audited: Sequence[Audited], below: float, list_of: Callable[[np.ndarray], str]
) -> Path:
    """Writes the list that leaves out training images of low scores, and what is left out already.

    Args:
        model_dir: Folder of the experiment.
        audited: The training images, as `judge_held_out` returns them.
        below: Images with a lower score are listed.
        list_of: As for `prepare`.
    """
    chosen = [part.indices[part.judged.score < below] for part in audited]
    path = model_dir / FOLDER / EXCLUDE
    write_whole(path, os.fsencode(list_of(np.sort(np.concatenate(chosen)))))
    return path


def describe(audited: Sequence[Audited], split: str) -> str:
    """Returns in a line how many labels of the images of a split are doubted."""
    scores = np.concatenate([part.judged.score for part in audited])
    judged = np.count_nonzero(~np.isnan(scores))
    line = f"{np.count_nonzero(scores < DOUBTED):,} of {judged:,} labels of {split} images are doubted"
    if judged < len(scores):
        line += f"; {len(scores) - judged:,} have no other image of their class to be judged by"
    return line
