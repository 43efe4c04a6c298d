"""predict.py on drawings that the tests make themselves: what they show, what is near them, what two of them share."""

import io
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from model.common import cli
from model.common.errors import UserError
from model.new_images import answers
from model.new_images.answers import Gallery, NewImages
from model.new_images.convert import Converted
from model.scoring.record import Record
from model.start import start
from model.tests.drawings import draw
from model.tests.experiments import digits, estimator, write_params
from model.training import checkpoints
from model.training.learner import Learner

READER = {"num_blocks": 2, "num_channels": 16, "embedding_size": 16}
RATES = {"verification_threshold": 1.5, "false_accept_rate": 0.0125, "false_reject_rate": 0.03}


def ask(capsys, *arguments):
    """Runs the command in this process; returns what it prints."""
    cli.run(predict.main, "", [str(argument) for argument in arguments], predict.add_options)
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """Runs the command, which must end with exit code 2 and say nothing but errors; returns the last line of them."""
    with pytest.raises(SystemExit) as raised:
        ask(capsys, *arguments)
    assert raised.value.code == 2
    output = capsys.readouterr()
    assert output.out == "" and "Traceback" not in output.err
    return output.err.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(made_once):
    """An experiment that has learned enough to read what somebody draws, and was asked once; to be read only."""

    def train(folder):
        start(write_params(folder, **READER, num_epochs=4), None).train()
        cli._end_log()
        draw(0).save(folder / "zero.png")
        cli.run(predict.main, "", ["--model_dir", str(folder), str(folder / "zero.png")], predict.add_options)

    return made_once("reads_drawings", train)


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(trained, tmp_path / "experiment")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Ten digits, white on black and black on white, in many sizes and modes."""
    folder = tmp_path_factory.mktemp("drawings")
    modes = ("L", "RGB", "RGBA", "P", "CMYK")
    for digit in range(10):
        mode = modes[digit % 5]
        for name, (ink, paper) in {"white": (255, 0), "black": (0, 255)}.items():
            picture = draw(digit, (100 + 40 * digit, 500 - 30 * digit), ink, paper, pen=0.13).convert("RGB")
            picture.convert(mode).save(folder / f"{name}-{digit}.{'jpg' if mode == 'CMYK' else 'png'}")
    return folder


@pytest.fixture(scope="module")
def answer(trained, drawings):
    """What `--json` says of all drawings, and the `.npy` file."""
    output = drawings.parent / "embeddings.npy"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        cli.run(
            predict.main,
            "",
            ["--model_dir", str(trained), str(drawings), "--json", "--output", str(output)],
            predict.add_options,
        )
    return json.loads(printed.getvalue(), parse_constant=pytest.fail), np.load(output)


# ------------------------------------------------------------------------------------------- what an image shows


def test_ten_drawings_are_recognized(answer):
    images = answer[0]["images"]
    names = [Path(image["file"]).stem for image in images]
    assert names == [f"{color}-{digit}" for color in ("black", "white") for digit in range(10)]
    right = [image["predicted"] == name[-1] for image, name in zip(images, names, strict=True)]
    assert sum(right) >= 18, [image["predicted"] for image in images]


def test_black_on_white_or_white_on_black_makes_no_difference(answer):
    images, embeddings = answer[0]["images"], answer[1]
    lengths = np.linalg.norm(embeddings, axis=1)
    for digit, (black, white) in enumerate(zip(images[:10], images[10:], strict=True)):
        assert black["predicted"] == white["predicted"]
        assert "inverted" in black["conversions"] and "inverted" not in white["conversions"]
        assert np.linalg.norm(embeddings[digit] - embeddings[digit + 10]) < 0.05 * lengths[digit]


def test_the_neighbors_are_what_plain_loops_find(answer, trained):
    data, run = digits(), estimator(trained, **READER)
    training = run.predict(lambda: data.train.images)["embeddings"].astype(float)
    assert answer[0]["step"] == 90 and answer[0]["experiment"] == str(trained)
    for image, embedding in zip(answer[0]["images"], answer[1], strict=True):
        np.testing.assert_array_equal(np.float32(image["embedding"]), embedding)
        distances = np.sqrt(((training - embedding.astype(float)) ** 2).sum(axis=1))
        nearest = np.sort(distances)[:5]
        assert len(image["neighbors"]) == 5
        np.testing.assert_allclose([neighbor["distance"] for neighbor in image["neighbors"]], nearest, rtol=1e-4)
        for neighbor in image["neighbors"]:
            assert distances[neighbor["index"]] == pytest.approx(neighbor["distance"], rel=1e-4)
            assert neighbor["label"] == str(data.train.labels[neighbor["index"]])
        labels = [neighbor["label"] for neighbor in image["neighbors"]]
        assert image["votes"] == labels.count(image["predicted"]) == max(map(labels.count, labels))


def test_images_of_the_test_set_have_the_embeddings_of_the_evaluation(trained, tmp_path, capsys):
    data = digits()
    expected = estimator(trained, **READER).predict(lambda: data.test.images)["embeddings"]
    for index in range(100):
        Image.fromarray(data.test.images[index, ..., 0]).save(tmp_path / f"{index:03}.png")
    printed = ask(capsys, "--model_dir", trained, tmp_path, "--output", tmp_path / "x.npy", "--neighbors", 1)
    embeddings = np.load(tmp_path / "x.npy")
    assert embeddings.dtype == np.float32 and embeddings.shape == (100, 16)
    np.testing.assert_allclose(embeddings, expected[:100], atol=1e-5)
    assert printed.splitlines()[-1].endswith("000.png and 99 more: 8x8 grey -> as it is")
    predicted = [line.split()[1] for line in printed.splitlines()[1:101]]
    assert np.mean(np.array(predicted) == data.test.labels[:100].astype(str)) > 0.9


def test_the_table(trained, drawings, answer, capsys):
    files = sorted(drawings.iterdir())[10:12]
    lines = ask(capsys, "--model_dir", trained, *files, "--neighbors", 40).splitlines()
    assert lines[0].split() == ["image", "predicted", "votes", "nearest", "training", "images", "(euclidean)"]
    assert max(map(len, lines)) <= 100 and lines[3] == ""
    for line, file, image in zip(lines[1:3], files, answer[0]["images"][10:12], strict=True):
        name, predicted, votes, *nearest, dots = line.split()
        assert str(file).endswith(name.removeprefix("…")) and predicted == image["predicted"]
        assert votes.endswith("/40") and dots == "..."
        first = image["neighbors"][0]
        assert nearest[:2] == [first["label"], f"{first['distance']:.2f}"] and len(nearest) > 6
    said = " ".join(" ".join(lines[4:]).split())
    assert "100x500 grey -> cropped to its content, 8 pixels, centred by box" in said
    assert "140x470 RGB -> grey, cropped to its content, 8 pixels, centred by box" in said


def test_votes_and_ties():
    gallery_embeddings = np.array([[1.0], [2.0], [-3.0], [4.0], [50.0]], np.float32)
    one = Converted(np.zeros((1, 1, 1), np.uint8), (1, 1), "grey", (), False)
    images = NewImages([Path("x.png")], [one], np.zeros((1, 1), np.float32))
    names = ["cat", "dog", "cow"]
    for k, label, votes in ((1, "cow", 1), (2, "cow", 1), (3, "dog", 2), (4, "cow", 2), (99, "cow", 2)):
        gallery = Gallery(gallery_embeddings, np.array([2, 1, 1, 2, 0]), names)
        (seen,) = answers.classify(images, gallery, k, "").predictions
        assert (seen.label, seen.votes, len(seen.neighbors)) == (label, votes, min(k, 5))
        assert [neighbor.distance for neighbor in seen.neighbors] == [1, 2, 3, 4, 50][:k]


def test_names_of_any_length_fit_into_the_table():
    one = Converted(np.zeros((1, 1, 1), np.uint8), (7, 9), "grey", (), False)
    files = [Path("a" * 300), Path("line\nbreak\udcff.png")]
    images = NewImages(files, [one] * 2, np.zeros((2, 1), np.float32))
    names = ["label " * 30, "b"]
    said = answers.classify(images, Gallery(np.ones((9, 1), np.float32), np.array([0] * 8 + [1]), names), 9, "why")
    lines = said.as_text().splitlines()
    assert len(lines) == 7 and max(map(len, lines)) <= 100
    said.as_text().encode()
    json.dumps(said.as_json()).encode()


def test_a_blank_image_is_warned_of(trained, tmp_path, capsys):
    Image.new("RGB", (50, 70), (250, 250, 250)).save(tmp_path / "blank.png")
    cli.run(predict.main, "", ["--model_dir", str(trained), str(tmp_path / "blank.png"), "--json"], predict.add_options)
    output = capsys.readouterr()
    (image,) = json.loads(output.out)["images"]
    assert image["blank"] and image["predicted"] in digits().class_names
    warnings = [line for line in output.err.splitlines() if "blank.png" in line]
    assert warnings == [f"{tmp_path / 'blank.png'}: shows nothing but background; its embedding means nothing."]


def test_the_answer_is_printed_and_no_more(trained, drawings, capfd):
    """Not even by the libraries underneath, which write past Python."""
    cli.run(predict.main, "", ["--model_dir", str(trained), str(drawings / "white-3.png")], predict.add_options)
    output = capfd.readouterr()
    header, row, empty, *converted = output.out.splitlines()
    assert header.startswith("image") and "white-3.png" in row and not empty
    assert " ".join(" ".join(converted).split()).endswith("grey, cropped to its content, 8 pixels, centred by box, 8x8")
    device, data = output.err.splitlines()
    assert "unning on " in device and data.startswith("digits: 1438 training")


# ------------------------------------------------------------------------------------------- the gallery is kept


def test_the_training_images_are_embedded_once(model_dir, drawings, capsys, embedded):
    shutil.rmtree(model_dir / "eval")
    first = ask(capsys, "--model_dir", model_dir, drawings)
    assert embedded == [20, 1438]
    assert ask(capsys, "--model_dir", model_dir, drawings) == first
    assert embedded == [20, 1438, 20]


# ------------------------------------------------------------------------------------------- two images


def calibrate(model_dir, **changes):
    newest = checkpoints.load_newest(model_dir)
    Record(newest.path.name, newest.digest, {"global_step": 90, **RATES, **changes}).write(model_dir / "metrics.json")


def test_a_pair(model_dir, drawings, answer, capsys):
    files = [drawings / "black-3.png", drawings / "white-8.png"]
    distance = float(np.linalg.norm(answer[1][3] - answer[1][18]))
    for threshold, same in ((distance * 0.99, False), (distance * 1.01, True)):
        calibrate(model_dir, verification_threshold=threshold)
        text = ask(capsys, "--model_dir", model_dir, "--pair", *files)
        assert text.startswith("same: " if same else "different: ")
        assert f"distance {distance:.4f} (euclidean), the same up to {threshold:.4f}" in text
        assert "of pairs of two classes 1.25% are called the same, of pairs of one class 3.00% different" in text
        assert "never trained on" not in text and max(map(len, text.splitlines())) <= 100
    said = json.loads(ask(capsys, "--model_dir", model_dir, "--json", "--pair", *files))
    assert said["distance"] == pytest.approx(distance, rel=1e-4)
    assert said["same"] is True and said["verification_threshold"] == threshold
    assert (said["false_accept_rate"], said["false_reject_rate"]) == (0.0125, 0.03)
    assert [image["file"] for image in said["images"]] == list(map(str, files))


def test_an_image_is_the_same_as_itself_at_distance_0(model_dir, drawings, capsys):
    calibrate(model_dir, verification_threshold=0)
    file = drawings / "white-0.png"
    assert ask(capsys, "--model_dir", model_dir, "--pair", file, file).startswith("same: ")


def test_the_threshold_of_classes_never_trained_on_decides(model_dir, drawings, answer, capsys):
    """New images are of such classes; the rates of all test images are told as well."""
    files = [drawings / "black-3.png", drawings / "white-8.png"]
    distance = float(np.linalg.norm(answer[1][3] - answer[1][18]))
    rates = {"unseen/false_accept_rate": 0.2, "unseen/false_reject_rate": 0.1}
    for factor, of_all, same in ((1.01, 0.5, True), (0.99, 2.0, False)):
        threshold = distance * factor
        calibrate(
            model_dir,
            verification_threshold=distance * of_all,
            **{"unseen/verification_threshold": threshold, **rates},
        )
        text = ask(capsys, "--model_dir", model_dir, "--pair", *files)
        assert text.startswith("same: " if same else "different: ") and max(map(len, text.splitlines())) <= 100
        said = " ".join(text.split())
        assert f"the same up to {threshold:.4f}, the threshold of classes never trained on" in said
        assert "20.00% are called the same, of pairs of one class 10.00% different: classes never trained on" in said
        assert f"3.00% different: all test images, at their own threshold {distance * of_all:.4f}" in said
        content = json.loads(ask(capsys, "--model_dir", model_dir, "--json", "--pair", *files))
        assert (content["same"], content["threshold_of"]) == (same, "unseen")
        assert content["threshold"] == content["unseen/verification_threshold"] == threshold
        assert content["verification_threshold"] == distance * of_all and content["unseen/false_accept_rate"] == 0.2


def test_without_all_rates_of_such_classes_those_of_the_test_images_decide(model_dir, drawings, capsys):
    calibrate(model_dir, **{"unseen/verification_threshold": 0.0, "unseen/false_accept_rate": math.nan})
    pair = ["--pair", drawings / "white-0.png", drawings / "white-1.png"]
    content = json.loads(ask(capsys, "--model_dir", model_dir, *pair, "--json"))
    assert (content["threshold"], content["threshold_of"]) == (1.5, "test")
    assert not any(name.startswith("unseen/") for name in content)


@pytest.mark.parametrize(
    "metrics", [None, "{", "[]", '{"metrics": {"global_step": 90}}', '{"checkpoint": 1}', '{"metrics": {"x": "y"}}']
)
def test_a_pair_without_calibration(model_dir, drawings, capsys, metrics):
    if metrics is None:
        assert not (model_dir / "metrics.json").exists()
    else:
        (model_dir / "metrics.json").write_text(metrics)
    line = refused(capsys, "--model_dir", model_dir, "--pair", drawings / "white-0.png", drawings / "white-1.png")
    expected = f"no calibrated threshold there; run: python evaluate.py --model_dir {model_dir}"
    assert line == f"{model_dir / 'metrics.json'}: {expected}"


def test_test_images_that_calibrate_nothing(model_dir, drawings, capsys):
    calibrate(model_dir, false_accept_rate=math.nan)
    line = refused(capsys, "--model_dir", model_dir, "--pair", drawings / "white-0.png", drawings / "white-1.png")
    assert "the test images have too few pairs of one class" in line


def test_a_calibration_of_another_checkpoint(model_dir, drawings, capsys):
    """Of another step, or of another network that has come as far."""
    pair = ["--model_dir", model_dir, "--pair", drawings / "white-0.png", drawings / "white-1.png"]
    Record("step-00000080", "0", {"global_step": 80, **RATES}).write(model_dir / "metrics.json")
    assert "tells of step-00000080, not of" in refused(capsys, *pair)
    Record("step-00000090", "0", {"global_step": 90, **RATES}).write(model_dir / "metrics.json")
    line = refused(capsys, *pair)
    assert "tells of another step-00000090, not of" in line and "run: python evaluate.py --model_dir" in line


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "either images or --pair"),
        (["white-0.png", "--pair", "white-0.png", "white-1.png"], "either images or --pair"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (["white-0.png", "notes.txt"], "notes.txt: no readable image"),
        (["empty"], "empty: holds no image"),
        (["--pair", "white-0.png", "empty"], "empty: a folder; --pair expects two image files"),
        (["--pair", "white-0.png", "nowhere.png"], "nowhere.png: no such file"),
        (["white-0.png", "--output", "x.txt"], "x.txt: expected --output to be the name of a .npy file"),
        (["white-0.png", "--output", "nowhere/x.npy"], "nowhere/x.npy: expected --output"),
        (["white-0.png", "--output", "folder.npy"], "folder.npy: expected --output"),
        (["white-0.png", "--neighbors", "0"], "--neighbors: expected a whole number from 1 to 100, received 0"),
        (["--pair", "white-0.png"], "--pair: expected 2 arguments"),
        (["--pair", "white-0.png", "white-1.png", "--gallery", "."], "--gallery does not go with --pair"),
        (["--pair", "white-0.png", "white-1.png", "--neighbors", "5"], "--neighbors does not go with --pair"),
        (
            ["--pair", "white-0.png", "white-1.png", "--false_accept_rate", "0.1"],
            "--false_accept_rate does not go with",
        ),
        (["--pair", "white-0.png", "white-1.png", "--false_accept_rate", "off"], "--false_accept_rate does not go"),
        *(
            (
                ["white-0.png", "--false_accept_rate", rate],
                f"off or a number between 0 and 1, such as 0.01, received {rate}",
            )
            for rate in ("0", "1", "1%", "nan", "-0.1", "2", "OFF", "", "none")
        ),
    ],
)
def test_a_mistake_is_told_before_anything_happens(
    model_dir, drawings, tmp_path, monkeypatch, capsys, arguments, expected
):
    for name in ("empty", "folder.npy"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("not an image")
    for name in ("white-0.png", "white-1.png"):
        shutil.copy(drawings / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "start", pytest.fail)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert expected in refused(capsys, "--model_dir", model_dir, *arguments)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_before_training(tmp_path, drawings, capsys):
    line = refused(capsys, "--model_dir", write_params(tmp_path / "mine"), drawings)
    assert line.endswith(f"train first: python train.py --model_dir {tmp_path / 'mine'}")


def test_a_checkpoint_that_is_not_there(trained, drawings, capsys):
    line = refused(capsys, "--model_dir", trained, drawings, "--checkpoint", "checkpoints/step-00000999")
    assert "step-00000999: no such checkpoint" in line


def test_embeddings_that_are_no_numbers(trained, drawings, capsys, monkeypatch):
    """Weights near the largest number there is are finite, what they make of an image is not."""
    restore = Learner.restore

    def restore_and_blow_up(self, *arguments):
        restore(self, *arguments)
        for variable in self.network.trainable_variables:
            variable.assign(variable * 1e30)

    monkeypatch.setattr(Learner, "restore", restore_and_blow_up)
    assert "an embedding is NaN or infinite" in refused(capsys, "--model_dir", trained, drawings)


def test_a_pair_before_evaluation_names_the_data_that_were_named(tmp_path):
    data = tmp_path / "mine.data"
    with pytest.raises(UserError, match=rf"run: python evaluate.py --model_dir {tmp_path} --data_dir {data}$"):
        answers.read_calibration(tmp_path, data)
    calibration = answers.Calibration(tmp_path, "step-00000001", "0f", {}, data)
    with pytest.raises(UserError, match=rf"evaluate.py --model_dir {tmp_path} --data_dir {data} --checkpoint newest$"):
        calibration.check(tmp_path / "step-00000002", "1e", "newest")
