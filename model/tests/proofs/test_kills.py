"""kill -9 at moments all over the length of each command: afterwards it ends as one that nobody killed, bit for bit."""

import functools
import json
import random
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from model.tests.experiments import digits, write_params
from model.tests.proofs.cases import check_whole
from model.tests.proofs.lives import (
    AT_ONCE,
    EXPERIMENT,
    Life,
    Moments,
    age_leftovers,
    complete,
    contents,
    differences,
    newest_step,
    phase,
)

pytestmark = pytest.mark.proof


def die(life, wait, of_group, folder):
    """Kills a process after a wait; returns how old it was, None if it had come to its end before."""
    wait(life)
    age = life.age
    if not life.kill(of_group):
        return None
    left = life.children_left()
    assert not left, f"processes {left} are left"
    check_whole(folder, was_killed=True)
    return age


def went_well(what, problems):
    """Tells what went wrong; returns whether nothing did."""
    for problem in problems:
        print(f"{what}: {problem}", flush=True)
    return not problems


# ------------------------------------------------------------------------------------------------------- train.py

_KILLS_OF_A_RUN = 10


def kill_ten_times(untouched, folder, number):
    """Kills a run, of process groups if its number is odd, and lets it end; returns the phases, and if all is well."""
    model_dir = write_params(folder / f"run-{number}" / "small", **EXPERIMENT)
    moments = Moments(untouched, model_dir, random.Random(number))
    waits = moments.draw(_KILLS_OF_A_RUN - 2, [moments.while_saving(), moments.around_an_evaluation()])
    phases = []
    try:
        while len(phases) < _KILLS_OF_A_RUN:
            life = Life("train.py", ["--model_dir", "small"], model_dir.parent)
            age = die(life, waits.pop(0) if waits else moments.at_any(), number % 2 == 1, model_dir)
            if age is None:
                moments.came_too_late(life)
            else:
                phases.append(phase(life, model_dir, untouched))
                print(f"run {number}: killed {age:.2f} s old, step {newest_step(model_dir)}, {phases[-1]}", flush=True)
        age_leftovers(model_dir)
        complete("train.py", "--model_dir", "small", folder=model_dir.parent)
        problems = differences(model_dir, untouched.folder)
    except AssertionError as error:
        problems = [str(error)]
    return phases, went_well(f"run {number}", problems)


def test_kills_of_training(untouched, tmp_path, tally):
    print(f"\n{untouched}")
    for folder in ("events", "validation/events", "eval/events"):  # each step once
        assert set(contents(untouched.folder)[folder].values()) == {1}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda number: kill_ten_times(untouched, tmp_path, number), range(10)))
    counts = Counter(phase for phases, _ in results for phase in phases)
    print("deaths:", ", ".join(f"{count} in {name}" for name, count in counts.most_common()))
    for parity, what in enumerate(("the process", "its process group")):
        well = [len(phases) for phases, is_well in results[parity::2] if is_well]
        tried = [len(phases) for phases, _ in results[parity::2]]
        tally(f"train.py, kill -9 of {what}", tried=sum(tried), survived=sum(well))


# -------------------------------------------------------------------------------------------------- other commands

_KILLS = 15
_KILLS_OF_A_FOLDER = 5

COMMANDS = {
    "evaluate.py": ["--model_dir", "small", "--baselines"],
    "predict.py": ["--model_dir", "small", "--json", "--output", "embeddings.npy", "images"],
    "visualize_embeddings.py": ["--model_dir", "small", "--num_images", "100", "--animate"],
    "search_hyperparams.py": ["--parent_dir", "search"],
}


@pytest.fixture(scope="module")
def template(untouched, tmp_path_factory):
    """A folder in which nothing but training has been done, and images to ask about, and a search that is not begun."""
    folder = tmp_path_factory.mktemp("template")
    small = shutil.copytree(untouched.folder, folder / "small")
    (small / "metrics.json").unlink()
    shutil.rmtree(small / "eval")
    (folder / "images").mkdir()
    for number, image in enumerate(digits().test.images[:3]):
        Image.fromarray(image[:, :, 0]).save(folder / "images" / f"{number}.png")
    search = write_params(folder / "search", **{**EXPERIMENT, "num_epochs": 10})
    (search / "search.json").write_text(json.dumps({"vary": {"learning_rate": [0.001, 0.003]}}))
    return folder


class Peace:
    """What a command leaves and prints where nobody kills it, and how long that takes."""

    def __init__(self, script, template, folder):
        self.folder, self.script = shutil.copytree(template, folder), script
        began = time.monotonic()
        self.said = self.say(folder)
        self.seconds = time.monotonic() - began

    def say(self, folder):
        """Runs the command and returns what it printed, without images/s and names of event files."""
        said = complete(self.script, *COMMANDS[self.script], folder=folder)
        return re.sub(r"tfevents\.\S+| +[\d,]+ *$", "", said, flags=re.MULTILINE)


def kill_at(peace, template, folder, ages, of_group):
    """Kills a command at these ages, then lets it end; returns at which ages it died, and if all is well."""
    shutil.copytree(template, folder)
    died = []
    try:
        for age in ages:
            life = Life(peace.script, COMMANDS[peace.script], folder)
            died.append(die(life, lambda life, age=age: life.sleep(lambda: life.age > age), of_group, folder))
        age_leftovers(folder)
        said = peace.say(folder)
        problems = differences(folder, peace.folder) + ["it prints something else"] * (said != peace.said)
    except AssertionError as error:
        problems = [str(error)]
    died = [age for age in died if age is not None]
    print(f"{peace.script} {folder.name}: killed {', '.join(f'{age:.2f}' for age in died)} s old", flush=True)
    return died, went_well(f"{peace.script} {folder.name}", problems)


@pytest.mark.parametrize("script", COMMANDS)
def test_kills_of_other_commands(script, template, tmp_path, tally):
    peace = Peace(script, template, tmp_path / "peace")
    chance, tried, well = random.Random(script), 0, 0
    ages = [peace.seconds * (part + chance.random()) / _KILLS for part in range(_KILLS)]
    chance.shuffle(ages)
    for rounds in range(10):
        groups = [ages[start : start + _KILLS_OF_A_FOLDER] for start in range(0, len(ages), _KILLS_OF_A_FOLDER)]
        folders = [tmp_path / f"{rounds}-{number}" for number in range(len(groups))]
        are_of_groups = [number % 2 == 1 for number in range(len(groups))]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            kill = functools.partial(kill_at, peace, template)
            results = list(pool.map(kill, folders, groups, are_of_groups))
        tried += sum(len(died) for died, _ in results)
        well += sum(len(died) for died, is_well in results if is_well)
        if tried == _KILLS:
            break
        # Some came to their end before: as many are tried again, and sooner.
        ages = [0.8 * chance.choice(ages) for _ in range(_KILLS - tried)]
    tally(f"{script}, kill -9", tried=tried, survived=well)
