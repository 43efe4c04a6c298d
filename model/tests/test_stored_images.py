"""Commands whose images lie in a file: each reads what it needs, and says what it says of images in memory."""

import json

import numpy as np
import pytest

import evaluate
import predict
import train
import visualize_embeddings
from model.common import cli, images
from model.common.images import StoredImages
from model.new_images import convert
from model.tests.drawings import draw
from model.tests.experiments import final_tensors, write_params
from model.tests.images import save
from model.training import baselines, evaluation

PARAMS = {"num_epochs": 1, "validation_size": 0.2, "evaluate_every_epochs": 1, "triplet_strategy": "offline_hard"}
BLOCK = 100


@pytest.fixture
def reads(monkeypatch):
    """How many images are read at once, each time."""
    read, numbers = StoredImages._read, []

    def watched(self, places):
        numbers.append(len(places))
        return read(self, places)

    monkeypatch.setattr(StoredImages, "_read", watched)
    return numbers


def run_all(folder, kind, reads, capsys):
    """All commands, one after the other; returns the folder of the experiment, and what the last one printed."""
    assert not reads
    model_dir = write_params(folder / kind, **PARAMS)
    (folder / "data").mkdir(exist_ok=True)
    drawing = save(folder / "seven.png", draw(7))
    for command, *more in (
        (train,),
        (evaluate, "--baselines"),
        (visualize_embeddings, "--num_images", str(BLOCK), "--no_tsne"),
        (predict, str(drawing), "--json"),
    ):
        capsys.readouterr()
        before = len(reads)
        arguments = ["--model_dir", str(model_dir), "--data_dir", str(folder / "data"), "--images", kind, *more]
        cli.run(command.main, "", arguments, command.add_options)
        assert (len(reads) > before) == (kind == "stored")
    return model_dir, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_no_command_holds_all_images_and_all_say_the_same(tmp_path, reads, monkeypatch, capsys):
    monkeypatch.setattr(images, "_BYTES_OF_A_BLOCK", BLOCK * 64)
    monkeypatch.setattr(evaluation, "_MAX_IMAGES", BLOCK)
    monkeypatch.setattr(baselines, "_IMAGES_AT_A_TIME", BLOCK)
    monkeypatch.setattr(convert, "_SAMPLE", BLOCK)
    memory_dir, memory_answer = run_all(tmp_path, "memory", reads, capsys)
    stored_dir, stored_answer = run_all(tmp_path, "stored", reads, capsys)
    assert max(reads) <= 3 * 64  # the images of a batch of triplets
    assert final_tensors(memory_dir) == final_tensors(stored_dir)
    of_memory, of_stored = (json.loads((folder / "metrics.json").read_text()) for folder in (memory_dir, stored_dir))
    assert of_memory["metrics"] == of_stored["metrics"] and of_memory["baselines"] == of_stored["baselines"]
    assert {**memory_answer, "experiment": ""} == {**stored_answer, "experiment": ""}
    with np.load(memory_dir / "eval/gallery.npz") as one, np.load(stored_dir / "eval/gallery.npz") as other:
        np.testing.assert_array_equal(one["embeddings"], other["embeddings"])
    pictures = sorted(memory_dir.glob("eval/**/*.png"))
    assert len(pictures) > 5
    for path in pictures:
        assert path.read_bytes() == (stored_dir / path.relative_to(memory_dir)).read_bytes()
