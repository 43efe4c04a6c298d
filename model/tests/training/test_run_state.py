"""The state of a run: its best evaluation, under which parameters each step was made, how long the steps took."""

import dataclasses
import json
import math

import numpy as np
import pytest

from model.params import Params
from model.training import checkpoints
from model.training.run_state import RunState


def after(steps):
    return RunState().after_step(steps)


# ------------------------------------------------------------------------------------------- the best evaluation


@pytest.mark.parametrize("num_images", [3, 30, 10**12])
def test_the_best_is_the_last_that_is_as_good_as_the_highest(num_images):
    """Against a look back at all values: with ties, and with values that are no numbers, or not from 0 to 1."""
    random = np.random.default_rng(0)
    for _ in range(20):
        values = random.choice([0.0, -0.25, 0.5, 0.7, 0.75, 0.8, 1.0, 1.5, math.nan], size=12)
        state = RunState()
        for count, value in enumerate(values.tolist(), 1):
            state = state.after_step(10 * count).after_evaluation("knn_accuracy", value, num_images)
            numbers = [-math.inf if math.isnan(other) else other for other in values[:count].tolist()]
            best = max(numbers)
            first = numbers.index(best)
            deviation = (best * (1 - best)) ** 0.5 if 0 < best < 1 else 0.0
            as_good = [i for i in range(first, count) if numbers[i] >= best - deviation / num_images**0.5]
            assert state.best_value == best
            assert state.best_step == (0 if best == -math.inf else 10 * (as_good[-1] + 1))
            assert state.evaluations_without_best == (count if best == -math.inf else count - 1 - first)


def test_a_standard_error_of_an_accuracy_by_hand():
    """0.8 of 100 images: sqrt(0.8 x 0.2 / 100) = 0.04."""
    state = after(10).after_evaluation("knn_accuracy", 0.8, 100)
    for value, step in ((0.7599, 10), (0.7601, 20)):
        assert state.after_step(20).after_evaluation("knn_accuracy", value, 100).best_step == step
    # Not as good as what was as good: it is the highest that counts.
    later = state.after_step(20).after_evaluation("knn_accuracy", 0.77, 100).after_step(30)
    assert later.after_evaluation("knn_accuracy", 0.75, 100).best_step == 20


def test_values_of_two_metrics_are_not_compared():
    state = (
        after(10).after_evaluation("knn_accuracy", 0.9, 100).after_step(20).after_evaluation("knn_accuracy", 0.8, 100)
    )
    other = state.after_step(30).after_evaluation("recall_at_1", 0.1, 100)
    assert (other.watched_metric, other.best_value, other.best_step) == ("recall_at_1", 0.1, 30)
    assert other.evaluations_without_best == 0
    undefined = state.after_step(30).after_evaluation("recall_at_1", math.nan, 100)
    assert (undefined.best_value, undefined.best_step, undefined.evaluations_without_best) == (-math.inf, 0, 1)


def test_a_forgotten_best_leaves_where_the_run_is():
    state = after(10).after_evaluation("knn_accuracy", 0.9, 100).after_time(5, 1.0)
    assert state.without_best() == after(10).after_time(5, 1.0)


# ------------------------------------------------------------------------------------------- the parameters


def in_force(state, step):
    """What the history says of a step: the values that were set last before it was made."""
    found = {}
    for entry in state.changes:
        if entry["from_step"] < step:
            found |= entry["params"]
    return found


def test_each_step_is_told_the_parameters_that_it_was_made_under():
    """Many resumes, each under parameters drawn anew, against the plain list of them."""
    random = np.random.default_rng(0)
    choices = {"learning_rate": [0.1, 0.01], "margin": [0.5, 0.25], "batch_size": [32, 64], "seed": [1, 2, 3]}
    for _ in range(20):
        made_under, state, params = [], RunState(), None
        for _ in range(6):
            drawn = {name: values[random.integers(len(values))] for name, values in choices.items()}
            before, params = params, Params(**drawn)
            state = state.under(before or params, params)
            steps = int(random.integers(1, 4))
            made_under += [drawn] * steps
            state = state.after_step(len(made_under))
        changed = {name for name in choices if len({drawn[name] for drawn in made_under}) > 1}
        for step, drawn in enumerate(made_under, 1):
            assert in_force(state, step) == {name: drawn[name] for name in changed}
        steps_of_entries = [entry["from_step"] for entry in state.changes]
        assert steps_of_entries == sorted(set(steps_of_entries))


def test_two_changes_by_hand():
    """The second one is of another parameter: what that was before belongs to the start of the run."""
    first, second = Params(), Params(learning_rate=0.5)
    third = Params(learning_rate=0.5, triplet_strategy="batch_hard", margin="soft")
    state = after(10).under(first, second).after_step(25).under(second, third).after_step(30)
    assert list(state.changes) == [
        {"from_step": 0, "params": {"learning_rate": 0.001, "triplet_strategy": "batch_all", "margin": 0.5}},
        {"from_step": 10, "params": {"learning_rate": 0.5}},
        {"from_step": 25, "params": {"triplet_strategy": "batch_hard", "margin": "soft"}},
    ]
    assert state.global_step == 30


def test_a_run_without_changes_has_no_history():
    state = after(10)
    assert state.under(Params(), Params()) is state
    assert list(state.changes) == []


@pytest.mark.parametrize(
    "changes", [{"save_summary_steps": 7}, {"save_checkpoints_steps": 7}, {"keep_checkpoint_max": 7}]
)
def test_when_something_is_written_leaves_no_trace(changes):
    assert after(10).under(Params(), Params(**changes)) == after(10)
    (_, entry) = after(10).under(Params(), Params(margin=0.25, **changes)).changes
    assert entry == {"from_step": 10, "params": {"margin": 0.25}}


def test_a_longer_run_is_another_one_only_if_the_learning_rate_depends_on_its_end():
    assert after(10).under(Params(num_epochs=20), Params(num_epochs=40)) == after(10)
    cosine = {"learning_rate_schedule": "cosine"}
    state = after(10).under(Params(num_epochs=20, **cosine), Params(num_epochs=40, **cosine))
    assert list(state.changes) == [
        {"from_step": 0, "params": {"num_epochs": 20}},
        {"from_step": 10, "params": {"num_epochs": 40}},
    ]


# ------------------------------------------------------------------------------------------- the time


def test_all_steps_take_as_long_as_those_that_were_timed():
    state = RunState()
    assert state.train_seconds is None
    state = state.after_step(1)  # compiles
    assert state.train_seconds is None
    state = state.after_step(41).after_time(40, 10.0).after_step(101).after_time(50, 12.5)  # 10 go into a kill
    assert (state.timed_steps, state.timed_seconds) == (90, 22.5)
    assert state.train_seconds == 101 * 0.25


# ------------------------------------------------------------------------------------------- in a checkpoint

FULL = RunState(
    2**40, "map_at_r", 1 / 3, 2**33, 7, "ab" * 32, "größer als 1", 123456789, 1e-9,
    json.dumps([{"from_step": 0, "params": {"margin": "soft"}}]), 2,
)  # fmt: skip


@pytest.mark.parametrize("state", [RunState(), FULL, dataclasses.replace(FULL, best_value=-1e308)])
def test_a_checkpoint_gives_back_what_it_was_given(tmp_path, state):
    assert RunState.from_tensors(state.to_tensors()) == state
    read = checkpoints.load(checkpoints.save(tmp_path, state.global_step, state.to_tensors(), keep=1)).tensors
    assert RunState.from_tensors(read) == state
    types = {field.name: field.type for field in dataclasses.fields(RunState)}
    assert {name: type(value) for name, value in dataclasses.asdict(RunState.from_tensors(read)).items()} == types


def test_a_checkpoint_of_another_version():
    """One that knew less, and one that knew more."""
    tensors = FULL.to_tensors()
    more = {**tensors, "run/mood": np.array(b"fine"), "run/params": np.array(b"{}"), "global_step": np.array(3)}
    assert RunState.from_tensors(more) == FULL
    for name in tensors:
        less = {other: tensor for other, tensor in tensors.items() if other != name}
        field = name.removeprefix("run/")
        assert RunState.from_tensors(less) == dataclasses.replace(FULL, **{field: getattr(RunState(), field)})
    assert RunState.from_tensors({}) == RunState()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, b"text") for name in ("global_step", "best_value", "best_step", "timed_seconds")),
        *((name, 7) for name in ("watched_metric", "best_value", "params_history")),
        *((name, -1) for name in ("global_step", "best_step", "evaluations_without_best", "timed_steps", "devices")),
        *((name, [1, 2]) for name in ("best_step", "train_sha256")),
        ("best_step", 1.0), ("best_step", True), ("watched_metric", b"\xff"),
        *(("timed_seconds", value) for value in (-1.0, math.nan, math.inf)),
        *(("best_value", value) for value in (math.nan, math.inf)),
        *(("params_history", value) for value in (b"", b"{", b"5", b"[5]", b'["a"]', b"[{}]", b"[" * 10**5)),
        ("params_history", b'[{"from_step": "1", "params": {}}]'),
    ],
    ids=str,
)  # fmt: skip
def test_tensors_that_no_run_has_saved_are_no_state(field, value):
    tensors = {**dataclasses.replace(FULL, best_step=5, best_value=0.5).to_tensors(), f"run/{field}": np.array(value)}
    with pytest.raises(ValueError, match=r".+"):
        RunState.from_tensors(tensors)
