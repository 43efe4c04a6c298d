"""Two commands at once on the same files: none is half-written, nothing is lost, who is refused says so in one line."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model.tests.common.test_files import check_race
from model.tests.experiments import digits, final_tensors, write_params
from model.tests.images import save
from model.tests.proofs.cases import check_whole, line_of_refusal, survives
from model.tests.proofs.lives import Life, complete, contents, differences, run
from model.training import checkpoints

pytestmark = pytest.mark.proof

# Trains for a while, and deletes a checkpoint with nearly each that it saves.
LONG = {"num_epochs": 60, "save_checkpoints_steps": 5, "keep_checkpoint_max": 1}
SHORT = {"num_epochs": 4, "validation_size": 0.2, "evaluate_every_epochs": 1}

TRAINS = "{}: another process is training here; wait for it or stop it"
SEARCHES = "{}: another process searches here; wait for it or stop it"


def both(first: tuple, second: tuple, refusal: str = "") -> list[int]:
    """Starts two commands at once; returns the exit codes. At most one is refused, for this reason alone."""
    lives = [Life(script, arguments) for script, *arguments in (first, second)]
    ended = [life.end() for life in lives]
    for code, _, said in ended:
        assert code == 0 or (code == 2 and line_of_refusal(said) == refusal), (code, said)
    codes = [code for code, _, _ in ended]
    assert codes != [2, 2]
    return codes


class Reference:
    """What comes of commands that nobody disturbs; each is run once."""

    def __init__(self, root: Path, trained: Path) -> None:
        self.root, self.trained = root, trained

    def of_training(self, name: str, **params: object) -> Path:
        """Returns the folder of an experiment that was trained."""
        folder = self.root / name
        if not folder.exists():
            complete("train.py", "--model_dir", write_params(folder, **params))
        return folder

    def of_trained(self, name: str, script: str, *options: object) -> Path:
        """Returns a copy of the trained experiment on which a command was run."""
        folder = self.root / name
        if not folder.exists():
            shutil.copytree(self.trained, folder)
            complete(script, "--model_dir", folder, *options)
        return folder


def check_same(folder: Path, expected: Path) -> None:
    """Makes sure that two folders hold the same."""
    different = differences(folder, expected)
    assert not different, different


def two_trainings(folder: Path, reference: Reference) -> None:
    mine = write_params(folder, **SHORT)
    command = ("train.py", "--model_dir", mine)
    both(command, command, TRAINS.format(mine))
    complete(*command)  # whoever won may have been refused the evaluation at its end
    check_same(mine, reference.of_training("train", **SHORT))


def two_trainings_beside_each_other(folder: Path, reference: Reference) -> None:
    commands = [("train.py", "--model_dir", write_params(folder / name, **SHORT)) for name in ("a", "b")]
    assert both(*commands) == [0, 0]
    check_same(folder / "a", folder / "b")
    complete("compare_experiments.py", folder)


def two_evaluations(folder: Path, reference: Reference) -> None:
    shutil.copytree(reference.trained, folder)
    (folder / "metrics.json").unlink()
    command = ("evaluate.py", "--model_dir", folder)
    assert both(command, command) == [0, 0]
    check_same(folder, reference.trained)


def two_visualizations(folder: Path, reference: Reference) -> None:
    options = ("--no_tsne", "--num_images", 50)
    expected = reference.of_trained("visualize", "visualize_embeddings.py", *options)
    mine = shutil.copytree(reference.trained, folder / "mine")
    command = ("visualize_embeddings.py", "--model_dir", mine, *options)
    assert both(command, command) == [0, 0]
    check_same(mine, expected)


def two_visualizations_in_place_of_another(folder: Path, reference: Reference) -> None:
    """What was there before is taken away by one of them."""
    options = ("--no_tsne", "--num_images", 50)
    expected = reference.of_trained("visualize", "visualize_embeddings.py", *options)
    mine = shutil.copytree(reference.trained, folder / "mine")
    complete("visualize_embeddings.py", "--model_dir", mine, "--no_tsne", "--num_images", 60)
    command = ("visualize_embeddings.py", "--model_dir", mine, *options)
    assert both(command, command) == [0, 0]
    check_same(mine, expected)


def two_predictions(folder: Path, reference: Reference) -> None:
    mine = shutil.copytree(reference.trained, folder / "mine")
    image = save(folder / "image.png", digits().test.images[0, ..., 0])
    command = ("predict.py", image, "--model_dir", mine, "--output", folder / "embeddings.npy")
    assert both(command, command) == [0, 0]
    found = (folder / "embeddings.npy").read_bytes(), (mine / "eval" / "gallery.npz").read_bytes()
    (mine / "eval" / "gallery.npz").unlink()
    complete(*command)
    assert found == ((folder / "embeddings.npy").read_bytes(), (mine / "eval" / "gallery.npz").read_bytes())


def evaluation_and_visualization(folder: Path, reference: Reference) -> None:
    mine = shutil.copytree(reference.trained, folder / "mine")
    drawn = ("visualize_embeddings.py", "--model_dir", mine, "--no_tsne", "--num_images", 50)
    assert both(("evaluate.py", "--model_dir", mine), drawn) == [0, 0]
    assert contents(mine)["metrics.json"] == contents(reference.trained)["metrics.json"]


def beside_a_training(script: str, *options: object) -> Callable[[Path, Reference], None]:
    """A command that reads checkpoints, again and again, while a training deletes them."""

    def case(folder: Path, reference: Reference) -> None:
        mine = write_params(folder, **LONG)
        image = [save(folder / "image.png", digits().test.images[0, ..., 0])] if script == "predict.py" else []
        training, times = Life("train.py", ["--model_dir", mine]), 0
        training.sleep(lambda: checkpoints.list_checkpoints(mine) != [])
        while training.is_running() or not times:
            complete(script, *image, "--model_dir", mine, *options)
            times += 1
        code, _, said = training.end()
        assert code == 0, said
        assert final_tensors(mine) == final_tensors(reference.of_training("long", **LONG))

    return case


def comparisons_beside_a_training(folder: Path, reference: Reference) -> None:
    shutil.copytree(reference.trained, folder / "done")
    training, seen = Life("train.py", ["--model_dir", write_params(folder / "mine", **SHORT)]), set()
    while training.is_running():
        seen.add(len(complete("compare_experiments.py", folder, "--format", "csv").splitlines()))
    assert training.end()[0] == 0 and seen <= {2, 3}


def two_searches(**space: object) -> Callable[[Path, Reference], None]:
    def case(folder: Path, reference: Reference) -> None:
        write_params(folder, **SHORT)
        (folder / "search.json").write_text(json.dumps(space))
        command = ("search_hyperparams.py", "--parent_dir", folder)
        both(command, command, SEARCHES.format(folder))
        code, printed, said = run(*command)
        assert code == 0 and len(list(folder.glob("*/validation.json"))) == 2, said
        starts = [re.findall("Going on", path.read_text()) for path in folder.glob("*/output.log")]
        assert starts == [[], []] and "Best: " in printed, said

    return case


def a_search_and_a_training_of_its_trial(folder: Path, reference: Reference) -> None:
    write_params(folder, **SHORT)
    (folder / "search.json").write_text(json.dumps({"vary": {"margin": [0.2, 0.3]}}))
    trial = write_params(folder / "margin=0.2", **SHORT, margin=0.2)
    search = Life("search_hyperparams.py", ["--parent_dir", folder])
    code, _, said = run("train.py", "--validate", "--model_dir", trial)
    assert code == 0 or (code == 2 and line_of_refusal(said) == TRAINS.format(trial)), said
    code, _, said = search.end()
    assert code == 0, said
    assert len(list(folder.glob("*/validation.json"))) == 2 and not list(folder.glob("*/failed"))


RACES: list[Callable[[Path, Reference], None]] = [
    *[two_trainings] * 4,
    *[two_trainings_beside_each_other] * 2,
    *[two_evaluations] * 3,
    *[two_visualizations] * 2,
    *[two_visualizations_in_place_of_another] * 2,
    *[two_predictions] * 2,
    evaluation_and_visualization,
    beside_a_training("evaluate.py"),
    beside_a_training("predict.py"),
    beside_a_training("visualize_embeddings.py", "--no_tsne", "--num_images", 50),
    comparisons_beside_a_training,
    two_searches(vary={"learning_rate": [0.001, 0.002]}),
    two_searches(vary={"learning_rate": {"low": 0.001, "high": 0.002}}, num_trials=2),
    a_search_and_a_training_of_its_trial,
]


def test_two_commands_at_once(tmp_path, trained, tally):
    reference = Reference(tmp_path / "alone", trained)
    numbers = [int(os.environ["RACE"])] if "RACE" in os.environ else range(len(RACES))  # of one, to run it alone
    survived = 0
    for number in numbers:
        folder = tmp_path / str(number)

        def case(race: Callable[[Path, Reference], None] = RACES[number], folder: Path = folder) -> None:
            race(folder, reference)
            check_whole(folder)

        survived += survives(f"race {number}", case)
    tally("two commands at once", tried=len(numbers), survived=survived)


def test_two_who_write_the_same_file(tmp_path, tally):
    num_writes = 3000
    survived = survives("writes", lambda: check_race(tmp_path, num_writes))
    tally("two who write one file, and one who reads it", tried=num_writes, survived=num_writes * survived)
