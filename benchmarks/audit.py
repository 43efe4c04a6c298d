"""How many wrong labels an audit finds, where it is known which are wrong because they were flipped.

    python -m benchmarks.audit run --sets digits mnist --runs FOLDER
    python -m benchmarks.audit table

`run` flips 5 % and 10 % of the training labels of a data set, to any other class or to the class whose mean image is
nearest, and audits them as `audit_labels.py` does, with short trainings. What came of each case is kept in
`benchmarks/results/audit`; a case that has such a file is not run again, and one that was interrupted goes on in
--runs. `table` writes them to `benchmarks/results/audit.txt`. Three ways are compared, by the same neighbours:

- audit: the score of `model/scoring/label_errors.py`;
- k-NN vote: each of the 10 nearest has one vote; a label is doubted that has not the most of them, and ranked by its
  share;
- cleanlab: confident learning, `find_label_issues` of cleanlab, with these shares as the probabilities, and the order
  of its `get_label_quality_scores` by normalized margin (by self-confidence it would be that of the vote).

Between equal shares the order of the folds decides; the audit's score has the ratio of distances for that.

Labels that were wrong before anything was flipped count as mistakes of whoever finds them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.common.draws import stratified_sample

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "audit"

# By data set: the experiment whose parameters are taken, what is changed in them, and how many training images are
# used where these are not all.
SHORT = {"num_epochs": 2, "warmup_steps": 20}
SETS: Mapping[str, tuple[str, dict[str, Any], int | None]] = {
    "digits": ("digits", {"num_epochs": 10}, None),
    "mnist": ("mnist_fast", SHORT, 12_000),
    "fashion_mnist": ("mnist_fast", SHORT | {"dataset": "fashion_mnist"}, 12_000),
    "grocery": ("grocery", {"num_epochs": 30}, None),
}
KINDS = ("uniform", "similar")
RATES = (0.05, 0.1)
SEED = 1


def main() -> None:
    """Runs cases, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run", help="audit flipped labels")
    run.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    run.add_argument("--runs", type=Path, required=True, help="where they are trained")
    run.add_argument("--folds", type=int, default=3)
    commands.add_parser("table", help="write benchmarks/results/audit.txt")
    options = parser.parse_args()
    if options.command == "table":
        RESULTS.with_suffix(".txt").write_text(table())
        return
    for name in options.sets:
        for kind in KINDS:
            for rate in RATES:
                path = RESULTS / f"{name}-{kind}-{rate}.json"
                if not path.exists():
                    found = _run(name, kind, rate, options.folds, options.runs.resolve())
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(json.dumps(found, indent=2) + "\n")
                    print(path, flush=True)


def _run(name: str, kind: str, rate: float, num_folds: int, runs: Path) -> dict[str, Any]:
    """Audits the flipped labels of a data set; returns what was found."""
    from model.start import start
    from model.studies import audit

    experiment, changes, num_images = SETS[name]
    model_dir, folder = runs / f"{name}-{kind}-{rate}" / "experiment", runs / f"{name}-{kind}-{rate}" / "data"
    params = json.loads((ROOT / "experiments" / experiment / "params.json").read_text()) | changes
    params.pop("$schema", None)
    is_flipped = _write_flipped(params, kind, rate, num_images, folder)
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps(params | {"dataset": "flipped"}))
    runner = start(model_dir, folder)
    data = runner.experiment.data
    with audit.alone(model_dir, num_folds):
        folds = audit.prepare(model_dir, runner.experiment.params, data.train.labels, num_folds, data.exclusion_list)
        audit.train(folds, folder)
    scores = {}
    rows = audit.judge_held_out(folds, data.train, runner.trained_beside)
    labels = np.concatenate([part.images.labels for part in rows])
    flipped = is_flipped[np.concatenate([part.indices for part in rows])]
    shares = np.concatenate([_shares(part.learned.labels[part.judged.nearest], len(data.class_names)) for part in rows])
    judged = [np.concatenate([getattr(part.judged, what) for part in rows]) for what in ("score", "ratio")]
    own = shares[np.arange(len(labels)), labels]
    scores["audit"] = _scores(flipped, judged[0] < 0.5, np.lexsort((-judged[1], judged[0])))
    scores["k-NN vote"] = _scores(flipped, own < shares.max(axis=1), np.argsort(own, kind="stable"))
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        print("cleanlab is left out: pip install -r requirements-bench.txt")
    else:
        quality = get_label_quality_scores(labels, shares, method="normalized_margin")
        scores["cleanlab"] = _scores(flipped, find_label_issues(labels, shares), np.argsort(quality, kind="stable"))
    about = {"set": name, "kind": kind, "rate": rate, "folds": num_folds, "epochs": params["num_epochs"]}
    return about | {"images": len(labels), "flipped": int(flipped.sum()), "scores": scores}


def _write_flipped(params: dict[str, Any], kind: str, rate: float, num_images: int | None, folder: Path) -> np.ndarray:
    """Writes a data set with flipped training labels, unless it is there; returns which were flipped, (N,) bool."""
    from PIL import Image

    from model.data import datasets
    from model.params import Params

    data = datasets.load_for(Params(**params), None)
    chosen = stratified_sample(data.train.labels, SEED, num_images or len(data.train.labels))
    images, labels = data.train.images[chosen], data.train.labels[chosen]
    flipped = _flip(images, labels, kind, rate)
    lines = ["path,label,split\n"]
    parts = {"train": (images, flipped), "test": (data.test.images[:100], data.test.labels[:100])}
    for split, (pictures, of_split) in parts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i, (picture, label) in enumerate(zip(pictures, of_split.tolist(), strict=True)):
            lines.append(f"{split}/{i:06}.png,{label},{split}\n")
            path = folder / split / f"{i:06}.png"
            if not path.exists():
                Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0]).save(path)
    (folder / "images.csv").write_text("".join(lines))
    return flipped != labels


def _flip(images: np.ndarray, labels: np.ndarray, kind: str, rate: float) -> np.ndarray:
    """Returns labels of which this part is wrong."""
    rng = np.random.default_rng(SEED)
    classes = np.unique(labels)
    chosen = rng.permutation(len(labels))[: round(rate * len(labels))]
    if kind == "uniform":
        shift = rng.integers(1, len(classes), len(chosen))
        wrong = classes[(np.searchsorted(classes, labels[chosen]) + shift) % len(classes)]
    else:
        means = np.stack([images[labels == label].mean(axis=0).ravel() for label in classes])
        distances = np.linalg.norm(means[:, np.newaxis] - means, axis=2)
        np.fill_diagonal(distances, np.inf)
        wrong = classes[distances.argmin(axis=1)[np.searchsorted(classes, labels[chosen])]]
    flipped = labels.copy()
    flipped[chosen] = wrong
    return flipped


def _shares(neighbor_labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the share of each class among the neighbours, (N, C), of their labels, (N, k)."""
    counts = np.stack([np.bincount(row, minlength=num_classes) for row in neighbor_labels])
    return counts / counts.sum(axis=1, keepdims=True)


def _scores(flipped: np.ndarray, doubted: np.ndarray, order: np.ndarray) -> dict[str, float]:
    """Returns precision and recall of what is doubted, and of as many of the most suspicious as were flipped."""
    right = np.count_nonzero(flipped & doubted)
    return {
        "doubted": int(doubted.sum()),
        "precision": right / max(1, int(doubted.sum())),
        "recall": right / int(flipped.sum()),
        "precision of as many": float(flipped[order[: flipped.sum()]].mean()),
    }


def table() -> str:
    """Returns all results as text."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "python -m benchmarks.audit: flipped labels, found by networks that have not learned from them. Of the labels",
        "that are doubted: how many, precision and recall. Of as many of the most suspicious as were flipped:",
        "precision, which is their recall as well.",
        "",
        f"{'':<44}{'':<12}{'doubted':>9}{'precision':>11}{'recall':>9}{'of as many':>12}",
    ]
    for case in sorted(found, key=lambda case: (list(SETS).index(case["set"]), case["kind"], case["rate"])):
        what = f"{case['set']}, {case['rate']:.0%} {case['kind']}, {case['flipped']} of {case['images']}"
        for name, row in case["scores"].items():
            lines.append(_line(what, name, row))
            what = ""
    trained = dict.fromkeys(f"{case['set']}: {case['folds']} folds, {case['epochs']} epochs" for case in found)
    return "\n".join([*lines, "", *trained]) + "\n"


def _line(what: str, name: str, row: Mapping[str, float]) -> str:
    cells: Sequence[str] = [
        f"{what:<44}{name:<12}{row['doubted']:>9}",
        f"{row['precision']:>11.3f}{row['recall']:>9.3f}{row['precision of as many']:>12.3f}",
    ]
    return "".join(cells)


if __name__ == "__main__":
    main()
