"""The evaluations during training: what is written is read again, whatever state the file is in."""

import json
import math
import threading

import pytest

from model.scoring.evaluations import Evaluations


@pytest.fixture
def path(tmp_path):
    return tmp_path / "validation" / "evaluations.json"


def append(path, *steps, forget_after=None, **scores):
    """Opens the file as a run that starts, and appends an evaluation at each of these steps."""
    evaluations = Evaluations.read(path)
    if forget_after is not None:
        evaluations.forget_after(forget_after)
    for step in steps:
        evaluations.append({"global_step": step, "accuracy": step / 8, **scores})


def test_the_file_is_a_list_of_evaluations(path):
    append(path, 1, 2, loss=math.nan)
    append(path, 4, loss=math.inf)
    assert json.loads(path.read_text()) == [
        {"global_step": 1, "accuracy": 0.125, "loss": None},
        {"global_step": 2, "accuracy": 0.25, "loss": None},
        {"global_step": 4, "accuracy": 0.5, "loss": None},
    ]
    assert list(path.parent.iterdir()) == [path]


def test_a_metric_by_step(path):
    assert Evaluations.read(path).values("accuracy") == {}
    append(path, 1, 2)
    append(path, 4, loss=0.5)
    evaluations = Evaluations.read(path)
    assert list(evaluations.values("accuracy").items()) == [(1, 0.125), (2, 0.25), (4, 0.5)]
    losses = evaluations.values("loss")
    assert losses[4] == 0.5 and math.isnan(losses[1]) and math.isnan(losses[2])


def test_not_a_number_is_read_as_such(path):
    append(path, 1, loss=math.nan)
    assert math.isnan(Evaluations.read(path).values("loss")[1])


def test_a_run_that_goes_on_from_an_earlier_step_forgets_what_came_after(path):
    append(path, 10, 20, 30, 40)
    append(path, forget_after=20)
    assert list(Evaluations.read(path).values("accuracy")) == [10, 20, 30, 40]  # nothing was written
    append(path, 25, forget_after=20)
    assert list(Evaluations.read(path).values("accuracy")) == [10, 20, 25]
    append(path, 5, forget_after=0)
    assert list(Evaluations.read(path).values("accuracy")) == [5]


def test_the_same_step_again_replaces_its_evaluation(path):
    append(path, 10, 20, 30)
    append(path, 20, loss=2.0)
    evaluations = Evaluations.read(path)
    assert list(evaluations.values("accuracy")) == [10, 20, 30]
    assert [step for step, loss in evaluations.values("loss").items() if loss == 2.0] == [20]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"{}", b"null", b"5", b'"text"', b"\xff\xfe", b"[5]", b"[[]]", b'["text"]', b"[null]", b"[{}]",
        b'[{"accuracy": 1}]', b'[{"global_step": "1"}]', b'[{"global_step": true}]', b'[{"global_step": 1.5}]',
        b'[{"global_step": -1}]', b'[{"global_step": null}]', b'[{"global_step": []}]',
        b'[{"global_step": 1, "accuracy": "high"}]', b'[{"global_step": 1, "accuracy": [1]}]',
        b'[{"global_step": 2}, {"global_step": 1}]', b'[{"global_step": 1}, {"global_step": 1}]',
        b'[{"global_step": 1, "accuracy": ' + b"9" * 400 + b"}]", b"[" * 100_000, b'[{"global_step": 1}',
        b'[{"global_step": ' + b"9" * 5000 + b"}]",
    ],
)  # fmt: skip
def test_what_is_damaged_holds_no_evaluations_and_is_replaced(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert Evaluations.read(path).values("accuracy") == {}
    append(path, 3)
    assert Evaluations.read(path).values("accuracy") == {3: 0.375}


def test_a_folder_of_that_name_holds_no_evaluations(path):
    path.mkdir(parents=True)
    assert Evaluations.read(path).values("accuracy") == {}


def test_numbers_of_others_are_finite_or_nan(path):
    path.parent.mkdir()
    path.write_text('[{"global_step": 1, "a": Infinity, "b": NaN, "c": 1e999, "d": 2}]')
    evaluations = Evaluations.read(path)
    assert all(math.isnan(evaluations.values(name)[1]) for name in "abc") and evaluations.values("d") == {1: 2.0}


def test_who_reads_while_it_is_written_sees_all_or_nothing_new(path):
    """A half-written file would be read as one without evaluations."""
    append(path, 0)
    writer = threading.Thread(target=append, args=(path, *range(1, 101)))
    writer.start()
    seen = [0]
    while writer.is_alive():
        seen.append(max(Evaluations.read(path).values("accuracy"), default=-1))
    writer.join()
    assert seen == sorted(seen) and len(Evaluations.read(path).values("accuracy")) == 101
