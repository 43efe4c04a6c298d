"""The committed results: the table says what the files say, and every file is of an experiment that is there."""

import json
import re

import numpy as np
import pytest

from benchmarks import recipes


def run(seed, accuracy, **more):
    metrics = {"knn_accuracy": accuracy, "recall_at_1": 0.5, "map_at_r": 0.25, "roc_auc": 0.75, "eer": 0.125}
    metrics |= {f"{metric}_{end}95": value for metric, value in list(metrics.items()) for end in ("low", "high")}
    metrics |= {"num_images": 9.0, **{f"unseen/{metric}": value for metric, value in metrics.items() if more}}
    if more:
        metrics["unseen/num_images"] = 4.0
    return {"params": {"seed": seed, "holdout_classes": 2}, "metrics": metrics, **more}


def test_each_run_is_listed():
    lines = recipes.more_tables({"fast": [run(1, 0.9), run(3, 0.8)], "one": [run(1, 0.7)]})
    assert "| `fast` | 1: 0.9000, 3: 0.8000 |" in lines
    assert "| `one` | 1: 0.7000 |" in lines


def test_unseen_classes_stand_beside_the_baselines():
    baseline = run(0, 0.4, baselines={})["metrics"]
    runs = [run(seed, accuracy, baselines={"raw_pixels": baseline}) for seed, accuracy in ((1, 0.9), (2, 0.8))]
    lines = recipes.more_tables({"held_out": runs}).splitlines()
    spread = ((0.05**2 + 0.05**2) / (2 - 1)) ** 0.5
    assert any(line.startswith(f"| the trained network | 0.8500 ± {spread:.4f} |") for line in lines)
    assert any(line.startswith("| raw pixels | 0.4000 ± 0.0000 |") for line in lines)
    assert any(line.startswith("| 2 | 0.8000 [0.8000, 0.8000] | 0.5000 [0.5000, 0.5000] |") for line in lines)


def test_classes_that_are_all_unseen_have_no_accuracy():
    """As of a data set whose test classes are new, which holds out none."""
    runs = [run(seed, 0.9, baselines={}) for seed in (1, 2)]
    for one in runs:
        del one["params"]["holdout_classes"]
        one["metrics"] |= dict.fromkeys(["unseen/knn_accuracy", "knn_accuracy"])
    lines = recipes.more_tables({"new": runs}).splitlines()
    assert any(line.startswith("`new`, the unseen classes alone") and line.endswith("over 2 seeds:") for line in lines)
    assert "| `new` | no test image is of a class that was learned |" in lines
    assert any(line.startswith("| 1 |  | 0.5000 [0.5000, 0.5000] |") for line in lines)


def test_all_test_images_stand_beside_the_baselines_where_no_class_is_held_out():
    seen = {name: value for name, value in run(0, 0.4)["metrics"].items() if not name.startswith("unseen/")}
    runs = [{**run(seed, 0.9), "baselines": {"pca": seen}} for seed in (1, 2)]
    lines = recipes.more_tables({"photos": runs}).splitlines()
    assert "`photos`, all test images, mean ± standard deviation over 2 seeds:" in lines
    assert "| pca | 0.4000 ± 0.0000 | 0.5000 ± 0.0000 | 0.2500 ± 0.0000 | 0.7500 ± 0.0000 | 0.1250 ± 0.0000 |" in lines
    assert not any("unseen" in line for line in lines)


def test_published_protocols_stand_beside_the_baselines():
    def of(seed, error):
        metrics = {"global_step": 9.0, "num_runs": 2.0, "error": error, "error_low95": 0.0, "error/run01": error + 0.1}
        baseline = {name: 0.8 if name == "error" else value for name, value in metrics.items() if name != "global_step"}
        return {"params": {"seed": seed}, "metrics": metrics, "baselines": {"raw_pixels": baseline}}

    lines = recipes.protocol_tables("one_shot", {"omniglot": [of(1, 0.02), of(4, 0.03)]})
    assert lines[1].startswith("`omniglot`, `evaluate.py --one_shot data/omniglot/one_shot`, mean ± standard deviation")
    assert lines[3:5] == ["| | the trained network | raw pixels |", "|---|---|---|"]
    assert lines[5] == "| error | 0.0250 ± 0.0071 | 0.8000 ± 0.0000 |"
    assert lines[6].startswith("| error/run01 | 0.1250 ± 0.0071 |")
    assert lines[-1] == "error of each seed: 1: 0.0200, 4: 0.0300."
    assert not any("num_" in line or "low95" in line for line in lines)


def test_the_committed_table_is_what_the_committed_runs_say():
    """If this fails: python -m benchmarks.recipes table."""
    assert recipes.TABLE.read_text(encoding="utf-8") == recipes.page()


def test_the_results_in_the_readme_are_those_of_the_committed_runs():
    """Mean and standard deviation over the seeds, worked out here from the files."""
    rows = re.findall(r"^\| `(\w+)`: .* \| (.*) \| (.*) \| (\d+) \|$", (recipes.ROOT / "README.md").read_text(), re.M)
    assert "mnist_best" in {name for name, *_ in rows}
    runs = recipes.read_runs()
    for name, *told, num_seeds in rows:
        metrics = [run["metrics"] for run in runs[name]]
        assert int(num_seeds) == len(metrics)
        for metric, said in zip(("knn_accuracy", "recall_at_1"), told, strict=True):
            values = [scores[metric] for scores in metrics]
            assert said == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}", (name, metric)


def test_the_results_beside_the_experiments_are_those_of_the_committed_runs():
    text = (recipes.ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (\d+) \| (.*?) \| (.*?) \| (.*?) \|", text, re.M)
    runs = recipes.read_runs()
    assert len(rows) > 10
    for name, minutes, num_seeds, *told in rows:
        assert int(num_seeds) == len(runs[name])
        seconds = [run["provenance"]["train_seconds"] for run in runs[name] if "provenance" in run]
        assert minutes == f"{np.median(seconds) / 60:.1f}", name
        for metric, said in zip(("knn_accuracy", "map_at_r", "eer"), told, strict=True):
            values = [run["metrics"][metric] for run in runs[name]]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            assert said == f"{np.mean(values):.4f}{spread}", (name, metric)


@pytest.mark.parametrize(
    "path", sorted(recipes.RESULTS.rglob("metrics.json")), ids=lambda path: "-".join(path.parts[-3:-1])
)
def test_a_committed_run_is_one_of_the_experiment_as_it_is(path):
    """Somebody who changes an experiment has to run it again."""
    name, seed, _ = path.parts[-3:]
    content = json.loads(path.read_text())
    params = json.loads((recipes.ROOT / "experiments" / name / "params.json").read_text())
    params.pop("$schema", None)
    drawn = {"seed": content["params"]["seed"], "split_seed": content["params"].get("split_seed")}
    assert content["params"] == params | {key: value for key, value in drawn.items() if value is not None}
    assert seed == f"seed={drawn['seed']}"
    assert content["metrics"]["recall_at_1"] > 0.5
