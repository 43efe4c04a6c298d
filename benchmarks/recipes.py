"""Trains the experiments of `experiments/` with several seeds, and writes their results into its README.

    python -m benchmarks.recipes run batch_all cosine --seeds 1 2 3 4 5
    python -m benchmarks.recipes table

`run` trains each experiment in a folder of its own, whose `params.json` is that of the experiment with the seed in it
(and, where classes are held out by number, with the same `split_seed`, so that each run holds out others), and writes
`benchmarks/results/recipes/<experiment>-<seed>.json`: what `metrics.json` holds, and the minutes. A run that has such a
file is not made again. `table` writes what the files say between the two marks of `experiments/README.md`; a test
compares the two.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "recipes"
README = ROOT / "experiments" / "README.md"
BEGIN, END = "<!-- made by: python -m benchmarks.recipes table -->\n", "<!-- end -->\n"

Run = dict[str, Any]


def main() -> None:
    """Runs experiments, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run", help="train and score experiments")
    run.add_argument("experiments", nargs="+", help="names of folders in experiments/")
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    commands.add_parser("table", help="write experiments/README.md")
    options = parser.parse_args()
    for name in getattr(options, "experiments", []):
        if not (ROOT / "experiments" / name / "params.json").is_file():
            parser.error(f"experiments/{name}: no such experiment")
    if options.command == "table":
        before, _, after = _split_at_marks(README.read_text(encoding="utf-8"))
        README.write_text(before + tables(read_runs()) + after, encoding="utf-8")
        return
    for seed in options.seeds:
        for name in options.experiments:
            path = RESULTS / f"{name}-{seed}.json"
            if not path.exists():
                result = _run(name, seed)
                RESULTS.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(result, indent=1) + "\n")
                metrics = result["metrics"]
                print(f"{path.stem:<30}{metrics['knn_accuracy']:.4f}  {result['minutes']:.1f} minutes", flush=True)


def _run(name: str, seed: int) -> Run:
    """Trains and scores an experiment with a seed, and returns what there is to know of it."""
    params = json.loads((ROOT / "experiments" / name / "params.json").read_text())
    params.pop("$schema", None)
    params["seed"] = seed
    if isinstance(params.get("holdout_classes"), int):
        params["split_seed"] = seed
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder, name)
        model_dir.mkdir()
        (model_dir / "params.json").write_text(json.dumps(params))
        started = time.perf_counter()
        _call("train.py", model_dir)
        minutes = (time.perf_counter() - started) / 60
        if "holdout_classes" in params:
            _call("evaluate.py", model_dir, "--baselines")
        scores = json.loads((model_dir / "metrics.json").read_text())
    return {"experiment": name, "minutes": round(minutes, 2), **scores, "params": params}


def _call(script: str, model_dir: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / script, "--model_dir", model_dir, *arguments], cwd=ROOT, check=True)


def read_runs() -> dict[str, list[Run]]:
    """Returns all runs that were made, by experiment, those of an experiment by seed."""
    runs: dict[str, list[Run]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        run = json.loads(path.read_text())
        runs.setdefault(run["experiment"], []).append(run)
    for of_one in runs.values():
        of_one.sort(key=lambda run: run["params"]["seed"])
    return runs


def tables(runs: dict[str, list[Run]]) -> str:
    """Returns the tables as Markdown."""
    lines = [
        "| experiment | seeds | 1-NN accuracy | recall@1 | MAP@R | EER | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_one in runs.items():
        scores = [run["metrics"] for run in of_one]
        columns = [_mean(scores, metric) for metric in ("knn_accuracy", "recall_at_1", "map_at_r", "eer")]
        minutes = statistics.median(run["minutes"] for run in of_one)
        lines.append(f"| `{name}` | {len(of_one)} | {' | '.join(columns)} | {minutes:.1f} |")
    lines += ["", "1-NN accuracy of each run:", "", "| experiment | seed: 1-NN accuracy |", "|---|---|"]
    for name, of_one in runs.items():
        each = ", ".join(f"{run['params']['seed']}: {run['metrics']['knn_accuracy']:.4f}" for run in of_one)
        lines.append(f"| `{name}` | {each} |")
    for name, of_one in runs.items():
        if "unseen/num_images" in of_one[0]["metrics"]:
            lines += ["", *_unseen(name, of_one)]
    return "\n".join(lines) + "\n"


def _unseen(name: str, runs: Sequence[Run]) -> list[str]:
    """Returns the table of the unseen classes beside the baselines."""
    lines = [
        f"`{name}`, the unseen classes alone, mean ± standard deviation over {len(runs)} choices of them:",
        "",
        "| | 1-NN accuracy | recall@1 | MAP@R | ROC AUC | EER |",
        "|---|---|---|---|---|---|",
    ]
    metrics = [f"unseen/{metric}" for metric in ("knn_accuracy", "recall_at_1", "map_at_r", "roc_auc", "eer")]
    contenders = {"the trained network": [run["metrics"] for run in runs]}
    for baseline in runs[0].get("baselines", {}):
        contenders[baseline.replace("_", " ")] = [run["baselines"][baseline] for run in runs]
    for contender, scores in contenders.items():
        lines.append(f"| {contender} | {' | '.join(_mean(scores, metric) for metric in metrics)} |")
    lines += [
        "",
        "and each choice with its 95 % interval over the images:",
        "",
        "| seed | 1-NN accuracy | MAP@R | EER |",
    ]
    lines.append("|---|---|---|---|")
    for run in runs:
        scores = run["metrics"]
        columns = [
            f"{scores[f'unseen/{metric}']:.4f} [{scores[f'unseen/{metric}_low95']:.4f}, "
            f"{scores[f'unseen/{metric}_high95']:.4f}]"
            for metric in ("knn_accuracy", "map_at_r", "eer")
        ]
        lines.append(f"| {run['params']['seed']} | {' | '.join(columns)} |")
    return lines


def _mean(scores: Sequence[dict[str, float]], metric: str) -> str:
    values = [score[metric] for score in scores if score[metric] is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _split_at_marks(text: str) -> tuple[str, str, str]:
    """Returns what stands before the tables, mark included, the tables, and what stands after them."""
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"Expected the marks of the tables in {README}. Received: a file without them")
    return before + begin, table, end + after


if __name__ == "__main__":
    main()
