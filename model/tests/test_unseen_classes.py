"""evaluate.py --one_shot, --pairs and --episodes as a user runs them, and one line for each mistake."""

import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import evaluate
import train
from model import runner
from model.data import datasets
from model.data.partition import divide
from model.params import Params
from model.scoring.record import Record
from model.start import start
from model.tests.experiments import digits, write_params
from model.tests.images import save
from model.tests.runs import write_runs
from model.tests.test_command_lines import refused, run_here


def measured(model_dir, name):
    """What is in the file, as JSON and as it is read again."""
    path = model_dir / "eval" / f"{name}.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    record = Record.read(path)
    assert record.about == content["about"] and record.checkpoint == content["checkpoint"]["name"]
    return content


def printed_rows(out):
    """What stands behind each name: the numbers of its line."""
    rows = re.findall(r"^  +(\S+) +([\d.]+) *(?:\[([\d.]+), ([\d.]+)\])?((?: +[\d.]+)*)$", out, re.MULTILINE)
    return {name: (value, low, high, others.split()) for name, value, low, high, others in rows}


def shown(scores, name):
    return f"{scores[name]:.4f}"


@pytest.fixture
def embed(trained):
    """The embeddings of (N, 8, 8, 1) images by the trained network."""
    return start(trained).trained().embed


@pytest.mark.slow
def test_one_shot_runs(trained_copy, tmp_path, capsys, embed):
    before = (trained_copy / "metrics.json").read_bytes()
    folder = write_runs(tmp_path / "runs", ["run01", "a_run"], size=(8, 8))
    save(folder / "a_run" / "test" / "odd.png", np.zeros((4, 4), np.uint8))
    run_here(evaluate, "--model_dir", trained_copy, "--one_shot", folder, "--baselines")
    output = capsys.readouterr()
    content = measured(trained_copy, "one_shot")
    assert (trained_copy / "metrics.json").read_bytes() == before
    assert "a_run/class_labels.txt: names 1 of 5 test images nowhere, which are left out." in output.err
    expected = {}
    for run in ("a_run", "run01"):
        lines = [line.split() for line in (folder / run / "class_labels.txt").read_text().splitlines()]
        asked, answers = (np.stack([read(folder / path) for path in paths]) for paths in zip(*lines, strict=True))
        for who, points in (("network", [embed(asked), embed(answers)]), ("raw_pixels", [asked, answers])):
            test, known = (np.float64(p).reshape(len(p), -1) for p in points)
            distances = np.linalg.norm(test[:, np.newaxis] - known, axis=2)
            expected[who, run] = np.mean(distances.argmin(axis=1) != np.arange(len(lines)))
    contenders = {"network": content["metrics"], **content["baselines"]}
    assert list(contenders) == ["network", "raw_pixels", "untrained"]
    for (who, run), error in expected.items():
        assert contenders[who][f"error/{run}"] == pytest.approx(error)
    assert contenders["network"]["num_test_images"] == 8 and contenders["network"]["global_step"] == 180
    assert contenders["network"]["error"] == np.mean([expected["network", run] for run in ("a_run", "run01")])
    rows = printed_rows(output.out)
    assert list(rows) == ["error", "a_run", "run01"]
    scores = content["metrics"]
    assert rows["error"][:3] == tuple(shown(scores, name) for name in ("error", "error_low95", "error_high95"))
    assert rows["run01"][3] == [shown(contenders[who], "error/run01") for who in ("raw_pixels", "untrained")]
    assert content["about"] == {"folder": str(folder), "seed": 230}
    assert "digits, 2 one-shot runs of " in output.out and str(trained_copy / "eval" / "one_shot.json") in output.out


def read(path):
    """An image file as the network takes it, by Pillow alone: black on white stays black on white."""
    from PIL import Image

    return np.asarray(Image.open(path).convert("L"))[..., np.newaxis]


@pytest.mark.slow
def test_raw_pixels_stand_beside_one_shot_runs_without_being_asked_for(trained_copy, tmp_path, capsys):
    run_here(evaluate, "--model_dir", trained_copy, "--one_shot", write_runs(tmp_path / "runs"))
    assert list(measured(trained_copy, "one_shot")["baselines"]) == ["raw_pixels"]
    assert re.search(r"network +95 % interval +raw_pixels$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_pairs(trained_copy, tmp_path, capsys, embed, few_resamples):
    data = digits().test
    images, labels = data.images[:40], data.labels[:40]
    for number, image in enumerate(images):
        save(tmp_path / "digits" / f"{number}.png", image[..., 0])
    random = np.random.default_rng(0)
    listed = [(a, b) for a in range(40) for b in range(a) if labels[a] == labels[b] or random.random() < 0.1]
    is_same = np.array([labels[a] == labels[b] for a, b in listed])
    rows = [f"digits/{a}.png,digits/{b}.png,{labels[a] == labels[b]},{n % 4}" for n, (a, b) in enumerate(listed)]
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(["path_1,path_2,same,fold", *rows]))
    run_here(evaluate, "--model_dir", trained_copy, "--pairs", file)
    scores, out = measured(trained_copy, "pairs")["metrics"], capsys.readouterr().out
    points = embed(images).astype(np.float64)
    lengths = np.array([np.linalg.norm(points[a] - points[b]) for a, b in listed])
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(is_same, -lengths), abs=2e-3)  # nearly ties
    assert scores["num_pairs"] == len(listed) and scores["num_images"] == 40 and scores["num_folds"] == 4
    shown_rows = printed_rows(out)
    for name in ("accuracy", "roc_auc", "eer"):
        assert shown_rows[name] == (*(shown(scores, n) for n in (name, f"{name}_low95", f"{name}_high95")), [])
    assert (
        f"of 4 folds, each at the threshold of the others; standard error {scores['accuracy_standard_error']:.4f}"
        in out
    )
    assert scores["tar_at_far_1e-3"] is None and "tar_at_far_1e-3 " in out
    assert measured(trained_copy, "pairs")["about"] == {"file": str(file), "folds": "of the file", "seed": 230}


@pytest.mark.slow
def test_each_image_is_embedded_once(trained_copy, tmp_path, monkeypatch, few_resamples):
    embedded = []
    monkeypatch.setattr(
        runner.Trained, "embed", lambda self, images: embedded.append(len(images)) or np.eye(len(images))
    )
    for number in range(5):
        save(tmp_path / f"{number}.png", np.full((8, 8), number, np.uint8))
    rows = [f"{a}.png,{b}.png,{a % 2 == b % 2}" for a in range(5) for b in range(a)] * 20
    (tmp_path / "pairs.csv").write_text("\n".join(["path_1,path_2,same", *rows]))
    run_here(evaluate, "--model_dir", trained_copy, "--pairs", tmp_path / "pairs.csv")
    assert embedded == [5]
    assert measured(trained_copy, "pairs")["about"]["folds"] == "dealt in its order"


@pytest.mark.slow
def test_episodes_of_test_images(trained_copy, capsys):
    run_here(evaluate, "--model_dir", trained_copy, "--episodes", "5x1", "3x5", "5x1", "--num_episodes", 30)
    content, out = measured(trained_copy, "episodes"), capsys.readouterr().out
    scores = content["metrics"]
    assert content["about"] == {"classes": "test", "num_queries": 15, "within_parents": False, "seed": 230}
    assert (scores["num_classes"], scores["num_images"], scores["num_episodes"]) == (10, 359, 30)
    rows = printed_rows(out)
    assert list(rows) == ["5x1/nearest_image", "5x1/class_mean", "3x5/nearest_image", "3x5/class_mean"]
    for name, row in rows.items():
        assert row == (*(shown(scores, n) for n in (name, f"{name}_low95", f"{name}_high95")), [])
        assert 0.8 < scores[name] <= 1
    assert "30 episodes, of 10 classes (test images, as no classes are unseen), 359 images, step 180" in out


@pytest.mark.slow
@pytest.mark.usefixtures("instant_scores")
def test_episodes_are_of_the_classes_that_nobody_learned_from(tmp_path, capsys, monkeypatch):
    """Of all their images, those of training and of test, and of no others."""
    model_dir = write_params(tmp_path, num_epochs=1, holdout_classes=[3, 5, 8])
    monkeypatch.setattr(Record, "table", "")
    run_here(train, "--model_dir", model_dir)
    seen = []
    monkeypatch.setattr(
        runner.Trained, "embed",
        lambda self, images: seen.append(images) or images.reshape(len(images), -1).astype(np.float32),
    )  # fmt: skip
    run_here(evaluate, "--model_dir", model_dir, "--episodes", "3x1", "--num_episodes", 5, "--baselines")
    data = digits()
    expected = np.concatenate([split.images[np.isin(split.labels, [3, 5, 8])] for split in (data.test, data.train)])
    np.testing.assert_array_equal(np.concatenate(seen), expected)
    content = measured(model_dir, "episodes")
    assert content["about"]["classes"] == "unseen" and content["metrics"]["num_classes"] == 3
    network, pixels = content["metrics"]["3x1/nearest_image"], content["baselines"]["raw_pixels"]["3x1/nearest_image"]
    assert network == pytest.approx(pixels, abs=1e-6) and list(content["baselines"]) == ["raw_pixels", "untrained"]
    assert "3 classes (never learned from)" in capsys.readouterr().out


def test_parents_are_those_of_the_names(tmp_path):
    """Of Greek/alpha it is Greek."""
    for split in ("train", "test"):
        for name in ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b"):
            for number in range(2):
                save(tmp_path / split / name / f"{number}.png", np.full((4, 4), 50 * number, np.uint8))
    params = Params(dataset="letters", batch_size=4, holdout_classes=["Greek/*"])
    partition = divide(datasets.load_for(params, tmp_path), params)
    first, second, third, fourth = partition.parents.tolist()
    assert first == second != third == fourth
    assert [len(split.labels) for split in partition.never_learned_from] == [4, 4]
    assert partition.has_unseen and set(partition.never_learned_from[0].labels.tolist()) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--episodes", "11x1"], "--episodes 11x1: expected 11 classes of 2 images at least, .* there are 10"),
        (["--episodes", "5x1", "2x40"], "--episodes 2x40: expected 2 classes of 41 images at least"),
        (
            ["--episodes", "2x1", "--within_parents"],
            "--within_parents needs classes whose names form a tree, .* 0, 1, 2",
        ),
    ],
)
def test_episodes_that_the_data_cannot_fill(trained_copy, capsys, arguments, expected):
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", trained_copy, *arguments)
    assert raised.value.code == 2
    assert re.search(expected, capsys.readouterr().err.splitlines()[-1])
    assert not (trained_copy / "eval" / "episodes.json").exists()


@pytest.mark.slow
def test_a_damaged_image_writes_nothing(trained_copy, tmp_path, capsys):
    folder = write_runs(tmp_path / "runs")
    (folder / "run02" / "test" / "item03.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", trained_copy, "--one_shot", folder)
    assert raised.value.code == 2
    assert "run02/test/item03.png: no readable image" in capsys.readouterr().err.splitlines()[-1]
    assert not (trained_copy / "eval" / "one_shot.json").exists()


@pytest.mark.slow
def test_scores_that_cannot_be_written_are_printed(trained_copy, tmp_path, capsys, monkeypatch):
    shutil.rmtree(trained_copy / "eval")
    (trained_copy / "eval").write_text("a file")
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", trained_copy, "--one_shot", write_runs(tmp_path / "runs"))
    assert raised.value.code == 2
    output = capsys.readouterr()
    assert list(printed_rows(output.out)) == ["error", "run01", "run02"]
    assert output.err.splitlines()[-1].startswith(f"{trained_copy / 'eval'}: File exists")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--one_shot", ".", "--pairs", "x.csv"],
            "--one_shot and --pairs do not go together; measure one after the other",
        ),
        (["--pairs", "x.csv", "--episodes", "5x1"], "--pairs and --episodes do not go together"),
        (["--within_parents"], "--within_parents: only with --episodes"),
        (["--pairs", "x.csv", "--num_episodes", "5"], "--num_episodes: only with --episodes"),
        (["--num_queries", "5", "--within_parents"], "--num_queries and --within_parents: only with --episodes"),
        (["--episodes", "20"], "--episodes: expected NxK, as 20x1 for 20 classes with one image of each"),
        (["--one_shot", "nowhere"], "nowhere: No such file or directory; --one_shot expects a folder of runs"),
        (["--pairs", "nowhere.csv"], "nowhere.csv: No such file or directory; --pairs expects a CSV file"),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_starts(tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.setattr(evaluate, "start", None)
    assert refused(capsys, evaluate, "--model_dir", write_params(tmp_path), *arguments).startswith(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["params.json"]
