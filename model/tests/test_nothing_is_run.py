"""Nothing that lies in the folder of an experiment, a search or a data set is ever run: not when it is read, either."""

import contextlib
import gzip
import io
import os
import pickle
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from model.common import kept
from model.common.commands import ROOT
from model.common.errors import UserError
from model.data import datasets, reading
from model.data.decoding import Decoding
from model.data.room import Room
from model.params import Params
from model.pictures import projector
from model.scoring.evaluations import Evaluations
from model.scoring.record import Record
from model.studies import states, trial_process
from model.studies.drawn_trials import Drawn
from model.studies.search_space import SearchSpace
from model.training import checkpoints, event_files


class Payload:
    """What writes a file when somebody unpickles it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pickled(path, marker):
    write(path, pickle.dumps(Payload(marker)))


def objects(path, marker):
    """A NumPy archive in which objects are pickled, under the names that the program reads."""
    held = np.array([Payload(marker)], object)
    content = io.BytesIO()
    np.savez(content, key=held, embeddings=held, allow_pickle=True)
    write(path, content.getvalue())


def idx(path, marker):
    content = pickle.dumps(Payload(marker))
    write(path, gzip.compress(struct.pack(">4I", 0x803, 1, 1, len(content)) + content))


def png(path, marker):
    text = PngImagePlugin.PngInfo()
    text.add_text("payload", pickle.dumps(Payload(marker)).decode("latin-1"))
    content = io.BytesIO()
    Image.new("L", (3, 3)).save(content, "PNG", pnginfo=text)
    write(path, content.getvalue())


def records(path, marker):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(tf.train.Example().SerializeToString())
        writer.write(pickle.dumps(Payload(marker)))


def tensors(path, marker):
    """A checkpoint whose text, where parameters are expected, is a pickle."""
    params = np.array(pickle.dumps(Payload(marker)))
    path.parents[2].mkdir(parents=True)
    checkpoints.save(path.parents[2], 1, {"run/global_step": np.array(1), "run/params": params}, keep=1)


def database(path, marker):
    """What Optuna keeps, with pickles for its JSON."""
    path.parent.mkdir()
    read_database(path)
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        text = pickle.dumps(Payload(marker), protocol=0).decode()
        opened.execute("UPDATE trial_user_attributes SET value_json = ?", [text])
        opened.execute("UPDATE trial_params SET distribution_json = ?", [text])


def trigger(path, marker):
    """What Optuna keeps, and the wish that SQLite loads a library whenever it is written to."""
    path.parent.mkdir()
    read_database(path)
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        opened.execute(f"CREATE TRIGGER t AFTER INSERT ON trials BEGIN SELECT load_extension('{marker}'); END")


def read_database(path):
    space = SearchSpace(vary={"margin": {"low": 0.1, "high": 1.0}}, num_trials=100)
    with contextlib.closing(Drawn(path.parent, space, 1, lambda trial: None)) as source:
        source.ask()  # the trial of before
        source.ask()


def read_checkpoint(path):
    checkpoint = checkpoints.load(path.parent)
    assert checkpoint.state.global_step == 1
    return checkpoint.params


def rewrite(path):
    event_files.open_writer(path.parent, range(5)).close()


def bundle(path):
    metadata = {"index": [0, 1, 2], "label": ["a", "b", "c"]}
    images = np.zeros((3, 4, 4, 1), np.uint8)
    projector.write_bundle(path.parent, "some", np.eye(3, dtype=np.float32), images, metadata, b"[]")


STEP = "checkpoints/step-00000001"
FILES = {
    "params.json": (pickled, Params.from_json),
    "search.json": (pickled, SearchSpace.from_json),
    "metrics.json": (pickled, Record.read),
    "validation/evaluations.json": (pickled, Evaluations.read),
    "validation.json": (pickled, lambda path: states.read_value(path.parent, "eer")),
    "failed": (pickled, lambda path: states.state_of(path.parent)),
    "output.log": (pickled, lambda path: trial_process.last_words(1, path)),
    "search.db": (pickled, read_database),
    "pickles/search.db": (database, read_database),
    "trigger/search.db": (trigger, read_database),
    f"{STEP}/tensors.index": (pickled, read_checkpoint),
    "named/" + STEP + "/tensors.index": (tensors, read_checkpoint),
    "eval/gallery.npz": (pickled, lambda path: kept.read(path, "key")),
    "eval/objects/gallery.npz": (objects, lambda path: kept.read(path, "key")),
    "eval/checkpoint": (pickled, bundle),
    "eval/projector_config.pbtxt": (pickled, bundle),
    "events.out.tfevents.1": (pickled, rewrite),
    "data/train-images-idx3-ubyte": (pickled, lambda path: datasets.load("mine", path.parent)),
    "data/train-images-idx3-ubyte.gz": (idx, lambda path: datasets.load("mine", path.parent)),
    "data/cat/1.png": (pickled, lambda path: datasets.load("mine", path.parents[1])),
    "data/cat/2.png": (png, lambda path: reading.read_files([path], Decoding(), Room(path.parent))),
    "data/cat/3.jpg": (pickled, lambda path: datasets.load("mine", path.parents[1])),
    "data/tfds/mine/1.0.0/dataset_info.json": (pickled, lambda path: datasets.load("mine", path.parents[3])),
    "data/tfds/mine/1.0.0/features.json": (pickled, lambda path: datasets.load("mine", path.parents[3])),
    "data/tfds/mine/1.0.0/mine-train.tfrecord-00000-of-00001": (
        records, lambda path: datasets.load("mine", path.parents[3]),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "plant", "read"), [(file, *how) for file, how in FILES.items()], ids=FILES)
def test_no_file_is_run_when_it_is_read(tmp_path, file, plant, read):
    marker = tmp_path / "executed"
    plant(tmp_path / file, marker)
    with contextlib.suppress(UserError):
        read(tmp_path / file)
    assert not marker.exists()


def test_the_payload_would_run(tmp_path):
    """Otherwise the test above would prove nothing."""
    objects(tmp_path / "some.npz", tmp_path / "executed")
    with np.load(tmp_path / "some.npz", allow_pickle=True) as held:
        assert held["key"].shape == (1,)
    assert (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "visualize_embeddings.py"])
def test_no_module_is_imported_from_the_current_folder(tmp_path, script):
    """The scripts' own folder comes first, and that in which they are started is not looked at."""
    names = [
        "argparse",
        "json",
        "model",
        "numpy",
        "pydantic",
        "sitecustomize",
        "tensorflow",
        "train",
        "tqdm",
        "usercustomize",
    ]
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()")
    (tmp_path / "params.json").write_text('{"dataset": "digits", "margin": -1}')
    arguments = ["x.png"] if script == "predict.py" else []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, ROOT / script, *arguments, "--model_dir", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "executed").exists()
