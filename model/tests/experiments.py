"""Small experiments for tests: real digits, a small network, a few hundred milliseconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from model.common.errors import UserError
from model.data import datasets
from model.params import Params
from model.training import checkpoints
from model.training.estimator import Estimator, RunConfig
from model.training.model_fn import model_fn

SMALL = {
    "dataset": "digits", "num_blocks": 1, "num_channels": 4, "embedding_size": 8, "num_epochs": 2,
    "save_summary_steps": 5, "save_checkpoints_steps": 10, "learning_rate": 0.002,
}  # fmt: skip

# A `keras.json` of a user that would change every number, if it were heeded.
HOSTILE_KERAS = {"backend": "torch", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.5}


def digits():
    """scikit-learn's digits, 8x8x1."""
    return datasets.load("digits")


def error_of(*args, **kwargs) -> str:
    """The message, one line, with which `datasets.load` refuses its arguments."""
    with pytest.raises(UserError) as caught:
        datasets.load(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def estimator(model_dir, config=None, **changes):
    """An estimator of the small experiment."""
    params = Params(**{**SMALL, **changes})
    config = config or RunConfig(params.save_summary_steps, params.save_checkpoints_steps, params.keep_checkpoint_max)
    return Estimator(model_fn, model_dir, params, config)


def write_params(model_dir, **changes):
    """Writes a params.json and returns its folder."""
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps({**SMALL, **changes}))
    return model_dir


def final_tensors(model_dir):
    """The newest checkpoint's tensors as bytes, so that equal means equal bit for bit; without the time it took."""
    newest = checkpoints.load_newest(model_dir)
    return newest.path.name, {
        name: np.asarray(tensor).tobytes() for name, tensor in newest.tensors.items() if "timed" not in name
    }


def scalars(folder):
    """(tag, step) -> every value that the event files of a folder hold for it."""
    found = {}
    for key, value in _summaries(folder, "scalars"):
        found.setdefault(key, []).append(value.item())
    return found


def texts(folder):
    """(tag, step) -> the text that the event files of a folder hold for it."""
    return {key: value.item().decode() for key, value in _summaries(folder, "text")}


def _summaries(folder, plugin):
    for path in sorted(Path(folder).glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == plugin:
                    yield (value.tag, event.step), tf.make_ndarray(value.tensor)
