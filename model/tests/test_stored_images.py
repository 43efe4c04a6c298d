"""An experiment whose images lie in a file: every command reads what it needs, and says what it would have said."""

import numpy as np
import pytest

from model.common import cli, images
from model.common.images import StoredImages
from model.new_images import convert, embed, training_images
from model.pictures.visualize import visualize
from model.start import start
from model.tests.drawings import draw
from model.tests.experiments import final_tensors, write_params
from model.tests.images import save
from model.training import baselines, evaluation

PARAMS = {"num_epochs": 1, "validation_size": 0.2, "evaluate_every_epochs": 1, "triplet_strategy": "offline_hard"}
BLOCK = 100


@pytest.fixture(autouse=True)
def log():
    yield
    cli._end_log()


@pytest.fixture
def reads(monkeypatch):
    """How many images are read at once, each time."""
    read, numbers = StoredImages._read, []

    def watched(self, places):
        numbers.append(len(places))
        return read(self, places)

    monkeypatch.setattr(StoredImages, "_read", watched)
    return numbers


def run(folder, kind):
    """All commands, one after the other."""
    model_dir = write_params(folder / kind, **PARAMS)
    data_dir = folder / "data"
    data_dir.mkdir(exist_ok=True)
    runner = start(model_dir, data_dir, images=kind)
    with runner.session():
        runner.train()
    trained = start(model_dir, data_dir, images=kind).trained()
    scores = trained.evaluate(baselines=True)
    visualize(trained, num_images=BLOCK, use_tsne=False)
    drawing = save(folder / "seven.png", draw(7))
    seen = training_images.look_at(trained.experiment, None)
    answer = embed.embed_files(trained, [drawing], seen).embeddings, embed.embed_gallery(trained)
    return model_dir, scores, answer


@pytest.mark.slow
def test_no_command_holds_all_images_and_all_say_the_same(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(images, "_BYTES_OF_A_BLOCK", BLOCK * 64)
    monkeypatch.setattr(evaluation, "_MAX_IMAGES", BLOCK)
    monkeypatch.setattr(baselines, "_IMAGES_AT_A_TIME", BLOCK)
    monkeypatch.setattr(convert, "_SAMPLE", BLOCK)
    memory_dir, memory_scores, memory_answer = run(tmp_path, "memory")
    assert not reads
    stored_dir, stored_scores, stored_answer = run(tmp_path, "stored")
    assert reads and max(reads) <= 3 * 64  # the images of a batch of triplets
    assert final_tensors(memory_dir) == final_tensors(stored_dir)
    assert stored_scores.metrics == memory_scores.metrics and stored_scores.baselines == memory_scores.baselines
    for one, other in zip(stored_answer, memory_answer, strict=True):
        np.testing.assert_array_equal(one, other)
    for path in memory_dir.glob("eval/**/*.png"):
        assert path.read_bytes() == (stored_dir / path.relative_to(memory_dir)).read_bytes()
