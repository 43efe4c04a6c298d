"""The examples run, and what they demonstrate is true."""

import shutil

import PIL.Image
import pytest

from examples import contrastive_vs_triplet
from examples.contrastive_vs_triplet import contrastive, descend, main, random_points, triplet
from model.tests import oracles

pytestmark = pytest.mark.slow

MARGIN = 1.0


def test_contrastive_loss_makes_points_of_classes_and_triplet_loss_stops_at_the_margin():
    labels, start = random_points(3, 10, seed=0)
    pulled = descend(contrastive, labels, start, MARGIN, 240)
    stopped = descend(triplet, labels, start, MARGIN, 240)
    before = oracles.statistics(labels, start, MARGIN)
    after_contrastive = oracles.statistics(labels, pulled.points[-1], MARGIN)
    after_triplet = oracles.statistics(labels, stopped.points[-1], MARGIN)

    assert after_contrastive["mean_positive_dist"] < 0.01 * before["mean_positive_dist"]
    assert after_triplet["mean_positive_dist"] > 0.1 * before["mean_positive_dist"]
    assert before["fraction_positive_triplets"] > 0.5
    assert after_triplet["fraction_positive_triplets"] < 0.001
    # No class is nearer to another one than the margin, and what is left of the losses is next to nothing.
    assert after_contrastive["hardest_negative_dist"] > 0.99 * MARGIN
    assert pulled.losses[-1] < 1e-3 * pulled.losses[0] and stopped.losses[-1] < 1e-3 * stopped.losses[0]


def test_losses_and_distances_shown_are_those_of_the_oracles():
    labels, start = random_points(3, 5, seed=2)
    pulled, stopped = (descend(loss_fn, labels, start, MARGIN, 7) for loss_fn in (contrastive, triplet))
    for step in (0, 3, 7):
        expected = oracles.statistics(labels, stopped.points[step], MARGIN)
        assert stopped.mean_distances(step) == pytest.approx(
            (expected["mean_positive_dist"], expected["mean_negative_dist"]), rel=1e-5
        )
        distances = oracles.pairwise_distances(stopped.points[step])
        losses = [oracles.hinge(distances[a, p] - distances[a, n], MARGIN) for a, p, n in oracles.triplets(labels)]
        assert stopped.losses[step] == pytest.approx(oracles.average(losses), rel=1e-4)
        assert pulled.losses[step] == pytest.approx(oracles.contrastive(labels, pulled.points[step], MARGIN), rel=1e-4)


def test_the_files_are_there_and_can_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(contrastive_vs_triplet, "_FRAMES", 4)
    monkeypatch.setattr(contrastive_vs_triplet, "_FRAMES_AT_START", 1)
    monkeypatch.setattr(contrastive_vs_triplet, "_FRAMES_AT_END", 1)
    folder = tmp_path / "new" / "folder"
    main(f"--output_dir {folder} --num_classes 3 --points_per_class 4 --steps 10".split())
    written = {path.suffix: path for path in folder.iterdir()}
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(f"Wrote {path}" for path in written.values())
    assert written.keys() == ({".gif", ".mp4", ".png"} if shutil.which("ffmpeg") else {".gif", ".png"})
    with PIL.Image.open(written[".gif"]) as picture:
        assert picture.format == "GIF" and picture.n_frames == 4
    with PIL.Image.open(written[".png"]) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > picture.height


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--num_classes", "1", "expected int from 2 to 8, received '1'"),
        ("--num_classes", "9", "expected int from 2 to 8, received '9'"),
        ("--points_per_class", "many", "expected int from 2 to 100, received 'many'"),
        ("--margin", "nan", "expected float from 0.01 to 5, received 'nan'"),
        ("--margin", "0", "expected float from 0.01 to 5, received '0'"),
        ("--seed", "-1", "received '-1'"),
        ("--steps", "0", "expected int from 10 to 10,000, received '0'"),
        ("--marign", "1", "unrecognized arguments: --marign 1"),
        ("--output_dir", __file__, "File exists"),
    ],
)
def test_a_bad_option_is_one_line(tmp_path, capsys, option, value, expected):
    with pytest.raises(SystemExit) as raised:
        main(["--output_dir", str(tmp_path), option, value])
    assert raised.value.code == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert expected in line and output.out == ""
    assert not list(tmp_path.iterdir())
