"""Two commands at once on the same files: none is half-written, nothing is lost, who is refused says so in one line."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.tests.common.test_files import check_race
from model.tests.experiments import digits, write_params
from model.tests.images import save
from model.tests.proofs.cases import check_whole, end, line_of_refusal, run, start, survives
from model.tests.proofs.test_full_disk import curves, of_files, of_training, without_time
from model.training import checkpoints

pytestmark = pytest.mark.proof

# Trains for a while, and deletes a checkpoint with nearly each that it saves.
LONG = {"num_epochs": 60, "save_checkpoints_steps": 5, "keep_checkpoint_max": 1}
SHORT = {"num_epochs": 4, "validation_size": 0.2, "evaluate_every_epochs": 1}

TRAINS = "{}: another process is training here; wait for it or stop it"
SEARCHES = "{}: another process searches here; wait for it or stop it"


def both(first: tuple, second: tuple, refusal: str = "") -> list[int]:
    """Starts two commands at once; returns the exit codes. At most one is refused, for this reason alone."""
    ended = [end(process) for process in [start(*first), start(*second)]]
    for code, _, said in ended:
        assert code == 0 or (code == 2 and line_of_refusal(said) == refusal), (code, said)
    codes = [code for code, _, _ in ended]
    assert codes != [2, 2]
    return codes


class Reference:
    """What comes of commands that nobody disturbs; each is run once."""

    def __init__(self, root: Path, trained: Path) -> None:
        self.root, self.trained = root, trained
        self._found: dict[str, object] = {}

    def of(self, name: str, make: Callable[[Path], object]) -> object:
        """Returns what `make` returns for a new folder."""
        if name not in self._found:
            self._found[name] = make(self.root / name)
        return self._found[name]

    def of_trained(self, name: str, *command: object) -> object:
        """The same for a command on a copy of the trained experiment."""

        def make(folder: Path) -> object:
            shutil.copytree(self.trained, folder / "mine")
            code, _, said = run(command[0], "--model_dir", folder / "mine", *command[1:])
            assert code == 0, said
            return of_files(folder / "mine")

        return self.of(name, make)


def two_trainings(folder: Path, reference: Reference) -> None:
    def alone(folder: Path) -> object:
        assert run("train.py", "--model_dir", write_params(folder, **SHORT))[0] == 0
        return of_training(folder)

    mine = write_params(folder, **SHORT)
    command = ("train.py", "--model_dir", mine)
    both(command, command, TRAINS.format(mine))
    assert run(*command)[0] == 0  # whoever won may have been refused the evaluation at its end
    assert of_training(mine) == reference.of("train", alone)


def two_trainings_beside_each_other(folder: Path, reference: Reference) -> None:
    commands = [("train.py", "--model_dir", write_params(folder / name, **SHORT)) for name in ("a", "b")]
    assert both(*commands) == [0, 0]
    assert of_training(folder / "a") == of_training(folder / "b")
    assert run("compare_experiments.py", folder)[0] == 0


def two_evaluations(folder: Path, reference: Reference) -> None:
    shutil.copytree(reference.trained, folder)
    before = curves(folder)
    (folder / "metrics.json").unlink()
    command = ("evaluate.py", "--model_dir", folder)
    assert both(command, command) == [0, 0]
    assert without_time(folder / "metrics.json") == without_time(reference.trained / "metrics.json")
    assert curves(folder) == before


def two_visualizations(folder: Path, reference: Reference) -> None:
    options = ("--no_tsne", "--num_images", 50)
    expected = reference.of_trained("visualize", "visualize_embeddings.py", *options)
    mine = shutil.copytree(reference.trained, folder / "mine")
    command = ("visualize_embeddings.py", "--model_dir", mine, *options)
    assert both(command, command) == [0, 0]
    assert of_files(mine) == expected


def two_visualizations_in_place_of_another(folder: Path, reference: Reference) -> None:
    """What was there before is taken away by one of them."""
    options = ("--no_tsne", "--num_images", 50)
    expected = reference.of_trained("visualize", "visualize_embeddings.py", *options)
    mine = shutil.copytree(reference.trained, folder / "mine")
    assert run("visualize_embeddings.py", "--model_dir", mine, "--no_tsne", "--num_images", 60)[0] == 0
    command = ("visualize_embeddings.py", "--model_dir", mine, *options)
    assert both(command, command) == [0, 0]
    assert of_files(mine) == expected


def two_predictions(folder: Path, reference: Reference) -> None:
    mine = shutil.copytree(reference.trained, folder / "mine")
    image = save(folder / "image.png", digits().test.images[0, ..., 0])
    command = ("predict.py", image, "--model_dir", mine, "--output", folder / "embeddings.npy")
    assert both(command, command) == [0, 0]
    found = (folder / "embeddings.npy").read_bytes(), (mine / "eval" / "gallery.npz").read_bytes()
    (mine / "eval" / "gallery.npz").unlink()
    assert run(*command)[0] == 0
    assert found == ((folder / "embeddings.npy").read_bytes(), (mine / "eval" / "gallery.npz").read_bytes())


def evaluation_and_visualization(folder: Path, reference: Reference) -> None:
    mine = shutil.copytree(reference.trained, folder / "mine")
    drawn = ("visualize_embeddings.py", "--model_dir", mine, "--no_tsne", "--num_images", 50)
    assert both(("evaluate.py", "--model_dir", mine), drawn) == [0, 0]
    assert without_time(mine / "metrics.json") == without_time(reference.trained / "metrics.json")


def beside_a_training(script: str, *options: object) -> Callable[[Path, Reference], None]:
    """A command that reads checkpoints, again and again, while a training deletes them."""

    def case(folder: Path, reference: Reference) -> None:
        def alone(folder: Path) -> object:
            assert run("train.py", "--model_dir", write_params(folder, **LONG))[0] == 0
            return of_training(folder)[2]

        mine = write_params(folder, **LONG)
        image = [save(folder / "image.png", digits().test.images[0, ..., 0])] if script == "predict.py" else []
        training, times = start("train.py", "--model_dir", mine), 0
        while not checkpoints.list_checkpoints(mine) and training.poll() is None:
            time.sleep(0.01)
        while training.poll() is None or not times:
            code, _, said = run(script, *image, "--model_dir", mine, *options)
            assert code == 0, said
            times += 1
        code, _, said = end(training)
        assert code == 0, said
        assert of_training(mine)[2] == reference.of("long", alone)

    return case


def comparisons_beside_a_training(folder: Path, reference: Reference) -> None:
    shutil.copytree(reference.trained, folder / "done")
    command = ("train.py", "--model_dir", write_params(folder / "mine", **SHORT))
    training, seen = start(*command), set()
    while training.poll() is None:
        code, printed, said = run("compare_experiments.py", folder, "--format", "csv")
        assert code == 0, said
        seen.add(len(printed.splitlines()))
    assert end(training)[0] == 0 and seen <= {2, 3}


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
    search = start("search_hyperparams.py", "--parent_dir", folder)
    code, _, said = run("train.py", "--validate", "--model_dir", trial)
    assert code == 0 or (code == 2 and line_of_refusal(said) == TRAINS.format(trial)), said
    code, _, said = end(search)
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
