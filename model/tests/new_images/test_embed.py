"""Embeddings of new images, and those of the training images, which are kept and never of something else."""

import dataclasses
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from model import runner
from model.common import kept
from model.common.errors import UserError
from model.data.dataset import Split
from model.experiment import open_experiment
from model.new_images import embed
from model.new_images.embed import embed_files
from model.new_images.training_images import look_at
from model.runner import Runner, Trained
from model.tests.experiments import digits, estimator, write_params
from model.training import checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An experiment of two steps with a checkpoint after each."""
    model_dir = write_params(tmp_path_factory.mktemp("experiments") / "small", save_checkpoints_steps=1)
    experiment, run = open_experiment(model_dir, None), estimator(model_dir, save_checkpoints_steps=1)
    run.train(lambda: experiment.train_input, 2)
    return model_dir


@pytest.fixture
def model_dir(folder, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(folder, tmp_path / "experiment")


@pytest.fixture
def embedded(monkeypatch):
    """How many images are embedded, call by call."""
    counts = []
    original = Trained.embed

    def counting(self, images):
        counts.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Trained, "embed", counting)
    return counts


def trained(model_dir, choice="newest"):
    return Runner(open_experiment(model_dir, None)).trained(choice)


def kept_in(model_dir):
    return model_dir / "eval" / "gallery.npz"


# ------------------------------------------------------------------------------------------- new images


def test_files_are_embedded_in_their_order(model_dir, tmp_path):
    images, files = digits().test.images[:20], []
    for index in (7, 3, 11):
        files.append(tmp_path / f"{index:02}.png")
        Image.fromarray(images[index, ..., 0]).save(files[-1])
    one = trained(model_dir)
    new = embed_files(one, files, look_at(one.experiment, None))
    assert new.files == files and len(new.converted) == 3
    assert new.embeddings.dtype == np.float32
    np.testing.assert_allclose(new.embeddings, one.embed(images)[[7, 3, 11]], atol=1e-5)


def test_many_files_are_embedded_some_at_a_time_and_only_their_embeddings_stay(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "_BYTES_OF_A_BLOCK", 3 * 64)
    images, files = digits().test.images[:7], []
    for index, image in enumerate(images):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(image[..., 0]).save(files[-1])
    one, sizes = trained(model_dir), []
    watched = type("Watched", (), {"embed": lambda self, some: sizes.append(len(some)) or one.embed(some)})()
    watched.params = one.params
    new = embed_files(watched, files, look_at(one.experiment, None))
    assert sizes == [3, 3, 1] and sum(image.image.nbytes for image in new.converted) == 0
    np.testing.assert_allclose(new.embeddings, one.embed(images), atol=1e-5)


def test_of_blank_images_alone_is_warned(model_dir, tmp_path, caplog):
    Image.new("L", (50, 70), 250).save(tmp_path / "blank.png")
    Image.fromarray(digits().test.images[0, ..., 0]).save(tmp_path / "digit.png")
    one = trained(model_dir)
    new = embed_files(one, [tmp_path / "blank.png", tmp_path / "digit.png"], look_at(one.experiment, None))
    assert [image.is_blank for image in new.converted] == [True, False]
    assert [record.message for record in caplog.records if record.name == embed.__name__] == [
        f"{tmp_path / 'blank.png'}: shows nothing but background; its embedding means nothing."
    ]


def test_a_file_that_is_no_image_is_named_before_anything_is_embedded(model_dir, tmp_path, embedded):
    Image.new("L", (50, 70), 250).save(tmp_path / "image.png")
    (tmp_path / "text.png").write_text("not an image")
    one = trained(model_dir)
    seen = look_at(one.experiment, None)
    with pytest.raises(UserError, match=r"text\.png: "):
        embed_files(one, [tmp_path / "image.png", tmp_path / "text.png"], seen)
    assert embedded == []


# ------------------------------------------------------------------------------------------- the gallery is kept


def test_scoring_takes_and_keeps_the_same_embeddings(model_dir, embedded):
    """The test images are embedded by the scores' own loop; of the training images, only the first time."""
    one, other = trained(model_dir), trained(model_dir)
    first, again = one.score("test").metrics, other.score("test").metrics
    assert embedded == [1438]
    without = estimator(model_dir).evaluate(lambda: one.experiment.images_to_score("test", one.params))
    assert first == again == without


def test_another_version_of_a_library_embeds_anew(model_dir, embedded, monkeypatch):
    trained(model_dir).embed_gallery()
    monkeypatch.setattr(runner, "library_versions", lambda: {"tensorflow": "2.21.1"})
    trained(model_dir).embed_gallery()
    assert embedded == [1438, 1438]


def test_training_images_are_embedded_once(model_dir, embedded):
    assert not kept_in(model_dir).parent.exists()
    first = trained(model_dir).embed_gallery()
    again = trained(model_dir).embed_gallery()
    assert embedded == [1438]
    np.testing.assert_array_equal(first, again)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(first, trained(model_dir).embed(digits().train.images))


def test_what_is_kept_is_never_of_other_weights(model_dir, embedded):
    one, other = checkpoints.list_checkpoints(model_dir)
    of_one = trained(model_dir, str(one)).embed_gallery()
    of_other = trained(model_dir, str(other)).embed_gallery()
    assert embedded == [1438, 1438] and not np.array_equal(of_one, of_other)


def test_what_is_kept_belongs_to_the_weights_and_not_to_the_name_of_the_folder(model_dir, embedded):
    one, _ = checkpoints.list_checkpoints(model_dir)
    moved = shutil.copytree(one, model_dir / "step-00000001")
    expected = trained(model_dir, str(one)).embed_gallery()
    before = kept_in(model_dir).read_bytes()
    np.testing.assert_array_equal(trained(model_dir, str(moved)).embed_gallery(), expected)
    assert embedded == [1438] and kept_in(model_dir).read_bytes() == before


def test_what_is_kept_is_never_of_other_images(model_dir, embedded):
    one = trained(model_dir)
    before = one.embed_gallery()
    partition, train = one.experiment.partition, one.experiment.data.train
    turned = dataclasses.replace(partition.data, train=Split(train.images[::-1], train.labels[::-1]))
    summary = dataclasses.replace(one.experiment.summary, train_sha256=turned.train_sha256)
    loaded = dataclasses.replace(partition, data=turned), one.experiment.train_input
    others = dataclasses.replace(one.experiment, summary=summary, load=lambda: loaded)
    now = Trained(others, one.checkpoint).embed_gallery()
    assert embedded == [1438, 1438]
    np.testing.assert_allclose(now, before[::-1], atol=1e-5)


def test_what_is_kept_is_never_of_another_precision(model_dir, embedded, monkeypatch):
    trained(model_dir).embed_gallery()
    monkeypatch.setattr(Trained, "precision", "mixed_bfloat16")
    trained(model_dir).embed_gallery()
    assert embedded == [1438, 1438]


def test_what_is_kept_is_never_of_another_program(model_dir, embedded, monkeypatch):
    trained(model_dir).embed_gallery()
    monkeypatch.setattr(runner, "source_sha256", lambda: "of a network that somebody has changed")
    trained(model_dir).embed_gallery()
    assert embedded == [1438, 1438]


def test_images_that_are_not_those_it_was_opened_with_are_not_embedded(model_dir, embedded):
    one = trained(model_dir)
    summary = dataclasses.replace(one.experiment.summary, train_sha256="of others")
    others = Trained(dataclasses.replace(one.experiment, summary=summary), one.checkpoint)
    with pytest.raises(UserError, match=r"eval/training_images\.npz: tells of other training images .*; delete it"):
        others.embed_gallery()
    assert embedded == []


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:3000] + bytes([content[3000] ^ 4]) + content[3001:]


def of_fewer_images(content):
    arrays, stream = dict(np.load(io.BytesIO(content))), io.BytesIO()
    np.savez(stream, key=arrays["key"], embeddings=arrays["embeddings"][1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage", [cut, flip, of_fewer_images, lambda content: b"", lambda content: b"PK\3\4 no zip file"]
)
def test_a_damaged_file_is_made_anew(model_dir, embedded, damage):
    one = trained(model_dir)
    expected = one.embed_gallery()
    content = kept_in(model_dir).read_bytes()
    kept_in(model_dir).write_bytes(damage(content))
    np.testing.assert_array_equal(one.embed_gallery(), expected)
    assert embedded == [1438, 1438] and kept_in(model_dir).read_bytes() == content


def test_a_folder_that_cannot_be_written_is_only_slower(model_dir, caplog):
    (model_dir / "eval").write_text("in the way")
    one = trained(model_dir)
    np.testing.assert_array_equal(one.embed_gallery(), one.embed(digits().train.images))
    assert "gallery.npz: cannot be written" in caplog.text
    assert (model_dir / "eval").read_text() == "in the way"


def test_what_is_kept_is_written_whole(model_dir, caplog, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(kept, "write_whole", full)
    assert trained(model_dir).embed_gallery().shape == (1438, 8)
    assert "gallery.npz: cannot be written (No space left on device); the next time takes as long." in caplog.text
    assert list((model_dir / "eval").iterdir()) == []
