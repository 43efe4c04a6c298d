"""Trains the experiments of `experiments/` with several seeds, and writes a table of their results.

    python -m benchmarks.recipes run batch_all cosine --seeds 1 2 3 4 5
    python -m benchmarks.recipes table

`run` trains each experiment in a folder of its own, whose `params.json` is that of the experiment with the seed in it
(and, where classes are held out by number, with the same `split_seed`, so that each run holds out others), and keeps
its `metrics.json` as `benchmarks/results/recipes/<experiment>/seed=<seed>/metrics.json`, with what published protocols
say beside it. What costs no training is scored with seed 1 alone, unless each seed holds out other classes.

A run that has such a file is not made again, and one that was interrupted goes on if --runs names the folder where it
lies. `table` writes what `compare_experiments.py` prints of them, and more, into `benchmarks/results/recipes.md`; a
test compares the two.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "recipes"
COMPARE = [
    "compare_experiments.py", RESULTS.relative_to(ROOT).as_posix(), "--format", "markdown", "--metrics",
    "knn_accuracy", "recall_at_1", "map_at_r", "eer",
]  # fmt: skip
TABLE = ROOT / "benchmarks" / "results" / "recipes.md"
_HEAD = """\
<!-- made by: python -m benchmarks.recipes table -->
# Results of the experiments

Every run is a `metrics.json` in `benchmarks/results/recipes` with all of its metrics, its parameters and what it ran
on; `python -m benchmarks.recipes run <folder> --seeds 1 2 3 4 5` makes them. Mean ± standard deviation over the seeds;
minutes and images/s are the median of the training steps alone, on cores of a machine shared with other work. Where no
run says what it ran on, it is older than that. What costs no training has no ± where seed 1 alone scored it.
[What each experiment is](../../experiments/README.md).

"""

# What papers measure of an experiment: options of `evaluate.py`, by the name of the file in `eval/` that they make.
_EPISODES = ("--episodes", "5x1", "5x5", "20x1", "20x5")
PROTOCOLS: dict[str, dict[str, Sequence[str]]] = {
    "omniglot": {"one_shot": ("--one_shot", "data/omniglot/one_shot"), "episodes": _EPISODES},
    "omniglot_vinyals": {"episodes": _EPISODES},
}

Run = dict[str, Any]


def main() -> None:
    """Runs experiments, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run", help="train and score experiments")
    run.add_argument("experiments", nargs="+", help="names of folders in experiments/")
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    run.add_argument("--runs", type=Path, help="where they are trained; if not given, in a folder that is deleted")
    commands.add_parser("table", help="write benchmarks/results/recipes.md")
    options = parser.parse_args()
    for name in getattr(options, "experiments", []):
        if not (ROOT / "experiments" / name / "params.json").is_file():
            parser.error(f"experiments/{name}: no such experiment")
    if options.command == "table":
        TABLE.write_text(page(), encoding="utf-8")
        return
    for seed in options.seeds:
        for name in options.experiments:
            path = RESULTS / name / f"seed={seed}" / "metrics.json"
            if not path.exists():
                with tempfile.TemporaryDirectory() as folder:
                    _run(name, seed, path.parent, (options.runs or Path(folder)).resolve() / f"{name}-{seed}")
                recall = json.loads(path.read_text())["metrics"]["recall_at_1"]
                print(f"{name}, seed {seed}: recall@1 {recall:.4f}", flush=True)


def _run(name: str, seed: int, results: Path, model_dir: Path) -> None:
    """Trains and scores an experiment with a seed, and keeps its scores."""
    params = json.loads((ROOT / "experiments" / name / "params.json").read_text())
    params.pop("$schema", None)
    params["seed"] = seed
    if isinstance(params.get("holdout_classes"), int):
        params["split_seed"] = seed
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps(params))
    _call("train.py", model_dir)
    results.mkdir(parents=True, exist_ok=True)
    baselines = ("--baselines",) if seed == 1 or "split_seed" in params else ()
    for protocol, arguments in PROTOCOLS.get(name, {}).items():
        _call("evaluate.py", model_dir, *arguments, *baselines)
        shutil.copy(model_dir / "eval" / f"{protocol}.json", results)
    if baselines:
        _call("evaluate.py", model_dir, *baselines)
    shutil.copy(model_dir / "metrics.json", results)


def _call(script: str, model_dir: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / script, "--model_dir", model_dir, *arguments], cwd=ROOT, check=True)


def read_runs(file: str = "metrics") -> dict[str, list[Run]]:
    """Returns what a file of all runs says, by experiment, those of an experiment by seed."""
    runs: dict[str, list[Run]] = {}
    for path in sorted(RESULTS.glob(f"*/*/{file}.json")):
        runs.setdefault(path.parts[-3], []).append(json.loads(path.read_text()))
    for of_one in runs.values():
        of_one.sort(key=lambda run: run["params"]["seed"])
    return runs


def page() -> str:
    """Returns the page as Markdown: what `compare_experiments.py` prints, and what it does not."""
    compared = subprocess.run([sys.executable, *COMPARE], cwd=ROOT, check=True, capture_output=True, text=True)
    protocols = [line for name in ("one_shot", "episodes") for line in protocol_tables(name, read_runs(name))]
    more = more_tables(read_runs()) + "".join(f"{line}\n" for line in protocols)
    return f"{_HEAD}`python {' '.join(COMPARE)}`:\n\n{compared.stdout}\n{more}"


def protocol_tables(protocol: str, runs: dict[str, list[Run]]) -> list[str]:
    """Returns what a published protocol says of each experiment, beside what costs no training, as Markdown."""
    lines = []
    for name, of_one in runs.items():
        arguments = " ".join(PROTOCOLS[name][protocol])
        lines += ["", f"`{name}`, `evaluate.py {arguments}`, mean ± standard deviation over {len(of_one)} seeds:", ""]
        contenders = _contenders(of_one)
        lines += [f"| | {' | '.join(contenders)} |", "|---" * (1 + len(contenders)) + "|"]
        intervals = ("_low95", "_high95")
        rows = [
            row
            for row in of_one[0]["metrics"]
            if not row.startswith(("num_", "global_")) and not row.endswith(intervals)
        ]
        for row in rows:
            lines.append(f"| {row} | {' | '.join(_mean(scores, row) for scores in contenders.values())} |")
        each = ", ".join(f"{run['params']['seed']}: {run['metrics'][rows[0]]:.4f}" for run in of_one)
        lines += ["", f"{rows[0]} of each seed: {each}."]
    return lines


def more_tables(runs: dict[str, list[Run]]) -> str:
    """Returns the accuracy of each run, and what costs no training beside the trained networks, as Markdown."""
    lines = ["1-NN accuracy of each run:", "", "| experiment | seed: 1-NN accuracy |", "|---|---|"]
    for name, of_one in runs.items():
        scores = {run["params"]["seed"]: run["metrics"]["knn_accuracy"] for run in of_one}
        each = ", ".join(f"{seed}: {score:.4f}" for seed, score in scores.items() if score is not None)
        lines.append(f"| `{name}` | {each or 'no test image is of a class that was learned'} |")
    for name, of_one in runs.items():
        if "unseen/num_images" in of_one[0]["metrics"]:
            lines += ["", *_unseen(name, of_one)]
        elif "baselines" in of_one[0]:
            title = f"`{name}`, all test images, mean ± standard deviation over {len(of_one)} seeds:"
            lines += ["", title, "", *_beside_baselines(of_one, "")]
    return "\n".join(lines) + "\n"


def _unseen(name: str, runs: Sequence[Run]) -> list[str]:
    """Returns the tables of the unseen classes: beside the baselines, and of each run."""
    # Evaluations of an older version scored the images of the test split alone, where all of these classes are new.
    of_which = "" if "unseen/knn_images" in runs[0]["metrics"] else " (of their images, those in the test split)"
    seeds = "choices of them" if isinstance(runs[0]["params"].get("holdout_classes"), int) else "seeds"
    lines = [
        f"`{name}`, the unseen classes alone{of_which}, mean ± standard deviation over {len(runs)} {seeds}:",
        "",
        *_beside_baselines(runs, "unseen/"),
        "",
        "and each with its 95 % interval over the images:",
        "",
        "| seed | 1-NN accuracy | recall@1 | MAP@R | EER |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        columns = [
            _with_interval(run["metrics"], f"unseen/{metric}")
            for metric in ("knn_accuracy", "recall_at_1", "map_at_r", "eer")
        ]
        lines.append(f"| {run['params']['seed']} | {' | '.join(columns)} |")
    return lines


def _with_interval(scores: dict[str, float], metric: str) -> str:
    if scores[metric] is None:
        return ""
    return f"{scores[metric]:.4f} [{scores[f'{metric}_low95']:.4f}, {scores[f'{metric}_high95']:.4f}]"


def _beside_baselines(runs: Sequence[Run], prefix: str) -> list[str]:
    metrics = [prefix + metric for metric in ("knn_accuracy", "recall_at_1", "map_at_r", "roc_auc", "eer")]
    contenders = _contenders(runs)
    lines = ["| | 1-NN accuracy | recall@1 | MAP@R | ROC AUC | EER |", "|---|---|---|---|---|---|"]
    for contender, scores in contenders.items():
        lines.append(f"| {contender} | {' | '.join(_mean(scores, metric) for metric in metrics)} |")
    return lines


def _contenders(runs: Sequence[Run]) -> dict[str, list[dict[str, float]]]:
    """Returns the scores of each run by who has them: the trained network, and what costs no training."""
    contenders = {"the trained network": [run["metrics"] for run in runs]}
    for baseline in runs[0].get("baselines", {}):
        contenders[baseline.replace("_", " ")] = [run["baselines"][baseline] for run in runs if "baselines" in run]
    return contenders


def _mean(scores: Sequence[dict[str, float]], metric: str) -> str:
    values = [score[metric] for score in scores if score[metric] is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    main()
