"""kill -9 at random moments, again and again: the run ends with the same bits as one that nobody touched."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.tests.experiments import final_tensors, scalars, write_params
from model.training import checkpoints

ROOT = Path(__file__).parents[3]

# Everything that has a state: batch normalization, a schedule, augmentation, the order of the images, the best metric.
EXPERIMENT = {
    "use_batch_norm": True, "augmentation": "affine", "learning_rate_schedule": "cosine", "warmup_steps": 50,
    "early_stopping_patience": 1000, "evaluate_every_epochs": 5, "save_checkpoints_steps": 23, "num_channels": 8,
    "validation_size": 0.2, "keep_checkpoint_max": 2,
}  # fmt: skip


def start(model_dir):
    command = [sys.executable, ROOT / "train.py", "--model_dir", model_dir]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def newest_step(model_dir):
    paths = checkpoints.list_checkpoints(model_dir)
    return checkpoints.step_of(paths[-1]) if paths else 0


def train_with_kills(model_dir, kills, longest_life):
    """Kills the run this often; returns the newest checkpoint's step at each death.

    One life in four ends at any moment of the first seconds: while TensorFlow starts, while a checkpoint is read or
    event files are put in order. The others end while it trains, which shows by a new checkpoint.
    """
    moments = random.Random(230)
    deaths = []
    for life in range(kills):
        before, process = newest_step(model_dir), start(model_dir)
        if life % 4 == 1:
            time.sleep(moments.uniform(0, 8))
        else:
            while newest_step(model_dir) == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, longest_life))
        process.kill()
        if process.wait() == 0:  # it was faster, and is complete
            break
        deaths.append(newest_step(model_dir))
    assert start(model_dir).wait() == 0
    return deaths


def without_rate(points):
    """The curves without the one that tells the time; a process has no rate at its very first step."""
    return {key: values for key, values in points.items() if key[0] != "global_step/sec"}


def without_time(metrics_json):
    """What a metrics.json says, but for how long the training took."""
    content = json.loads(metrics_json.read_text())
    assert content["provenance"].pop("train_seconds") > 0 and content["provenance"].pop("images_per_second") > 0
    return content


def check(tmp_path, kills, longest_life, num_epochs):
    whole, killed = (write_params(tmp_path / name, **EXPERIMENT, num_epochs=num_epochs) for name in ("whole", "killed"))
    assert start(whole).wait() == 0
    deaths = train_with_kills(killed, kills, longest_life)
    name, expected = final_tensors(whole)
    print(f"\nkilled {len(deaths)} times, with steps {deaths} saved; {len(expected)} tensors at {name}")
    assert len(deaths) > kills / 2
    assert final_tensors(killed) == (name, expected)
    assert [path.name for path in checkpoints.list_checkpoints(killed)] == [
        path.name
        for path in checkpoints.list_checkpoints(whole)  # the best one among them
    ]
    for folder in (".", "validation", "eval"):
        points, seen = scalars(killed / folder), scalars(whole / folder)
        assert all(len(values) == 1 for values in points.values())
        assert without_rate(points) == without_rate(seen)
    assert without_time(killed / "metrics.json") == without_time(whole / "metrics.json")


@pytest.mark.proof
def test_kills_leave_no_trace(tmp_path):
    check(tmp_path, kills=3, longest_life=0.5, num_epochs=40)


@pytest.mark.proof
def test_twenty_kills_leave_no_trace(tmp_path):
    check(tmp_path, kills=int(os.environ.get("KILLS", "20")), longest_life=1.5, num_epochs=400)
