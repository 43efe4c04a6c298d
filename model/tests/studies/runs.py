"""Runs on disk for tests: a metrics.json as evaluate.py writes it, in a moment."""

from model.common.versions import Provenance
from model.scoring.record import Record
from model.studies.runs import find_runs, pool_runs


def write_run(folder, accuracy, commit="a" * 40, data="d" * 64, seconds=60.0, provenance=True, history=(), **params):
    folder.mkdir(parents=True)
    made = Provenance(commit, commit, {"python": "3"}, "some cores", data, seconds, 1000.0) if provenance else None
    metrics = {"knn_accuracy": accuracy, "eer": 1 - accuracy, "knn_accuracy_low95": 0.1, "knn_accuracy_high95": 0.9}
    digest = f"{accuracy} {params}"  # of what was learned
    params = {"seed": 230, **params}
    record = Record("step-00000001", digest, metrics, params=params, provenance=made, params_history=history)
    record.write(folder / "metrics.json")


def pools_in(folder):
    return pool_runs(find_runs(folder), folder)
