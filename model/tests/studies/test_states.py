"""What became of a run, whatever files are in its folder."""

import math

import pytest

from model.common.errors import UserError
from model.scoring.record import Record
from model.studies.states import State, read_value, state_of


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ([], State.NEW),
        (["output.log", "search.json"], State.NEW),
        (["params.json"], State.BEGUN),
        (["params.json", "output.log"], State.BEGUN),
        (["params.json", "failed"], State.FAILED),
        (["params.json", "pruned"], State.PRUNED),
        (["params.json", "validation.json"], State.FINISHED),
        (["params.json", "failed", "validation.json"], State.FINISHED),  # it was tried again by hand
    ],
)
def test_files_say_what_became_of_a_run(tmp_path, files, state):
    assert state_of(tmp_path / "nowhere") is State.NEW
    for name in files:
        (tmp_path / name).write_text("")
    assert state_of(tmp_path) is state


def test_what_a_run_reached(tmp_path):
    Record("step-00000001", "0", {"eer": 0.25, "knn_accuracy": math.nan}).write(tmp_path / "validation.json")
    assert read_value(tmp_path, "eer") == 0.25 and math.isnan(read_value(tmp_path, "knn_accuracy"))


@pytest.mark.parametrize("content", [None, "", "{}", '{"metrics": {"eer": 0.5}}'])
def test_a_damaged_result_is_one_line(tmp_path, content):
    path = tmp_path / "validation.json"
    if content is None:
        Record("step-00000001", "0", {"knn_accuracy": 0.5}).write(path)  # of other metrics
    else:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_value(tmp_path, "eer")
    assert str(caught.value) == f"{path}: damaged; delete it, and the search scores this trial again"
