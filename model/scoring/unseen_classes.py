"""Protocols for classes that were never seen, each with its images: one-shot runs, published pairs, episodes.

Each is a file in `eval/`. What is in the files that a user names is looked for before TensorFlow is started; the images
come later, as those of the experiment's data set.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from model.common.errors import UserError, listed
from model.common.images import blocks
from model.common.text import class_name, printable
from model.data import image_pairs, one_shot_runs
from model.data.partition import Partition
from model.params import Params
from model.scoring import episodes, one_shot, pairs, scoreboard
from model.scoring.episodes import Shots
from model.scoring.record import Measurement, Scores

# As in the papers: Snell and others average 1,000 episodes of Omniglot; 15 queries of a class are those of Ravi and
# Larochelle (2017) and of Snell and others on miniImageNet, and what 5 shots leave of the 20 drawings of Omniglot.
NUM_EPISODES = 1000
NUM_QUERIES = 15

# From the data of an experiment and its parameters to what is measured.
Protocol = Callable[[Partition, Params], Measurement]


def choose(
    folder_of_runs: Path | None,
    file_of_pairs: Path | None,
    shots: Sequence[str] | None,
    *,
    num_episodes: int = NUM_EPISODES,
    num_queries: int = NUM_QUERIES,
    within_parents: bool = False,
) -> Protocol | None:
    """Returns the protocol that is asked for; None where none is.

    Args:
        folder_of_runs: As for `one_shot_runs.find`.
        file_of_pairs: As for `image_pairs.find`.
        shots: N and K of episodes, such as "20x1"; several, if wanted.
        num_episodes: How many episodes of each.
        num_queries: The most queries of a class.
        within_parents: Whether the classes of an episode have one parent.

    Raises:
        UserError: The files or the numbers are not in the form that is expected.
    """
    if folder_of_runs is not None:
        return functools.partial(_one_shot, folder_of_runs, one_shot_runs.find(folder_of_runs))
    if file_of_pairs is not None:
        return functools.partial(_pairs, file_of_pairs, image_pairs.find(file_of_pairs))
    if shots is not None:
        chosen = list(dict.fromkeys(map(Shots.parse, shots)))
        return functools.partial(_episodes, chosen, num_episodes, num_queries, within_parents)
    return None


def _one_shot(folder: Path, found: one_shot_runs.OneShotRuns, partition: Partition, params: Params) -> Measurement:
    runs = {run.name: one_shot.Run(run.test, run.training, run.is_right) for run in found.runs}
    sizes = sorted({len(run.training) for run in found.runs})
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    total = sum(len(run.test) for run in found.runs)
    names = {"error": "error", **{f"  {class_name(name, 26)}": f"error/{name}" for name in runs}}
    return Measurement(
        name="one_shot",
        title=f"{len(runs)} one-shot runs of {printable(str(folder), 60)}, {total:,} images among {shown}",
        num_images=len(found.images.paths),
        blocks=functools.partial(found.images.blocks, partition.data, params),
        measure=functools.partial(one_shot.measure, runs=runs, seed=params.split_seed),
        tabulate=functools.partial(
            _tabulate, names, ["error: the nearest training image of the run is of another class; mean over the runs"]
        ),
        about={"folder": str(folder), "seed": params.split_seed},
        notes=found.notes,
        with_pixels=True,
    )


def _pairs(file: Path, found: image_pairs.ImagePairs, partition: Partition, params: Params) -> Measurement:
    folds = pairs.deal_into_folds(found.is_same) if found.folds is None else found.folds
    same, total, num_folds = int(np.count_nonzero(found.is_same)), len(found.is_same), int(folds.max()) + 1
    dealt = ", dealt in the order of the file" if found.folds is None else ""
    names = ["accuracy", "roc_auc", "eer", *(f"tar_at_far_1e-{power}" for power in pairs.FAR_POWERS)]
    legend = [
        f"accuracy: of {num_folds} folds{dealt}, each at the threshold of the others; standard error",
        "roc_auc: a pair that is the same is nearer than one that is not",
        "eer: error rate where both kinds of error are equally frequent; low is good",
        "tar_at_far: the part of the same pairs that is accepted where this part of the others is",
    ]
    return Measurement(
        name="pairs",
        title=f"{total:,} pairs of {printable(str(file), 60)}, {same:,} are the same",
        num_images=len(found.images.paths),
        blocks=functools.partial(found.images.blocks, partition.data, params),
        measure=functools.partial(
            pairs.measure, pairs=found.pairs, is_same=found.is_same, folds=folds, seed=params.split_seed
        ),
        tabulate=functools.partial(_tabulate_pairs, {name: name for name in names}, legend),
        about={
            "file": str(file),
            "folds": "of the file" if found.folds is not None else "dealt in its order",
            "seed": params.split_seed,
        },
        notes=found.notes,
    )


def _episodes(
    shots: Sequence[Shots],
    num_episodes: int,
    num_queries: int,
    within_parents: bool,
    partition: Partition,
    params: Params,
) -> Measurement:
    splits = partition.never_learned_from
    labels = np.concatenate([split.labels for split in splits])
    number = len(np.unique(labels))
    parents = partition.parents if within_parents else None
    if parents is not None and len(np.unique(parents)) < 2:
        some = listed((class_name(name) for name in partition.data.class_names), most=3)
        raise UserError(
            f"--within_parents needs classes whose names form a tree, as Greek/character03: received {some} of "
            f"{partition.data.name}; leave it out"
        )
    drawn = {str(shot): episodes.draw_from(labels, shot, num_queries, params.split_seed, parents) for shot in shots}

    def measure(embeddings: np.ndarray) -> dict[str, float]:
        scores = {"num_classes": float(number), "num_images": float(len(labels)), "num_episodes": float(num_episodes)}
        for shot, episode in drawn.items():
            measured = episodes.measure(embeddings, episode, num_episodes)
            scores |= {f"{shot}/{name}": score for name, score in measured.items()}
        return scores

    names = [f"{shot}/{way}" for shot in drawn for way in ("nearest_image", "class_mean")]
    within = ", each within one parent" if within_parents else ""
    meaning = "never learned from" if partition.has_unseen else "test images, as no classes are unseen"
    notes = []
    if partition.data.test.roles is not None:
        notes.append("Episodes are drawn from all of these images, whatever is a query, gallery or group")
    return Measurement(
        name="episodes",
        title=f"{num_episodes:,} episodes{within}, of {number} classes ({meaning}), {len(labels):,} images",
        num_images=len(labels),
        blocks=lambda: (block for split in splits for block in blocks(split.images)),
        measure=measure,
        tabulate=functools.partial(
            _tabulate,
            {name: name for name in names},
            [
                "nearest_image: the nearest of the N x K shown images is of the right class",
                "class_mean: the nearest mean of the K shown images of a class is that of the right one",
            ],
        ),
        about={
            "classes": "unseen" if partition.has_unseen else "test",
            "num_queries": num_queries,
            "within_parents": within_parents,
            "seed": params.split_seed,
        },
        notes=notes,
    )


def _tabulate(names: Mapping[str, str], legend: Iterable[str], scores: Scores, baselines: Mapping[str, Scores]) -> str:
    return "\n".join([*scoreboard.rows(names, scores, baselines), "", *legend])


def _tabulate_pairs(
    names: Mapping[str, str], legend: Sequence[str], scores: Scores, baselines: Mapping[str, Scores]
) -> str:
    first, *others = legend
    return _tabulate(names, [f"{first} {scores['accuracy_standard_error']:.4f}", *others], scores, baselines)
