"""train.py of several processes as users start it: two real ones, over a stop to the end; and one line for mistakes.

Kills are among the proofs.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import train
from model.common import cli
from model.common.commands import ROOT
from model.common.errors import PeerLost
from model.data.input_fn import train_input_fn, validation_input_fn
from model.data.partition import divide
from model.tests.experiments import digits, estimator, final_tensors, write_params
from model.tests.machines import free_addresses, tf_config
from model.training import checkpoints
from model.training.estimator import EvalSpec, RunConfig, TrainSpec, train_and_evaluate

# Batch normalization over the images of all, augmentation, and a learning rate so high that early stopping comes soon.
PARAMS = {
    "use_batch_norm": True, "augmentation": "affine", "learning_rate": 0.03, "num_epochs": 30,
    "validation_size": 0.2, "evaluate_every_epochs": 1, "early_stopping_patience": 1, "save_checkpoints_steps": 5,
}  # fmt: skip


class Process:
    """One of two processes, each with a folder of its own, as on two machines that share nothing."""

    def __init__(self, model_dir, addresses, index, *arguments):
        self.model_dir = model_dir
        command = [sys.executable, ROOT / "train.py", "--model_dir", model_dir, *arguments]
        environment = {**os.environ, "TF_CONFIG": tf_config(addresses, index)}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # it has to keep TensorFlow quiet by itself
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)

    def wait_for_step(self, step):
        """Waits until a checkpoint of this step or a later one is there."""
        while not [p for p in checkpoints.list_checkpoints(self.model_dir) if checkpoints.step_of(p) >= step]:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def end(self):
        """Its exit code and the last line that it said; there was no traceback."""
        _, stderr = self.process.communicate(timeout=120)
        assert "Traceback" not in stderr, stderr
        return self.process.returncode, stderr.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_end(tmp_path, two_devices):
    """They end with the bits of one process that had two devices and lived in peace."""
    chief_dir, worker_dir = (write_params(tmp_path / name / "small", **PARAMS) for name in ("chief", "worker"))

    def start():
        addresses = free_addresses(2)
        return [Process(folder, addresses, index) for index, folder in enumerate((chief_dir, worker_dir))]

    chief, worker = start()
    chief.wait_for_step(5)
    worker.process.send_signal(signal.SIGTERM)
    ends = {chief.end(), worker.end()}
    step = checkpoints.step_of(checkpoints.list_checkpoints(chief_dir)[-1])
    assert ends == {(128 + signal.SIGTERM, f"Stopped at step {step}, which is saved; the same command goes on.")}

    chief, worker = start()
    assert (chief.end()[0], worker.end()[0]) == (0, 0)
    assert [path.name for path in worker_dir.iterdir()] == ["params.json"]
    assert json.loads((chief_dir / "metrics.json").read_text())["metrics"]["global_step"] > step

    peace = estimator(tmp_path / "peace", RunConfig(5, 5, 5, train_distribute=two_devices), **PARAMS)
    partition = divide(digits(), peace.params)
    data = train_input_fn(partition, peace.params)
    watched = functools.partial(validation_input_fn, partition, peace.params)
    spec = EvalSpec(watched, data.steps_per_epoch, patience=1, name="validation")
    train_and_evaluate(peace, TrainSpec(lambda: data, data.steps_in(30)), spec)
    assert final_tensors(chief_dir) == final_tensors(peace.model_dir)
    name, _ = final_tensors(chief_dir)
    assert step < checkpoints.step_of(chief_dir / "checkpoints" / name) < data.steps_in(30)  # they stopped early


# ------------------------------------------------------------------------------------------------------ one line each


def end_here(monkeypatch, capsys, environment, *arguments):
    """The exit code of train.py in this process, and the one line that it says."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        cli.run(train.main, "", [str(argument) for argument in arguments], train.add_options)
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    return end.value.code, err.rstrip("\n")


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ("{'cluster'}", [], "TF_CONFIG: not valid JSON: "),
        (json.dumps({"cluster": {"chief": ["a:1", "b:1"]}, "task": {}}), [], "TF_CONFIG: 'cluster.chief' must"),
        (tf_config(("a:1", "b:1"), 2), [], "TF_CONFIG: 'task.index' must be from 0 to 1"),
        (tf_config(("a:1", "b:1"), 0), ["--devices", "2"], "--devices: expected none beside the 2 processes of the "),
    ],
)  # fmt: skip
def test_environments_that_cannot_be_meant(monkeypatch, capsys, tmp_path, config, arguments, said):
    code, line = end_here(monkeypatch, capsys, {"TF_CONFIG": config}, "--model_dir", tmp_path, *arguments)
    assert code == 2 and line.startswith(said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_never_comes_is_one_line(monkeypatch, capsys, tmp_path, index):
    addresses = free_addresses(2)
    arguments = ["--model_dir", tmp_path, "--join_timeout", 1]
    code, line = end_here(monkeypatch, capsys, {"TF_CONFIG": tf_config(addresses, index)}, *arguments)
    assert code == PeerLost.EXIT_CODE
    assert line.startswith(f"process {2 - index} of 2 ({addresses[1 - index]})") and "has not come within 1 s" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1.5", "9" * 30])
def test_join_timeouts_that_are_none(monkeypatch, capsys, tmp_path, seconds):
    with pytest.raises(SystemExit):
        cli.run(train.main, "", ["--model_dir", str(tmp_path), "--join_timeout", seconds], train.add_options)
    assert f"--join_timeout: expected a whole number from 1 to 1,000,000, received {seconds}" in capsys.readouterr().err


def test_check_needs_no_other_process(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "?")  # it is not even read
    with pytest.raises(SystemExit):
        cli.run(train.main, "", ["--model_dir", str(tmp_path), "--check"], train.add_options)
    assert "params.json: no such file" in capsys.readouterr().err
