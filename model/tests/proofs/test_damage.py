"""Damaged checkpoints and accidents in the folder of an experiment: nothing wrong is loaded, nothing good is lost."""

import json
import logging
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from model.experiment import open_experiment
from model.tests.experiments import digits, write_params
from model.tests.proofs.lives import (
    AT_ONCE,
    EXPERIMENT,
    Life,
    complete,
    differences,
    has_begun_to_train,
    newest_step,
)
from model.training import checkpoints
from model.training.estimator import Estimator
from model.training.model_fn import model_fn

pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def half(untouched, tmp_path_factory):
    """The same run, killed half-way, with three checkpoints: the best and two others."""
    model_dir = write_params(tmp_path_factory.mktemp("half") / "small", **EXPERIMENT)
    life = Life("train.py", ["--model_dir", "small"], model_dir.parent)
    life.sleep(lambda: newest_step(model_dir) > untouched.last_step // 2)
    life.sleep(lambda: len(checkpoints.list_checkpoints(model_dir)) == 3)
    assert life.kill()
    assert 0 < newest_step(model_dir) < untouched.last_step
    return model_dir


# ------------------------------------------------------------------------------------------- damaged checkpoints


def flip_a_bit(content, chance):
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def change_a_byte(content, chance):
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(damaged)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def zero_a_page(content, chance):
    size = chance.choice([64, 512, 4096])
    start = chance.randrange(len(content))  # not at its multiples, of which a small file has too few
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def swap_two_blocks(content, chance):
    size = chance.choice([16, 128, 512])
    one, other = sorted(chance.sample(range(0, len(content) - size + 1, size), 2))
    blocks = content[one : one + size], content[other : other + size]
    return content[:one] + blocks[1] + content[one + size : other] + blocks[0] + content[other + size :]


def append_garbage(content, chance):
    return content + chance.randbytes(chance.randint(1, 5000))


def empty(content, chance):
    return b""


def delete(content, chance):
    return None


_COUNTS = {
    flip_a_bit: 300, change_a_byte: 80, cut: 70, zero_a_page: 50, swap_two_blocks: 50, append_garbage: 46,
    empty: 2, delete: 2,
}  # fmt: skip


def damages(folder):
    """Yields 600 damages, each another one, as (kind, file, what it holds then); None is a file that is deleted."""
    files = [folder / "tensors.index", folder / "tensors.data-00000-of-00001"]
    originals, chance, seen = {file: file.read_bytes() for file in files}, random.Random(600), set()
    for kind, count in _COUNTS.items():
        for number in range(count):
            file = files[number % 2]
            damaged = originals[file]
            while damaged == originals[file] or (file, damaged) in seen:
                damaged = kind(originals[file], chance)
            seen.add((file, damaged))
            yield kind, file, damaged


def apply(file, damaged):
    if damaged is None:
        file.unlink()
    else:
        file.write_bytes(damaged)


def test_damaged_checkpoints(half, tmp_path, tally, caplog):
    """Read as training and evaluation read them, in this process."""
    model_dir = shutil.copytree(half, tmp_path / "small")
    *_, before, newest = checkpoints.list_checkpoints(model_dir)
    experiment = open_experiment(model_dir, None)
    data = experiment.train_input
    learner = Estimator(model_fn, model_dir, experiment.params).new_learner(data, max_steps=10**4)
    originals = {file: file.read_bytes() for file in newest.iterdir()}

    def restored():
        """The state after the product's own way of going on: all variables as bytes, and the step."""
        for variable in learner.network.variables + learner.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        found = Estimator(model_fn, model_dir, experiment.params).checkpoint("newest")
        learner.restore(found)
        variables = learner.network.variables + learner.optimizer.variables
        return [variable.numpy().tobytes() for variable in variables], learner.state

    undamaged = restored()
    assert undamaged[1].global_step == checkpoints.step_of(newest)
    newest.rename(tmp_path / "aside")
    expected = restored()
    (tmp_path / "aside").rename(newest)
    assert expected[1].global_step == checkpoints.step_of(before) and expected[0] != undamaged[0]

    tried, well = 0, 0
    for kind, file, damaged in damages(newest):
        apply(file, damaged)
        caplog.clear()
        tried += 1
        is_told = False
        try:
            is_right = restored() == expected
            is_told = [str(newest) in record.getMessage() for record in caplog.records] == [True]
        except Exception:
            logging.getLogger(__name__).exception("not found")
            is_right = False
        if is_right and is_told:
            well += 1
        else:
            print(f"{tried}: {kind.__name__} of {file.name}: right {is_right}, told {is_told}")
        file.write_bytes(originals[file])
    assert restored() == undamaged
    tally("damaged newest checkpoint, found, and the one before taken", tried=tried, survived=well)


def _damages_of_each_kind(half):
    newest = checkpoints.list_checkpoints(half)[-1]
    found = list(damages(newest))
    kinds = (flip_a_bit, cut, zero_a_page, swap_two_blocks, append_garbage, delete)
    return [next(damage for damage in found if damage[0] is kind) for kind in kinds]


def test_damaged_checkpoints_in_a_process(untouched, half, tmp_path, tally):
    """By `train.py`, to the end: equal to the run that nobody touched."""

    def survives(damage):
        kind, file, damaged = damage
        folder = Folder(half, tmp_path / kind.__name__)
        apply(folder.newest / file.name, damaged)
        try:
            folder.goes_on(untouched, says=f"{folder.newest.name}: the checkpoint is damaged")
        except AssertionError as error:
            print(f"{folder.name}: NOT WELL: {error}", flush=True)
            return False
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(survives, _damages_of_each_kind(half)))
    tally("train.py, damaged newest checkpoint", tried=len(results), survived=sum(results))


# ------------------------------------------------------------------------------------------------------ accidents


class Folder:
    """A copy of an experiment that meets with an accident.

    Args:
        source: What is copied.
        parent: Into this new folder.
    """

    def __init__(self, source, parent):
        self.parent, self.name = parent, parent.name
        self.model_dir = shutil.copytree(source, parent / "small")
        self.checkpoints = checkpoints.list_checkpoints(self.model_dir)
        self.newest = self.checkpoints[-1]

    def goes_on(self, untouched, *, but=(), says="Going on from step"):
        """Finds that train.py ends with equal bits, and never began at step 0; some files may be others."""
        life = Life("train.py", ["--model_dir", "small"], self.parent)
        code = life.wait()
        print(f"{self.name}: exit code {code}", flush=True)
        assert code == 0 and "Traceback" not in life.stderr, life.stderr
        assert says in life.stderr, life.stderr
        different = differences(self.model_dir, untouched.folder)
        assert not [line for line in different if line.partition(": ")[0] not in but], different

    def ends_with_one_line(self, *named, script="train.py", arguments=("--model_dir", "small"), before=()):
        """Finds that a command ends with exit code 2, and a last line that names something."""
        life = Life(script, list(arguments), self.parent, before)
        self.check_line(life, *named)

    def check_line(self, life, *named):
        """Finds the same of a process."""
        code = life.wait()
        assert code == 2 and "Traceback" not in life.stderr, f"exit code {code}: {life.stderr}"
        last = life.stderr.splitlines()[-1]
        print(f"{self.name}: {last}", flush=True)
        assert all(part in last for part in named), life.stderr


ACCIDENTS = []


def accident(function):
    """Adds a function to those that each make an accident, and check what becomes of it."""
    ACCIDENTS.append(function)
    return function


@accident
def newest_checkpoint_deleted(untouched, half, parent):
    folder = Folder(half, parent)
    shutil.rmtree(folder.newest)
    folder.goes_on(untouched)


@accident
def file_of_newest_checkpoint_deleted(untouched, half, parent):
    folder = Folder(half, parent)
    (folder.newest / "tensors.index").unlink()
    folder.goes_on(untouched)


@accident
def newest_checkpoint_emptied(untouched, half, parent):
    folder = Folder(half, parent)
    for path in folder.newest.iterdir():
        path.write_bytes(b"")
    folder.goes_on(untouched)


@accident
def empty_folder_with_the_name_of_a_checkpoint(untouched, half, parent):
    folder = Folder(half, parent)
    folder.newest.with_name("step-99999999").mkdir()
    folder.goes_on(untouched)


@accident
def file_with_the_name_of_a_checkpoint(untouched, half, parent):
    folder = Folder(half, parent)
    folder.newest.with_name("step-99999999").write_text("not ours")
    folder.goes_on(untouched, but=("checkpoints/step-99999999",))


@accident
def dangling_link_with_the_name_of_a_checkpoint(untouched, half, parent):
    folder = Folder(half, parent)
    folder.newest.with_name("step-99999999").symlink_to(parent / "nowhere")
    folder.goes_on(untouched)


@accident
def link_to_a_checkpoint_with_the_name_of_another(untouched, half, parent):
    folder = Folder(half, parent)
    folder.newest.with_name("step-99999999").symlink_to(folder.checkpoints[0])
    folder.goes_on(untouched)


@accident
def copy_of_a_checkpoint_with_the_name_of_another(untouched, half, parent):
    folder = Folder(half, parent)
    shutil.copytree(folder.newest, folder.newest.with_name("step-99999999"))
    folder.goes_on(untouched)


@accident
def newest_checkpoint_of_a_complete_run_cut(untouched, half, parent):
    folder = Folder(untouched.folder, parent)
    data = folder.newest / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    folder.goes_on(untouched)


@accident
def garbage_after_the_event_file(untouched, half, parent):
    folder = Folder(half, parent)
    with _event_file(folder.model_dir).open("ab") as file:
        file.write(random.Random(1).randbytes(1000))
    folder.goes_on(untouched)


@accident
def event_file_cut(untouched, half, parent):
    """What it told is lost, and nothing else."""
    folder = Folder(half, parent)
    path = _event_file(folder.model_dir)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    folder.goes_on(untouched, but=("events",))


@accident
def event_files_deleted(untouched, half, parent):
    folder = Folder(half, parent)
    for path in folder.model_dir.rglob("events.out*"):
        path.unlink()
    folder.goes_on(untouched, but=("events", "validation/events"))


@accident
def event_file_of_no_bytes(untouched, half, parent):
    folder = Folder(half, parent)
    for name in (".", "validation"):
        (folder.model_dir / name / "events.out.tfevents.1.host.1.0.v2").touch()
    folder.goes_on(untouched)


@accident
def evaluations_half_written(untouched, half, parent):
    folder = Folder(half, parent)
    path = folder.model_dir / "validation" / "evaluations.json"
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    folder.goes_on(untouched, but=("validation/evaluations.json",))


@accident
def clock_set_back(untouched, half, parent):
    """Every file is of the next year."""
    folder = Folder(half, parent)
    for path in [folder.model_dir, *folder.model_dir.rglob("*")]:
        os.utime(path, (time.time() + 365 * 24 * 3600,) * 2)
    folder.goes_on(untouched)


@accident
def lock_left_behind(untouched, half, parent):
    folder = Folder(half, parent)
    (folder.model_dir / ".lock").write_text("12345 on another machine")
    folder.goes_on(untouched)


@accident
def metrics_half_written(untouched, half, parent):
    folder = Folder(untouched.folder, parent)
    path = folder.model_dir / "metrics.json"
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    folder.goes_on(untouched, says="Training is complete")


@accident
def scores_deleted(untouched, half, parent):
    folder = Folder(untouched.folder, parent)
    shutil.rmtree(folder.model_dir / "eval")
    (folder.model_dir / "metrics.json").unlink()
    folder.goes_on(untouched, says="Training is complete")


@accident
def moved_away_and_back(untouched, half, parent):
    """While it trains: it writes nothing more, neither here nor there, and goes on when the folder is back."""
    folder = Folder(half, parent)
    life = Life("train.py", ["--model_dir", "small"], parent)
    life.sleep(lambda: has_begun_to_train(life, folder.model_dir))
    folder.model_dir.rename(parent / "moved")
    folder.check_line(life, "small: deleted, moved or replaced")
    assert not folder.model_dir.exists()
    (parent / "moved").rename(folder.model_dir)
    folder.goes_on(untouched)


@accident
def parameters_emptied(untouched, half, parent):
    folder = Folder(half, parent)
    path = folder.model_dir / "params.json"
    text = path.read_text()
    path.write_text("")
    folder.ends_with_one_line("small/params.json", "not valid JSON")
    path.write_text(text)
    folder.goes_on(untouched)


@accident
def parameters_half_written(untouched, half, parent):
    folder = Folder(half, parent)
    path = folder.model_dir / "params.json"
    path.write_text(path.read_text()[:-20])
    folder.ends_with_one_line("small/params.json", "not valid JSON")


@accident
def log_is_a_folder(untouched, half, parent):
    folder = Folder(half, parent)
    (folder.model_dir / "train.log").unlink()
    (folder.model_dir / "train.log").mkdir()
    folder.ends_with_one_line("small/train.log")


@accident
def file_in_place_of_the_checkpoints(untouched, half, parent):
    folder = Folder(half, parent)
    (folder.model_dir / "checkpoints").rename(parent / "aside")
    (folder.model_dir / "checkpoints").write_text("not ours")
    folder.ends_with_one_line("small/checkpoints", "no folder")
    (folder.model_dir / "checkpoints").unlink()
    (parent / "aside").rename(folder.model_dir / "checkpoints")
    folder.goes_on(untouched)


@accident
def file_in_place_of_the_validation_folder(untouched, half, parent):
    folder = Folder(half, parent)
    shutil.rmtree(folder.model_dir / "validation")
    (folder.model_dir / "validation").write_text("not ours")
    folder.ends_with_one_line("small/validation")


@accident
def all_checkpoints_damaged(untouched, half, parent):
    folder = Folder(half, parent)
    for path in folder.checkpoints:
        (path / "tensors.index").write_bytes(b"")
    folder.ends_with_one_line("small/checkpoints", "none of its 3 checkpoints can be read")
    assert checkpoints.list_checkpoints(folder.model_dir) == folder.checkpoints


@accident
def folder_read_only(untouched, half, parent):
    folder = Folder(half, parent)
    folders = [folder.model_dir, *(path for path in folder.model_dir.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    as_user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    folder.ends_with_one_line("small", "Permission denied", before=as_user)
    for path in folders:
        path.chmod(0o755)
    folder.goes_on(untouched)


@accident
def gallery_damaged(untouched, half, parent):
    folder = Folder(untouched.folder, parent)
    Image.fromarray(digits().test.images[0][:, :, 0]).save(parent / "digit.png")
    command = "predict.py", "--model_dir", "small", "--json", "digit.png"
    said, gallery = complete(*command, folder=parent), folder.model_dir / "eval" / "gallery.npz"
    content = gallery.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:2000] + bytes(2000) + content[4000:]):
        gallery.write_bytes(damaged)
        assert complete(*command, folder=parent) == said
        assert gallery.read_bytes() == content


@accident
def state_file_of_the_projector_emptied(untouched, half, parent):
    folder = Folder(untouched.folder, parent)
    command = "visualize_embeddings.py", "--model_dir", "small", "--no_tsne", "--num_images", "50"
    complete(*command, folder=parent)
    peace = shutil.copytree(folder.model_dir, parent / "peace")
    (folder.model_dir / "eval" / "checkpoint").write_bytes(b"")
    complete(*command, folder=parent)
    assert differences(folder.model_dir, peace) == []


@accident
def database_of_a_search_damaged(untouched, half, parent):
    folder = Folder(half, parent)
    search = write_params(parent / "search", **{**EXPERIMENT, "num_epochs": 5})
    vary = {"learning_rate": {"low": 0.001, "high": 0.01, "log": True}}
    (search / "search.json").write_text(json.dumps({"vary": vary, "num_trials": 2}))
    (search / "search.db").write_bytes(random.Random(2).randbytes(5000))
    folder.ends_with_one_line("search.db", script="search_hyperparams.py", arguments=["--parent_dir", "search"])


def _event_file(folder):
    (path,) = (path for path in folder.glob("events.out*") if path.suffix != ".hparams")
    return path


def test_accidents(untouched, half, tmp_path, tally):
    def survives(make):
        try:
            make(untouched, half, tmp_path / make.__name__)
        except Exception as error:
            print(f"{make.__name__}: NOT WELL: {error}", flush=True)
            return False
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(survives, ACCIDENTS))
    tally("accidents in the folder of an experiment", tried=len(results), survived=sum(results))
