"""The committed results: the table says what the files say, and every file is of an experiment that is there."""

import json

import pytest

from benchmarks import recipes


def run(name, seed, accuracy, **more):
    metrics = {"knn_accuracy": accuracy, "recall_at_1": 0.5, "map_at_r": 0.25, "roc_auc": 0.75, "eer": 0.125}
    metrics |= {f"{metric}_{end}95": value for metric, value in list(metrics.items()) for end in ("low", "high")}
    metrics |= {"num_images": 9.0, **{f"unseen/{metric}": value for metric, value in metrics.items() if more}}
    if more:
        metrics["unseen/num_images"] = 4.0
    return {"experiment": name, "params": {"seed": seed}, "minutes": seed / 2, "metrics": metrics, **more}


def test_the_table_by_hand():
    lines = recipes.tables({"fast": [run("fast", 1, 0.9), run("fast", 3, 0.8)], "one": [run("one", 1, 0.7)]})
    spread = ((0.05**2 + 0.05**2) / (2 - 1)) ** 0.5
    same = "0.5000 ± 0.0000 | 0.2500 ± 0.0000 | 0.1250 ± 0.0000"
    assert f"| `fast` | 2 | 0.8500 ± {spread:.4f} | {same} | 1.0 |" in lines
    assert "| `one` | 1 | 0.7000 | 0.5000 | 0.2500 | 0.1250 | 0.5 |" in lines
    assert "| `fast` | 1: 0.9000, 3: 0.8000 |" in lines


def test_unseen_classes_stand_beside_the_baselines():
    baseline = run("", 0, 0.4, baselines={})["metrics"]
    runs = [run("held_out", seed, 0.9, baselines={"raw_pixels": baseline}) for seed in (1, 2)]
    lines = recipes.tables({"held_out": runs}).splitlines()
    assert any(line.startswith("| the trained network | 0.9000 ± 0.0000 |") for line in lines)
    assert any(line.startswith("| raw pixels | 0.4000 ± 0.0000 |") for line in lines)
    assert any(line.startswith("| 2 | 0.9000 [0.9000, 0.9000] |") for line in lines)


def test_the_committed_table_is_what_the_committed_runs_say():
    """If this fails: python -m benchmarks.recipes table."""
    _, table, _ = recipes._split_at_marks(recipes.README.read_text(encoding="utf-8"))
    assert table == recipes.tables(recipes.read_runs())


@pytest.mark.parametrize("path", sorted(recipes.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_run_is_one_of_the_experiment_as_it_is(path):
    """Somebody who changes an experiment has to run it again."""
    content = json.loads(path.read_text())
    params = json.loads((recipes.ROOT / "experiments" / content["experiment"] / "params.json").read_text())
    params.pop("$schema", None)
    drawn = {"seed": content["params"]["seed"], "split_seed": content["params"].get("split_seed")}
    assert content["params"] == params | {key: value for key, value in drawn.items() if value is not None}
    assert path.stem == f"{content['experiment']}-{drawn['seed']}"
    assert content["minutes"] > 0 and content["metrics"]["knn_accuracy"] > 0.5
