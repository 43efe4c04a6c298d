"""The guard: which steps broke down, what is told of them, and what ends a run."""

import numpy as np
import pytest

from model.params import Params
from model.training.doctor import Batch
from model.training.guard import Broken, Guard


def guard_after(steps, **params):
    """A guard that was told of these steps, each the flags of loss, gradient and weights."""
    guard = Guard(Params(**params))
    for step, flags in steps:
        guard.note(step, Broken(*map(np.int32, flags)))
    return guard


def test_all_is_well():
    guard = guard_after([(1, [0, 0, 0]), (2, [0, 0, 0])])
    assert guard.breakdowns() == [] and guard.broken_steps == 0


def test_the_first_of_several_is_named_and_the_others_counted():
    steps = [(1, [0, 0, 0]), (2, [0, 1, 0]), (3, [1, 1, 0]), (4, [0, 0, 0]), (5, [0, 1, 0])]
    guard = guard_after(steps, learning_rate=0.25)
    (finding,) = guard.breakdowns()
    assert finding.name == "nan" and finding.is_fatal
    assert (
        finding.message == "the gradient is NaN or infinite at step 2 and 2 of the next 3; lower learning_rate (0.25)"
    )
    assert guard.broken_steps == 3
    assert guard.breakdowns() == []  # they have been looked at


def test_what_is_skipped_is_told_once():
    guard = guard_after([(5, [0, 1, 0])], on_nan="skip")
    (finding,) = guard.breakdowns()
    assert not finding.is_fatal
    guard.note(6, Broken(2, 2, 0))  # on both of two devices
    assert guard.breakdowns() == []
    assert guard.broken_steps == 2


def test_broken_weights_are_the_end_even_if_steps_may_be_skipped():
    guard = guard_after([(1, [0, 0, 1]), (2, [1, 1, 1])], on_nan="skip")
    (finding,) = guard.breakdowns()
    assert finding.is_fatal
    assert finding.message.startswith("a weight is NaN or infinite at step 1 and 1 of the next 1;")


def test_one_broken_step_after_the_other_is_the_end():
    guard = Guard(Params(on_nan="skip"))
    for step in range(1, 100):
        guard.note(step, Broken(0, int(step != 40), 0))
        is_fatal = [finding.is_fatal for finding in guard.breakdowns()]
        # 39 in a row, one that is well, and then the 50th in a row is step 90.
        assert is_fatal == ([False] if step == 1 else [True] if step >= 90 else [])


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_collapse_ends_a_run_if_asked(on_collapse):
    guard = Guard(Params(on_collapse=on_collapse))
    labels = np.arange(8) % 2
    guard.begin(Batch(1, {"loss": 0.5}, np.random.default_rng(0).normal(size=(8, 4)), labels))
    found = [guard.examine(Batch(step, {"loss": 0.5}, np.ones((8, 4)), labels)) for step in (50, 100, 150)]
    assert found[:2] == [[], []]
    assert [(finding.name, finding.is_fatal) for finding in found[2]] == [("collapse", on_collapse == "stop")]
