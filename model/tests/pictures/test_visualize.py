"""`visualize_embeddings.py` on real digits: files that agree with the data, in TensorBoard and in a real browser."""

import base64
import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

import train
import visualize_embeddings
from model.common import cli, files
from model.params import Params
from model.pictures import plots, projector
from model.pictures import visualize as visualize_module
from model.pictures.html_report import About, make_report
from model.pictures.view import Embedded
from model.runner import Trained
from model.scoring import verification
from model.scoring.labelled import LabelledEmbeddings
from model.scoring.protocol import HEADLINES
from model.scoring.record import Record
from model.start import start
from model.tests import servers
from model.tests.experiments import digits, estimator, write_params
from model.tests.servers import wait_for
from model.tests.test_command_lines import run_here
from model.tests.views import view
from model.training import checkpoints, event_files


def visualize(*arguments):
    cli.run(visualize_embeddings.main, "", [str(argument) for argument in arguments], visualize_embeddings.add_options)


@pytest.fixture(scope="module")
def pictured(trained, made_once):
    """The trained experiment with its pictures, to be read only: some of its test images are answered wrongly.

    Beside it is `earlier`, a copy whose pictures were then made anew: of an earlier checkpoint, of fewer images, and as
    if the embeddings were shorter. TensorBoard's own t-SNE takes 1 - x·y for a distance and drops what is below 0; with
    embeddings as long as these it stops with an error.
    """

    def visualize_it(folder):
        visualize("--model_dir", shutil.copytree(trained, folder / "small"))
        earlier = shutil.copytree(folder / "small", folder / "earlier")
        with pytest.MonkeyPatch.context() as monkeypatch:
            draw_nothing(monkeypatch)
            embed = Trained.embed
            monkeypatch.setattr(Trained, "embed", lambda self, images: embed(self, images) / 10)
            first = checkpoints.list_checkpoints(earlier)[0]
            visualize("--model_dir", earlier, "--checkpoint", first, "--num_images", "100", "--no_tsne")

    return made_once("pictured", visualize_it) / "small"


def draw_nothing(monkeypatch):
    """Empty pictures, for tests of what is done with them."""
    monkeypatch.setattr(plots, "PICTURES", {name: lambda view: Figure((1, 1)) for name in plots.PICTURES})


@pytest.fixture(scope="module")
def embedded(pictured):
    """Test and training embeddings of the experiment, from the estimator."""
    run, data = estimator(pictured), digits()
    return [run.predict(lambda images=split.images: images)["embeddings"] for split in (data.test, data.train)]


def rows(folder):
    (path,) = folder.glob("*-metadata.tsv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))


# ------------------------------------------------------------------------------------------- files


def test_what_is_written(pictured):
    names = {path.name for path in (pictured / "eval").iterdir()}
    digest = checkpoints.choose(pictured).digest[:8]  # another training may come as far
    bundle = [name for name in names if name.startswith(f"test_359_images_step_180_{digest}")]
    assert sorted(name.removeprefix(f"test_359_images_step_180_{digest}") for name in bundle) == [
        "-bookmarks.json", "-metadata.tsv", "-sprite.png", ".data-00000-of-00001", ".index",
    ]  # fmt: skip
    (pictures,) = (name for name in names if name.endswith(".pictures"))
    (curves,) = (name for name in names if name.endswith(".v2"))
    others = {"checkpoint", "projector_config.pbtxt", "plots", "report.html", "gallery.npz", pictures, curves}
    assert names - set(bundle) == others
    plots = {path.name for path in (pictured / "eval" / "plots").iterdir()}
    expected = ("scatter", "scatter-images", "mistakes", "distances", "confusion", "retrieval")
    assert plots == {f"{name}.png" for name in expected}
    for name in plots:
        Image.open(pictured / "eval" / "plots" / name).verify()


def test_the_checkpoint_holds_the_embeddings(pictured, embedded):
    reader = tf.train.load_checkpoint(str(pictured / "eval"))
    (name,) = (name for name in reader.get_variable_to_shape_map() if name.startswith("test_"))
    np.testing.assert_allclose(reader.get_tensor(name), embedded[0], atol=1e-5)


def test_the_metadata_is_what_plain_loops_find(pictured, embedded):
    """Every test image against every training image."""
    data = digits()
    test, gallery = (part.astype(np.float64) for part in embedded)
    lengths = np.sqrt(((test[:, None] - gallery) ** 2).sum(axis=2))
    seen = rows(pictured / "eval")
    assert list(seen[0]) == [
        "index", "label", "predicted", "correct", "nearest_same_class", "nearest_other_class", "safety",
        "nearest_wrong_neighbor",
    ]  # fmt: skip
    assert len(seen) == 359
    for index, row in enumerate(seen):
        same = lengths[index][data.train.labels == data.test.labels[index]].min()
        other = np.where(data.train.labels == data.test.labels[index], np.inf, lengths[index])
        assert row["index"] == str(index)
        assert row["label"] == f"class {data.test.labels[index]}"
        assert row["predicted"] == f"class {data.train.labels[lengths[index].argmin()]}"
        assert row["correct"] == ("yes" if same < other.min() else "no")
        assert float(row["nearest_same_class"]) == pytest.approx(same, abs=1e-3)
        assert float(row["nearest_other_class"]) == pytest.approx(other.min(), abs=1e-3)
        assert float(row["safety"]) == pytest.approx(other.min() - same, abs=2e-3)
        assert row["nearest_wrong_neighbor"] == str(other.argmin())
    wrong = sum(row["correct"] == "no" for row in seen)
    assert wrong > 0
    scores = json.loads((pictured / "metrics.json").read_text())["metrics"]
    assert scores["knn_accuracy"] == pytest.approx(1 - wrong / 359)


def bookmarks(folder):
    (path,) = folder.glob("*-bookmarks.json")
    return json.loads(path.read_text())


def test_the_bookmarks_are_of_the_places_and_the_mistakes(pictured, tmp_path, monkeypatch):
    """Places that are known, in the order of the bookmark, and the mistakes of the metadata."""
    draw_nothing(monkeypatch)
    monkeypatch.setattr("model.pictures.visualize.tsne", lambda embeddings, seed, start=None: embeddings[:, :2])
    visualize("--model_dir", pictured, "--output_dir", tmp_path)
    everything, mistakes = bookmarks(tmp_path)
    order, seen = everything["filteredPoints"], rows(tmp_path)
    (tensor,) = (name for name, _ in tf.train.list_variables(str(tmp_path)) if name.startswith("test_"))
    embeddings = tf.train.load_variable(str(tmp_path), tensor)
    found = [(place["linear-x"], place["linear-y"]) for place in everything["projections"]]
    np.testing.assert_array_equal(np.array(found, np.float32), embeddings[order, :2])
    wrong = [row["index"] for row in seen if row["correct"] == "no"]
    assert wrong and [seen[order[place]]["index"] for place in mistakes["selectedPoints"]] == wrong
    assert everything["label"] == "t-SNE, coloured by label"
    assert bookmarks(pictured.with_name("earlier") / "eval")[0]["label"] == "PCA, coloured by label"


def test_the_sprite_shows_the_images(pictured):
    (path,) = (pictured / "eval").glob("*-sprite.png")
    sprite, images = np.asarray(Image.open(path)), digits().test.images
    assert sprite.shape == (19 * 24, 19 * 24)
    for index in range(359):
        row, column = divmod(index, 19)
        np.testing.assert_array_equal(sprite[row * 24 :, column * 24 :][:24:3, :24:3], images[index, ..., 0])


def test_the_report_tells_what_the_experiment_is(pictured):
    report = (pictured / "eval" / "report.html").read_text()
    facts = dict(re.findall("<dt>([^<]*)</dt><dd>([^<]*)</dd>", report))
    assert facts["data"] == "digits, 10 classes; shown: 359 test images"
    assert facts["network"] == "cnn, embeddings of 8 dimensions"
    assert facts["loss"] == "batch_all, euclidean distance, margin 0.5"
    assert facts["step"] == "180" and facts["code version"] and re.fullmatch(r"\d+ seconds", facts["training"])
    scores = json.loads((pictured / "metrics.json").read_text())["metrics"]
    headlines = re.findall(
        r'<th scope="row">(\w+)</th><td class="number">([^<]*)</td><td class="number">([^<]*)</td></tr>', report
    )
    expected = [
        (name, f"{scores[name]:.4f}", f"[{scores[f'{name}_low95']:.4f}, {scores[f'{name}_high95']:.4f}]")
        for name in HEADLINES
    ]
    assert [line for line in headlines if line[0] in HEADLINES][: len(HEADLINES)] == expected
    assert f"threshold {scores['verification_threshold']:.3f}" in report
    assert re.search('aria-label="Loss. loss: from|aria-label="Loss. training batches: from', report)


def test_training_images_are_not_their_own_neighbors(pictured, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PICTURES", {"retrieval": plots.retrieval})  # which leaves the image itself out, too
    visualize("--model_dir", pictured, "--split", "train", "--num_images", "100", "--output_dir", tmp_path, "--no_tsne")
    seen = rows(tmp_path)
    assert len(seen) == 100 and len({row["index"] for row in seen}) == 100
    assert min(float(row["nearest_same_class"]) for row in seen) > 0
    labels = [digits().train.labels[int(row["index"])] for row in seen]
    assert [row["label"] for row in seen] == [f"class {label}" for label in labels]
    assert np.bincount(labels).min() >= 9  # of every class its share


def test_an_animation_shows_every_checkpoint(pictured, tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch)
    monkeypatch.setattr("model.pictures.animation._PICTURES_BETWEEN", 3)
    monkeypatch.setattr("model.pictures.animation._PICTURES_AT_THE_END", 1)
    visualize("--model_dir", pictured, "--num_images", "40", "--output_dir", tmp_path, "--animate")
    path = tmp_path / "plots" / "evolution.gif"
    told = capsys.readouterr().out
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("events")]
    assert len(files) > 13 and all(f"\n  {path}\n" in told for path in files)
    assert re.search(rf"tensorboard --logdir {tmp_path}$", told, re.MULTILINE)
    count = len(checkpoints.list_checkpoints(pictured))
    assert count >= 3
    with Image.open(path) as gif:
        assert gif.n_frames > 3 * (count - 1)
    videos = [path.name for path in (tmp_path / "plots").glob("*.mp4")]
    assert videos == (["evolution.mp4"] if shutil.which("ffmpeg") else [])


@pytest.mark.slow
@pytest.mark.usefixtures("instant_scores")
def test_unseen_classes_have_a_picture_of_their_own_and_the_worst_are_named(tmp_path, capsys, monkeypatch):
    model_dir = write_params(tmp_path / "unseen", num_epochs=1, holdout_classes=[1, 8, 9])
    monkeypatch.setattr(Record, "table", "")
    run_here(train, "--model_dir", model_dir)
    monkeypatch.setattr(plots, "PICTURES", {"unseen-classes": plots.unseen_classes})
    visualize("--model_dir", model_dir, "--no_tsne")
    Image.open(model_dir / "eval" / "plots" / "unseen-classes.png").verify()
    assert "Which unseen classes are told apart</h2>" in (model_dir / "eval" / "report.html").read_text()
    (line,) = re.findall(
        r"Unseen classes that are told apart worst, by ROC AUC: (.*)\.$", capsys.readouterr().err, re.M
    )
    told = {(int(a), int(b)): float(value) for a, b, value in re.findall(r"(\d) and (\d) ([\d.]+)", line)}
    assert list(told.values()) == sorted(told.values()) and len(told) == 3
    test = digits().test
    images = LabelledEmbeddings(start(model_dir).trained().embed(test.images), test.labels)
    expected = {pair: verification.measure(images.of_classes(pair), 0).roc_auc for pair in ((1, 8), (1, 9), (8, 9))}
    assert told == pytest.approx(expected, abs=5e-4)


def test_scores_of_another_network_that_came_as_far_are_not_shown(pictured, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    model_dir = shutil.copytree(pictured, tmp_path / "again")
    record = Record.read(model_dir / "metrics.json")
    for digest, is_shown in ((record.digest, True), ("another", False)):
        dataclasses.replace(record, digest=digest).write(model_dir / "metrics.json")
        visualize("--model_dir", model_dir, "--no_tsne", "--num_images", "10")
        report = (model_dir / "eval" / "report.html").read_text()
        assert (">roc_auc</th>" in report, "has no scores of this checkpoint" in report) == (is_shown, not is_shown)


def test_a_name_that_tensorboard_cannot_show_is_told(pictured, tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch)
    shutil.copytree(pictured, tmp_path / "my run (1)")
    visualize("--model_dir", tmp_path / "my run (1)", "--no_tsne", "--num_images", "2")
    assert "my run (1): TensorBoard's Projector needs a folder name of letters" in capsys.readouterr().err


def test_another_checkpoint_replaces_the_bundle(pictured):
    before = sorted(path.name for path in (pictured / "eval").glob("test_359_images*"))
    earlier = pictured.with_name("earlier")
    after = {path.name for path in (earlier / "eval").iterdir()}
    assert before and not after & set(before)
    first = checkpoints.load(checkpoints.list_checkpoints(pictured)[0])
    assert f"test_100_images_step_{first.step}_{first.digest[:8]}.index" in after
    assert len([name for name in after if name.endswith(".pictures")]) == 1
    report = (earlier / "eval" / "report.html").read_text()
    assert ">roc_auc</th>" not in report  # metrics.json tells of another step
    assert re.search(r"has no scores of this checkpoint.* knn_accuracy 0\.\d{4}\.", report)


def test_evaluating_again_leaves_the_pictures(pictured, tmp_path):
    shutil.copytree(pictured, tmp_path / "copy")
    pictures = list((tmp_path / "copy" / "eval").glob("*.pictures"))
    event_files.open_writer(tmp_path / "copy" / "eval", range(1, 100)).close()
    assert [path.exists() for path in pictures] == [True]


def test_the_old_pictures_may_be_taken_away_by_another_command(pictured, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    folder, move_all = shutil.copytree(pictured, tmp_path / "small") / "eval", files.move_all
    old = event_files.pictures_in(folder)

    def move_and_delete(*arguments, **options):
        for path in old:
            path.unlink()
        return move_all(*arguments, **options)

    monkeypatch.setattr(files, "move_all", move_and_delete)
    visualize("--model_dir", folder.parent, "--num_images", "50", "--no_tsne")
    (new,) = event_files.pictures_in(folder)
    assert old and new not in old


def write_bundle(folder, name):
    images, metadata = np.zeros((3, 4, 4, 1), np.uint8), {"index": [0, 1, 2], "label": ["a", "b", "c"]}
    return projector.write_bundle(folder, name, np.eye(3, dtype=np.float32), images, metadata, b"[]")


def test_columns_for_the_projector_are_numbers_or_nothing():
    """Of an image without another one of its class: "inf" would make text of the whole column."""
    some = view(num_images=12, num_classes=4)
    lonely = Embedded(some.shown.images, np.where(np.arange(12) == 0, 4, some.shown.labels), some.shown.embeddings)
    neighbors = lonely.neighbors_in(some.gallery, None, None)
    some = dataclasses.replace(
        some, shown=lonely, neighbors=neighbors, gallery_indices=np.arange(90) + 1000,
        class_names=tuple(f"kind {i}" for i in range(5)),
    )  # fmt: skip
    columns = visualize_module._metadata(some)
    for name in ("nearest_same_class", "nearest_other_class", "safety"):
        assert all(cell == "" or np.isfinite(float(cell)) for cell in columns[name])
    assert columns["nearest_same_class"][0] == columns["safety"][0] == "" != columns["nearest_other_class"][0]
    assert columns["nearest_wrong_neighbor"] == (neighbors.other + 1000).tolist()


def test_the_projector_has_a_column_of_colors_where_classes_are_too_many():
    many = view(num_images=120, num_classes=60)
    columns = visualize_module._metadata(many)
    assert columns["colour"] == [f"colour {label % 10}" for label in many.shown.labels]
    assert columns["label"] == [f"kind {label}" for label in many.shown.labels]
    assert not {"colour", "file"} & visualize_module._metadata(view()).keys()


def test_the_projector_has_a_column_of_files_where_there_are_any():
    some = view(num_images=2)
    shown = dataclasses.replace(some.shown, files=np.array(["a/1.png", "b/2\n.png"], object))
    assert visualize_module._metadata(dataclasses.replace(some, shown=shown))["file"] == ["a/1.png", r"b/2\n.png"]


def test_the_bundle_in_a_folder_is_what_its_checkpoint_file_names_and_nothing_else(tmp_path):
    write_bundle(tmp_path, "first")
    for name in ("first-notes.txt", "first.npy", "second-metadata.txt", "x.index"):
        (tmp_path / name).touch()
    assert {path.name for path in projector.bundle_in(tmp_path)} == {
        "first.index", "first.data-00000-of-00001", "first-metadata.tsv", "first-sprite.png", "first-bookmarks.json",
    }  # fmt: skip
    assert projector.bundle_in(tmp_path / "elsewhere") == set()


@pytest.mark.parametrize("named", ["*", "model.ckpt-1", "../outside/model.ckpt-1", "ghost"])
def test_what_a_checkpoint_file_of_somebody_else_names_is_no_bundle(tmp_path, named):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        for name in ("*.index", "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001", "model.ckpt-1-sprite.png"):
            (folder / name).touch()
    (outside / "model.ckpt-1-metadata.tsv").touch()
    (inside / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    assert projector.bundle_in(inside) == set()


def test_white_space_in_names_is_replaced_and_a_bundle_alone_is_whole(tmp_path):
    images = np.zeros((3, 4, 4, 3), np.uint8)
    metadata = {"index": [0, 1, 2], "label": ["a\tb", "c\nd", "é\r"]}
    projector.write_bundle(tmp_path, "some", np.eye(3, dtype=np.float32), images, metadata, b"[]")
    assert (tmp_path / "some-metadata.tsv").read_text(encoding="utf-8") == "index\tlabel\n0\ta b\n1\tc d\n2\té \n"
    saved = tf.train.load_variable(str(tmp_path), "some/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(saved, np.eye(3))


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["--checkpoint", "checkpoints/step-00000999"], "step-00000999"),
    ],
)
def test_a_checkpoint_that_is_not_there(pictured, tmp_path, capsys, arguments, expected):
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", pictured, "--output_dir", tmp_path / "out", *arguments)
    assert raised.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["0", "100001", "many"])
def test_a_number_of_images_that_makes_no_sense(pictured, capsys, number):
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", pictured, "--num_images", number)
    assert raised.value.code == 2
    assert "--num_images" in capsys.readouterr().err


def test_without_training_first(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", write_params(tmp_path))
    assert raised.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"train first: python train.py --model_dir {tmp_path}")
    assert not (tmp_path / "eval").exists()


def test_an_animation_without_tsne_is_refused(pictured, capsys):
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", pictured, "--animate", "--no_tsne")
    assert raised.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("leave out --no_tsne")


def test_a_checkpoint_of_another_run_has_no_history_here(pictured, tmp_path, capsys):
    """Its film would be of the other run, or of none."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pictured / "params.json", other)
    checkpoint = sorted((pictured / "checkpoints").glob("step-*"))[-1]
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", other, "--checkpoint", checkpoint, "--animate")
    assert raised.value.code == 2
    expected = "other, of which .* is none; leave it out, or name the folder of that run"
    assert re.search(expected, capsys.readouterr().err.splitlines()[-1])
    assert not (other / "eval").exists()


@pytest.mark.parametrize("name", ["scatter.png", "report.html", "-sprite.png", "projector_config.pbtxt"])
def test_a_full_disk_leaves_what_was_there(pictured, tmp_path, capsys, monkeypatch, name):
    """Whichever file it is that no longer finds room: all that was there, and nothing else."""
    monkeypatch.setattr("model.pictures.visualize.tsne", lambda embeddings, seed, start=None: embeddings[:, :2])
    draw_nothing(monkeypatch)
    shutil.copytree(pictured, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy" / "eval").rglob("*") if path.is_file()}
    flush = files.flush

    def flush_or_not(path):
        if path.name.endswith(name):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        flush(path)

    monkeypatch.setattr(files, "flush", flush_or_not)
    with pytest.raises(SystemExit) as raised:
        visualize("--model_dir", tmp_path / "copy")
    assert raised.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("No space left on device; make room on the disk, and start the same command again")
    assert name in line
    after = {path: path.read_bytes() for path in (tmp_path / "copy" / "eval").rglob("*") if path.is_file()}
    assert after == before and not list((tmp_path / "copy" / "eval").glob("tmp-*"))


# ------------------------------------------------------------------------------------------- TensorBoard, the browser


@pytest.fixture(scope="module")
def tensorboard(pictured):
    """The address of a TensorBoard over the experiments."""
    with servers.tensorboard(pictured.parent) as address:
        yield address


def fetch(address):
    return urllib.request.urlopen(address).read()


def test_tensorboard_serves_the_bundle(tensorboard, pictured, embedded):
    plugin = f"{tensorboard}/data/plugin/projector"
    assert sorted(json.loads(fetch(f"{plugin}/runs"))) == ["earlier/eval", "small/eval"]  # and no other folder
    (entry,) = json.loads(fetch(f"{plugin}/info?run=small%2Feval"))["embeddings"]
    assert entry["tensorShape"] == [359, 8]
    query = f"run=small%2Feval&name={entry['tensorName'].replace('/', '%2F')}"
    served = np.frombuffer(fetch(f"{plugin}/tensor?{query}"), np.float32).reshape(359, 8)
    np.testing.assert_allclose(served, embedded[0], atol=1e-5)
    (metadata,) = (pictured / "eval").glob("*-metadata.tsv")
    assert fetch(f"{plugin}/metadata?{query}").decode().splitlines() == metadata.read_text().splitlines()
    (sprite,) = (pictured / "eval").glob("*-sprite.png")
    assert fetch(f"{plugin}/sprite_image?{query}") == sprite.read_bytes()
    assert json.loads(fetch(f"{plugin}/bookmarks?{query}")) == bookmarks(pictured / "eval")
    images = json.loads(fetch(f"{tensorboard}/data/plugin/images/tags"))["small/eval"]
    shown = {"scatter", "scatter-images", "mistakes", "distances", "confusion", "retrieval"}
    assert set(images) == {f"images/{name}" for name in shown}


@pytest.fixture
def in_the_projector(pictured):
    """The address of a TensorBoard with nothing but `earlier`."""
    with servers.tensorboard(pictured.with_name("earlier")) as address:
        yield address


def test_the_projector_shows_the_points_and_runs_tsne(page, in_the_projector, tmp_path):
    page.goto(f"{in_the_projector}/#projector")
    frame = wait_for(page, lambda: next((frame for frame in page.frames if "projector_binary" in frame.url), None))
    frame.get_by_text("Points: 100").wait_for()
    frame.get_by_text("Dimension: 8").wait_for()
    chosen = frame.locator("vz-projector-data-panel").get_by_text("label", exact=True)
    wait_for(page, chosen.count)
    frame.locator("#tsne-tab").evaluate("tab => tab.click()")
    frame.locator("[data-panel='tsne']").wait_for(state="visible")
    frame.locator(".run-tsne").evaluate("button => button.click()")
    iterations = frame.locator(".run-tsne-iter")
    first = wait_for(page, lambda: int(iterations.inner_text()))
    assert wait_for(page, lambda: int(iterations.inner_text()) > first)
    page.screenshot(path=tmp_path / "projector.png")
    shown = np.asarray(Image.open(tmp_path / "projector.png").convert("L"))[130:990, 300:1080]
    assert len(np.unique(shown)) > 50  # the grey images are there
    assert page.errors == []


def test_a_bookmark_shows_the_places_in_the_colors_of_the_classes(page, in_the_projector, pictured, tmp_path):
    page.errors.clear()
    page.goto(f"{in_the_projector}/#projector")
    frame = wait_for(page, lambda: next((frame for frame in page.frames if "projector_binary" in frame.url), None))
    frame.get_by_text("Points: 100").wait_for()
    radios = frame.locator(".state-radio")
    wait_for(page, lambda: radios.count() == 2)
    chosen = frame.locator("vz-projector-data-panel").get_by_text("label", exact=True)
    wait_for(page, chosen.count)

    def shown(*colors):
        page.screenshot(path=tmp_path / "projector.png")
        pixels = np.asarray(Image.open(tmp_path / "projector.png").convert("RGB"))[130:990, 320:1080].astype(int)
        return [(np.abs(pixels - color).max(axis=2) < 12).sum() > 20 for color in colors]

    frame.locator(".ink-tab.active[data-tab='pca']").wait_for()
    assert wait_for(page, lambda: all(shown(GREY))) and not any(shown(*COLORS))
    click = "[icon='radio-button-unchecked']"
    radios.nth(0).locator(click).click()
    frame.locator(".ink-tab.active[data-tab='custom']").wait_for()
    assert wait_for(page, lambda: all(shown(*COLORS)))
    radios.nth(1).locator(click).click()
    wrong = sum(row["correct"] == "no" for row in rows(pictured.with_name("earlier") / "eval"))
    frame.get_by_text(f"Selected {wrong} points").wait_for()
    assert wrong > 1 and wait_for(page, lambda: all(shown(SELECTED)))
    assert frame.locator(".run-tsne-iter").text_content() == "0"  # no t-SNE has begun
    frame.locator(".ink-tab[data-tab='pca']").click()  # which is computed anew
    assert wait_for(page, lambda: all(shown(SELECTED)))
    assert page.errors == []


# Of ten classes, as d3's schemeCategory10 has them, but for orange, which an axis has, and grey, which images have.
COLORS = [
    (31, 119, 180), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207),
]  # fmt: skip
GREY, SELECTED = (127, 127, 127), (250, 102, 102)


@pytest.fixture
def opened(page):
    """`opened(path)` shows a report in the browser; in the end nothing went wrong in it, and nothing was fetched."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.errors.clear()

    def show(path):
        page.goto(path.resolve().as_uri())
        page.locator("#classes button").first.wait_for()
        return page

    yield show
    assert page.errors == []
    assert [url.rpartition("/")[-1] for url in requests if not url.startswith("data:")] == ["report.html"]


def choose_the_middle(page):
    """Chooses an image by keys, and returns what is said of it and of its neighbours."""
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    page.locator("#neighbors button").first.wait_for()
    return page.locator("#chosen").inner_text().splitlines(), [
        text.splitlines() for text in page.locator("#neighbors button").all_inner_texts()
    ]


def test_the_map_shows_the_neighbours_of_an_image(opened, pictured, embedded):
    page = opened(pictured / "eval" / "report.html")
    said, neighbors = choose_the_middle(page)
    chosen = int(re.match(r"image (\d+): ", said[0])[1])
    labels = digits().test.labels
    assert said[0] == f"image {chosen}: {labels[chosen]}"
    lengths = np.linalg.norm(embedded[0][chosen] - embedded[0], axis=1)
    lengths[chosen] = np.inf
    expected = [
        [f"{labels[j]}", f"distance {lengths[j]:.2f}" + ", another class" * bool(labels[j] != labels[chosen])]
        for j in np.argsort(lengths)[:8]
    ]
    assert neighbors == expected
    drawn = page.locator("#chosen canvas").evaluate("canvas => canvas.toDataURL()").partition(",")[2]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn))).convert("L"))
    assert pixels.shape == (96, 96)
    np.testing.assert_allclose(pixels[6::12, 6::12], digits().test.images[chosen, ..., 0], atol=2)
    page.locator("#neighbors button").first.click()  # from neighbour to neighbour
    assert page.locator("#chosen").inner_text().startswith(f"image {np.argmin(lengths)}: ")


def test_the_mouse_names_and_chooses_images(opened, pictured):
    page = opened(pictured / "eval" / "report.html")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    for y in np.linspace(0.3, 0.7, 12):  # somewhere there is a dot
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * y)
        if page.locator("#tooltip").is_visible():
            break
    named = page.locator("#tooltip").inner_text()
    assert re.match(r"image \d+: \d\nnearest training image: \d\n(right|wrong), safety ", named)
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#chosen").inner_text() == named
    before = picture_of_the_map(page)
    page.mouse.wheel(0, -500)
    assert different_pixels(before, picture_of_the_map(page)) > 0.005


def picture_of_the_map(page):
    page.wait_for_timeout(150)  # until it is drawn
    return np.asarray(Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")).astype(int)


def different_pixels(one, other):
    return np.mean(np.abs(one - other).max(axis=2) > 40)


def test_classes_are_searched_and_colours_chosen(opened, pictured):
    page = opened(pictured / "eval" / "report.html")
    everything = picture_of_the_map(page)
    assert page.locator("#classes button").count() == 10
    page.locator("#search").fill("3")
    count = int(np.count_nonzero(digits().test.labels == 3))
    assert page.locator("#classes button").all_inner_texts() == [f"3\n{count}"]
    assert page.locator("#found").inner_text() == f"1 classes, {count} images are shown."
    assert different_pixels(everything, picture_of_the_map(page)) > 0.005
    said, _ = choose_the_middle(page)
    assert said[0].endswith(": 3")
    page.keyboard.press("Escape")
    page.locator("#search").fill("")
    page.locator("#classes button").nth(4).click()
    assert page.locator("#classes [aria-pressed=true]").all_inner_texts()[0].startswith("4\n")
    page.locator("#classes button").nth(4).click()
    for by, key in (("correctness", r"wrong \(\d+\)right \(\d+\)"), ("safety", r"below -[\d.]+.*above [\d.]+")):
        page.locator("#color-by").select_option(by)
        assert re.fullmatch(key, page.locator("#key").inner_text().replace("\n", ""))
        assert different_pixels(everything, picture_of_the_map(page)) > 0.005
    page.locator("#show-images").check()
    assert different_pixels(everything, picture_of_the_map(page)) > 0.05


def test_all_of_the_report_is_reached_by_keys_in_order(opened, pictured):
    page = opened(pictured / "eval" / "report.html")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] in ("BODY", "HTML"):
            break
    controls = ["color-by", "show-images", "zoom-in", "zoom-out", "reset", "map", "search"]
    assert [name for name in reached if name in controls] == controls
    assert "SUMMARY" in reached


def test_a_report_of_a_thousand_classes(opened, tmp_path):
    many = view(num_images=2000, num_classes=1000, side=28, spread=4.0)
    page = opened(report_of(many, tmp_path))
    assert page.locator("#classes button").count() == 100
    assert "1,000 classes, 2,000 images are shown; the first 100 are listed" in page.locator("#found").inner_text()
    page.locator("#search").fill("kind 99")
    assert page.locator("#classes button").count() == 11  # 99, and 990 to 999
    said, _ = choose_the_middle(page)
    assert re.match(r"image \d+: kind 99\d?$", said[0])


def report_of(some, folder):
    """Writes a report of what is shown; returns its path."""
    path = folder / "report.html"
    path.write_text(make_report(some, About(Params())), encoding="utf-8")
    return path


def test_two_of_many_classes_are_shown_together(opened, tmp_path):
    page = opened(report_of(view(num_images=300, num_classes=150), tmp_path))
    names = page.locator("#classes button .swatch + span")
    for number, query in ((149, "kind 149"), (7, "kind 7")):
        page.locator("#search").fill(query)
        names.get_by_text(f"kind {number}", exact=True).click()
    page.locator("#search").fill("")
    assert names.all_inner_texts()[:4] == ["kind 149", "kind 7", "kind 0", "kind 1"]
    assert page.locator("#classes [aria-pressed=true]").count() == 2 and names.count() == 102
    assert page.locator("#found").inner_text().startswith("2 classes, 4 images are shown; click their names again")
    page.locator("#search").fill("kind 3")  # 3, and 30 to 39
    assert names.count() == 2 + 11


def test_the_file_of_an_image_is_named(opened, tmp_path):
    some = view(num_images=30)
    files = np.array([f"folder/{i}.png" for i in range(30)], object)
    page = opened(report_of(dataclasses.replace(some, shown=dataclasses.replace(some.shown, files=files)), tmp_path))
    said, _ = choose_the_middle(page)
    chosen = re.match(r"image (\d+): kind \d$", said[0])[1]
    assert said[1] == f"folder/{chosen}.png"
    assert page.locator("#chosen canvas").get_attribute("aria-label") == f"image {chosen}, folder/{chosen}.png"


def test_what_has_no_thumbnail_stays_a_dot(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("model.pictures.page_map._MOST_THUMBNAILS", 1)
    page = opened(report_of(view(num_images=200, spread=0.5), tmp_path))
    before = picture_of_the_map(page)
    page.locator("#show-images").check()
    after = picture_of_the_map(page)
    drawn = np.any(np.abs(before - before[0, -1]) > 40, axis=2).mean()
    assert 0 < different_pixels(before, after) < 0.1 * drawn


def test_another_size_of_the_window_keeps_the_place_and_the_zoom(opened, tmp_path):
    page = opened(report_of(view(num_images=400), tmp_path))
    whole, _ = choose_the_middle(page)
    for key in ("+", "+", "+", "+", "ArrowLeft", "ArrowLeft", "ArrowUp", "+", "+", "+"):
        page.keyboard.press(key)
    before, _ = choose_the_middle(page)
    page.set_viewport_size({"width": 600, "height": 800})
    wait_for(page, lambda: page.locator("#map").evaluate("map => map.width < 600"))  # it is drawn anew
    after, _ = choose_the_middle(page)
    page.keyboard.press("0")
    again, _ = choose_the_middle(page)
    page.set_viewport_size({"width": 1400, "height": 1000})
    assert before == after != whole
    assert again == whole  # nobody moved it


@pytest.mark.parametrize(("side", "rendering"), [(6, "pixelated"), (40, "auto")])
def test_pictures_of_images_are_as_sharp_as_the_screen(page, tmp_path, side, rendering):
    path = report_of(view(side=side, channels=3), tmp_path)
    size = {"width": 390, "height": 800}
    with contextlib.closing(page.context.browser.new_page(device_scale_factor=2, viewport=size)) as phone:
        phone.goto(path.resolve().as_uri())
        choose_the_middle(phone)
        picture = phone.locator("#chosen canvas")
        assert picture.evaluate("canvas => Math.max(canvas.width, canvas.height)") == 2 * 96
        assert picture.bounding_box()["width"] == 96 + 2 * 3  # with its border
        assert picture.evaluate("canvas => getComputedStyle(canvas).imageRendering") == rendering


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_keeps_people_from_reading_the_report(page, pictured, scheme, width):
    """By axe-core, which AXE_CORE names: the file axe.min.js of its npm package."""
    if "AXE_CORE" not in os.environ:
        pytest.skip("needs AXE_CORE, the path of axe.min.js")
    with contextlib.closing(
        page.context.browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    ) as other:
        other.goto((pictured / "eval" / "report.html").resolve().as_uri())
        other.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        other.evaluate(Path(os.environ["AXE_CORE"]).read_text())
        found = other.evaluate("axe.run()")["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
        assert other.evaluate("document.documentElement.scrollWidth") <= width
