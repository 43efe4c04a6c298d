"""What processes agree on, as threads that make each step alone: what a collective does is not tested here."""

import dataclasses
import functools
import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import start
from model.common.errors import Interrupted, PeerLost, UserError
from model.common.peers import Peers
from model.data.input_fn import train_input_fn, validation_input_fn
from model.data.partition import divide
from model.experiment import open_experiment
from model.tests.experiments import digits, final_tensors, write_params
from model.tests.images import save
from model.tests.machines import line_of, together
from model.tests.training.learners import bits_of, linear_learner
from model.tests.training.test_estimator import quick
from model.training import agreement, checkpoints
from model.training.estimator import EvalSpec, RunConfig, TrainSpec
from model.training.learner import MinedRound, PastBatches
from model.training.run_state import RunState

VALIDATED = {"validation_size": 0.2, "batch_size": 64}


# ------------------------------------------------------------------------------------------------- the same learner


def learner_of(weights_seed, **state):
    learner = linear_learner(keras.optimizers.Adam(0.01, name="adam"), weights_seed)
    learner.state = dataclasses.replace(RunState(), **state)
    return learner


def test_all_begin_with_the_learner_of_the_chief(connect, tmp_path):
    processes = connect(3)
    learners = [learner_of(seed, global_step=7 - seed) for seed in range(3)]
    learners[0].optimizer.iterations.assign(7)
    learners[0].mined = MinedRound(3, np.arange(6, dtype=np.int32).reshape(2, 3))
    learners[0].memory = PastBatches(np.array([1, 2], np.int32), np.ones((2, 3), np.float32))
    assert bits_of(learners[0].network.variables) != bits_of(learners[1].network.variables)
    begin = [
        functools.partial(agreement.begin_alike, peers, learner, tmp_path)
        for peers, learner in zip(processes, learners, strict=True)
    ]
    assert together(*begin) == [None] * 3
    for learner in learners[1:]:
        assert bits_of(learner.network.variables) == bits_of(learners[0].network.variables)
        assert bits_of(learner.optimizer.variables) == bits_of(learners[0].optimizer.variables)
        assert learner.state == learners[0].state
        assert learner.mined.number == 3 and np.array_equal(learner.mined.batches, learners[0].mined.batches)
        assert np.array_equal(learner.memory.embeddings, learners[0].memory.embeddings)


def test_a_process_that_does_not_take_it_over_is_found(connect, tmp_path, monkeypatch):
    chief, worker = connect(2)
    spoilt = learner_of(1, global_step=7)
    monkeypatch.setattr(spoilt, "restore", lambda checkpoint: None)
    errors = together(
        lambda: agreement.begin_alike(chief, learner_of(0, global_step=7), tmp_path),
        lambda: agreement.begin_alike(worker, spoilt, tmp_path),
    )
    assert len({str(error) for error in errors}) == 1
    assert isinstance(errors[0], UserError)
    assert str(errors[0]).startswith("the digest of the weights is ")
    assert f"at process 2 of 2 ({worker.cluster.addresses[1]}), and" in str(errors[0])


def test_state_of_chief(connect):
    chief, worker = connect(2)
    state = RunState(global_step=9).after_evaluation("knn_accuracy", 0.25, 100)
    assert together(
        lambda: agreement.state_of_chief(chief, state), lambda: agreement.state_of_chief(worker, RunState())
    ) == [state, state]


def test_computed_by_chief(connect):
    chief, worker = connect(2)
    found = together(
        lambda: agreement.computed_by_chief(chief, lambda: np.array([[1, 2], [3, 4]])),
        lambda: agreement.computed_by_chief(worker, lambda: pytest.fail("it computes for itself")),
    )
    for numbers in found:
        assert numbers.dtype == np.int32 and numbers.tolist() == [1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------------- who is lost


@pytest.mark.parametrize("error", agreement._BROKEN_COLLECTIVES)
def test_broken_collectives_are_one_line_where_nobody_is_lost(connect, error, monkeypatch):
    chief, _ = connect(2)
    waited = []
    monkeypatch.setattr(chief, "wait_for_loss", lambda: waited.append(True))
    said = "could not reduce a step together: Collective ops is aborted"
    with pytest.raises(PeerLost, match=said), agreement.naming_the_lost(chief):
        raise error(None, None, "Collective ops is aborted")
    assert waited


def test_errors_of_one_process_are_not_touched(connect):
    chief, _ = connect(2)
    for error in (tf.errors.InvalidArgumentError(None, None, "x"), ValueError("x"), UserError("x")):
        with pytest.raises(type(error)), agreement.naming_the_lost(chief):
            raise error


# ------------------------------------------------------------------------------------------------------ what differs


def test_what_is_compared_before_anything_starts(tmp_path, connect):
    one, other = (write_params(tmp_path / name, margin=margin) for name, margin in (("one", 0.5), ("other", 0.25)))
    facts = [start._facts_of(open_experiment(folder, None), "float32") for folder in (one, other)]
    chief, worker = connect(2)
    errors = together(lambda: chief.compare(facts[0], "same"), lambda: worker.compare(facts[1], "same"))
    assert {str(error) for error in errors} == {
        f"'margin' in params.json is 0.25 at {worker.cluster.name(1)}, and 0.5 at the chief; same"
    }
    assert facts[0]["the digest of the training images"] == digits().train_sha256
    changed = {name for name in facts[0] if facts[0][name] != facts[1][name]}
    assert changed == {"'margin' in params.json"}


def test_other_images_are_found(tmp_path):
    model_dir = write_params(tmp_path / "mine", dataset="mine", batch_size=4)
    facts = []
    for changed in (0, 1):  # one pixel of one image
        noise = np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8)
        noise[5, 3, 3] += changed
        for number, pixels in enumerate(noise):
            save(tmp_path / str(changed) / "cd"[number % 2] / f"{number}.png", pixels)
        facts.append(start._facts_of(open_experiment(model_dir, tmp_path / str(changed)), "float32"))
    assert {name for name in facts[0] if facts[0][name] != facts[1][name]} == {"the digest of the training images"}


# -------------------------------------------------------------------------------------------------------- a whole run


def run_of(peers, folder, max_steps, config=None, **params):
    """Trains the quick experiment as one of several processes; returns the error that ended it, if one did."""
    run = quick(folder, dataclasses.replace(config or RunConfig(5, 10, 5), peers=peers), **params)
    partition = divide(digits(), run.params)
    data = train_input_fn(partition, run.params)
    spec = None
    if partition.validation is not None:
        spec = EvalSpec(lambda: validation_input_fn(partition, run.params), 12, patience=2, name="validation")
    try:
        run._train(TrainSpec(lambda: data, max_steps), spec)
    except (Interrupted, UserError) as error:
        return error
    return None


def train_together(connect, tmp_path, max_steps, **params):
    chief, worker = connect(2)
    return together(
        lambda: run_of(chief, tmp_path / "chief", max_steps, **params),
        lambda: run_of(worker, tmp_path / "worker", max_steps, **params),
    )


OFFLINE = {"triplet_strategy": "offline_semi_hard", "mining_size": 256, "batch_size": 64}


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, OFFLINE])
def test_the_chief_writes_what_a_lone_process_writes_and_the_others_nothing(connect, tmp_path, params):
    assert run_of(Peers.alone(), tmp_path / "alone", 25, **params) is None
    assert train_together(connect, tmp_path, 12, **params) == [None, None]
    assert train_together(connect, tmp_path, 25, **params) == [None, None]  # the other has no checkpoint of its own
    assert final_tensors(tmp_path / "chief") == final_tensors(tmp_path / "alone")
    assert not (tmp_path / "worker").exists()
    assert train_together(connect, tmp_path, 25, **params) == [None, None]  # nothing is left to do


@pytest.mark.slow
def test_all_learn_of_early_stopping(connect, tmp_path):
    params = {**VALIDATED, "learning_rate": 1e-12}  # no evaluation is better than the first
    assert train_together(connect, tmp_path, 1000, **params) == [None, None]
    (newest,) = checkpoints.list_checkpoints(tmp_path / "chief")[-1:]
    assert checkpoints.step_of(newest) == 36
    assert len(json.loads((tmp_path / "chief" / "validation" / "evaluations.json").read_text())) == 3
    assert not (tmp_path / "worker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("asks", [0, 1])
def test_one_that_is_asked_to_stop_stops_all(connect, tmp_path, asks, monkeypatch):
    processes = connect(2)
    stops_after, asked = processes[asks].stops_after, []

    def ask(step):
        if step == 7:
            processes[asks].ask_to_stop(15)
            asked.append(step)
        return stops_after(step)

    monkeypatch.setattr(processes[asks], "stops_after", ask)
    names = ("chief", "worker")
    errors = together(*(lambda i=i: run_of(processes[i], tmp_path / names[i], 10_000) for i in range(2)))
    (newest,) = checkpoints.list_checkpoints(tmp_path / "chief")[-1:]
    step = checkpoints.step_of(newest)
    assert asked and 7 <= step < 10_000
    for error in errors:
        assert isinstance(error, Interrupted) and error.exit_code == 143
        assert str(error) == f"Stopped at step {step}, which is saved; the same command goes on."


def test_an_error_of_the_chief_is_the_line_of_the_others(connect, tmp_path):
    chief, worker = connect(2)
    (tmp_path / "chief").mkdir()
    (tmp_path / "chief" / "checkpoints").touch()  # where there should be a folder

    def lead():
        with chief:
            error = run_of(chief, tmp_path / "chief", 5)
            raise error

    def follow():
        run_of(worker, tmp_path / "worker", 5)  # waits for what never comes

    threading.Thread(target=follow, daemon=True).start()
    (error,) = together(lead)
    assert isinstance(error, UserError)
    assert line_of(worker) == f"{chief.cluster.name(0)} has failed: {error}"
