"""Searches: what they try, in which folders, and that nothing is lost or repeated, whatever happens in between."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.common.errors import UserError
from model.scoring.record import Record
from model.studies import search as search_module
from model.studies import trials
from model.studies.search import Search
from model.studies.search_space import SearchSpace, name_of

ROOT = Path(__file__).parents[3]

# Stands for train.py: does in a moment what that does in minutes, and keeps count of its starts and ends.
FAKE = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--model_dir", type=pathlib.Path)
parser.add_argument("--validate", action="store_true")
parser.add_argument("--data_dir")
options = parser.parse_args()
assert options.validate
params = json.loads((options.model_dir / "params.json").read_text())
with (options.model_dir / "starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
rate = params.get("learning_rate", 0.001)
print("learning", rate)
time.sleep(SECONDS)
if rate == 0.5:
    print("no such rate")
    sys.exit(2)
accuracy = 1 - rate + params["seed"] / 1e6
scores = {"knn_accuracy": accuracy, "recall_at_1": accuracy, "map_at_r": 0.5, "roc_auc": 0.5, "eer": 0.5}
scores |= {"global_step": 1, "knn_accuracy_low95": accuracy - 0.1, "knn_accuracy_high95": accuracy + 0.1}
(options.model_dir / "validation.json").write_text(
    json.dumps({"checkpoint": {"name": "step-00000001", "digest": "0"}, "metrics": scores, "params": params})
)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts the fake in the place of train.py; the seconds that it takes can be set."""
    path = tmp_path / "fake_train.py"

    def takes(seconds):
        path.write_text(FAKE.replace("SECONDS", str(seconds)))

    takes(0)
    monkeypatch.setattr(search_module, "_TRAIN", path)
    monkeypatch.setattr(search_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    return takes


def write(folder, vary, params=None, **more):
    folder.mkdir(exist_ok=True)
    digits = {"dataset": "digits", "image_size": None, "validation_size": 0.2}
    (folder / "params.json").write_text(json.dumps({**digits, **(params or {})}))
    (folder / "search.json").write_text(json.dumps({"vary": vary, **more}))
    return folder


def starts(folder):
    """How often each run was started, by its folder."""
    found = {
        path.parent.relative_to(folder).as_posix(): len(path.read_text().split()) for path in folder.rglob("starts")
    }
    return dict(sorted(found.items()))


RATES = {"learning_rate": [0.1, 0.2, 0.3]}


def test_a_grid_tries_every_combination_once(tmp_path, fake):
    parent = write(
        tmp_path / "s", {**RATES, "margin": [1, "soft"]}, {"triplet_strategy": "batch_hard", "num_epochs": 3}
    )
    Search(parent, 1, None).run(2)
    expected = {f"learning_rate={rate},margin={margin}": 1 for rate in (0.1, 0.2, 0.3) for margin in (1, "soft")}
    assert starts(parent) == dict(sorted(expected.items()))
    params = json.loads((parent / "learning_rate=0.2,margin=soft" / "params.json").read_text())
    assert params == {
        "dataset": "digits", "image_size": None, "validation_size": 0.2, "triplet_strategy": "batch_hard",
        "num_epochs": 3, "seed": 230, "learning_rate": 0.2, "margin": "soft",
    }  # fmt: skip
    assert (parent / "learning_rate=0.2,margin=soft" / "output.log").read_text() == "learning 0.2\n"
    Search(parent, 1, None).run(2)
    assert set(starts(parent).values()) == {1}  # nothing is left to do


def test_parameters_that_belong_together_vary_together(tmp_path, fake):
    choices = [{"num_classes_per_batch": 5, "num_images_per_class": k, "batch_size": 5 * k} for k in (2, 4)]
    parent = write(tmp_path / "s", {"P x K": choices})
    Search(parent, 1, None).run(1)
    assert list(starts(parent)) == [
        "num_classes_per_batch=5,num_images_per_class=2,batch_size=10",
        "num_classes_per_batch=5,num_images_per_class=4,batch_size=20",
    ]


def test_every_point_is_repeated_with_other_seeds(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.1]}, {"seed": 7})
    Search(parent, 1, None).run(1)
    Search(parent, 3, None).run(2)  # the first one is there
    rate = "learning_rate=0.1"
    assert starts(parent) == {rate: 1, f"{rate}/seed=8": 1, f"{rate}/seed=9": 1}
    seeds = [Record.read(path).params["seed"] for path in sorted(parent.rglob("validation.json"))]
    assert sorted(seeds) == [7, 8, 9]


def test_a_trial_that_fails_is_kept_and_stops_no_other(tmp_path, fake, caplog):
    caplog.set_level("INFO", "model")
    parent = write(tmp_path / "s", {"learning_rate": [0.1, 0.5, 0.3]})
    for _ in range(2):
        Search(parent, 1, None).run(1)
    assert starts(parent) == {"learning_rate=0.1": 1, "learning_rate=0.3": 1, "learning_rate=0.5": 1}
    assert "no such rate" in (parent / "learning_rate=0.5" / "output.log").read_text()
    assert (parent / "learning_rate=0.5" / "failed").read_text() == "exit code 2, see output.log\n"
    assert caplog.text.count("learning_rate=0.5: broke down: no such rate; delete ") == 1
    assert "learning_rate=0.5: failed" in Search(parent, 1, None).describe().splitlines()


def run_search(parent, *arguments):
    """Starts search_hyperparams.py with the fake, as a process."""
    code = (
        "import runpy, sys; from pathlib import Path; from model.studies import search; "
        f"search._TRAIN = Path({str(parent.parent / 'fake_train.py')!r}); "
        f"sys.argv = ['search', '--parent_dir', {str(parent)!r}, *{list(arguments)!r}]; "
        f"runpy.run_path({str(ROOT / 'search_hyperparams.py')!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z" if Path("/proc").is_dir() else True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_search_that_was_ended_goes_on_where_it_was(tmp_path, fake, number):
    """Finished trials are not repeated, those under way end with the search and are begun again, none is lost."""
    fake(1)
    parent = write(tmp_path / "s", {"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.6, 0.7]})
    process = run_search(parent, "--jobs", "2")
    wait_for(lambda: len(list(parent.rglob("validation.json"))) >= 2 and len(starts(parent)) >= 4)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert said.splitlines()[-1] == "Stopped; every trial under way is saved, and the same command goes on."
    children = {int(pid) for path in parent.rglob("starts") for pid in path.read_text().split()}
    wait_for(lambda: not any(is_running(pid) for pid in children))
    finished = {path.parent for path in parent.rglob("validation.json")}
    assert 2 <= len(finished) < 6
    before = starts(parent)
    fake(0)
    again = run_search(parent, "--jobs", "2")
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and len(list(parent.rglob("validation.json"))) == 6
    for folder, times in starts(parent).items():
        assert times == before.get(folder, 0) + (parent / folder not in finished)
    assert "Best: learning_rate=0.1, knn_accuracy 0.9002, 95 % interval 0.8002 to 1.0002." in printed


def test_two_searches_do_not_share_a_folder(tmp_path, fake):
    fake(3)
    parent = write(tmp_path / "s", RATES)
    first = run_search(parent)
    wait_for(lambda: starts(parent))
    with pytest.raises(UserError, match="another process searches here"):
        Search(parent, 1, None).run(1)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)


def test_trials_that_are_drawn(tmp_path, fake):
    pytest.importorskip("optuna")
    vary = {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "embedding_size": {"low": 2, "high": 64}}
    parent = write(tmp_path / "s", {**vary, "triplet_strategy": ["batch_all", "batch_hard"]}, num_trials=12)
    Search(parent, 1, None).run(1)
    params = [json.loads(path.read_text()) for path in sorted(parent.glob("*/params.json"))]
    assert len(params) == 12
    assert all(1e-5 <= run["learning_rate"] <= 1e-1 and 2 <= run.get("embedding_size", 64) <= 64 for run in params)
    assert len({run["learning_rate"] for run in params}) == 12
    assert {run.get("triplet_strategy", "batch_all") for run in params} == {"batch_all", "batch_hard"}
    Search(parent, 1, None).run(1)
    assert set(starts(parent).values()) == {1}
    (parent / "search.json").write_text(
        json.dumps({"vary": {**vary, "triplet_strategy": ["batch_all", "batch_hard"]}, "num_trials": 14})
    )
    Search(parent, 1, None).run(1)
    assert len(starts(parent)) == 14 and set(starts(parent).values()) == {1}


def test_a_drawn_search_that_was_killed(tmp_path, fake):
    fake(1)
    parent = write(tmp_path / "s", {"learning_rate": {"low": 0.1, "high": 0.4}}, num_trials=6)
    process = run_search(parent, "--jobs", "2")
    wait_for(lambda: len(list(parent.rglob("validation.json"))) >= 2 and len(starts(parent)) >= 3)
    process.kill()
    process.communicate(timeout=30)
    begun = set(starts(parent))
    fake(0)
    again = run_search(parent, "--jobs", "2")
    _, said = again.communicate(timeout=60)
    assert again.returncode == 0 and "Warning" not in said
    rates = [json.loads(path.read_text())["learning_rate"] for path in parent.glob("*/params.json")]
    assert len(set(rates)) == 6  # the draws did not begin anew
    assert begun < set(starts(parent)) and len(starts(parent)) == len(list(parent.rglob("validation.json"))) == 6


def test_the_same_is_not_drawn_twice(tmp_path, fake):
    parent = write(tmp_path / "s", {"margin": [0.2, 0.4], "num_channels": {"low": 4, "high": 6}}, num_trials=50)
    Search(parent, 1, None).run(2)
    assert len(starts(parent)) == 6 and set(starts(parent).values()) == {1}


def test_what_cannot_be_is_drawn_anew(tmp_path, fake):
    vary = {"margin": [0.5, "soft"], "triplet_strategy": ["batch_hard", "batch_all"]}
    parent = write(tmp_path / "s", vary, num_trials=9)
    Search(parent, 1, None).run(1)
    assert len(starts(parent)) == 3  # batch_all has no soft margin


def test_what_can_never_be_is_one_line_and_can_be_mended(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(trials, "_MOST_DRAWS", 5)
    parent = write(tmp_path / "s", {"embedding_size": {"low": 0.5, "high": 64}}, num_trials=2)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"search.json: embedding_size=.*: 'embedding_size' must be a valid integer"
        ):
            Search(parent, 1, None).run(1)
    write(parent, {"embedding_size": {"low": 2, "high": 64}}, num_trials=2)
    Search(parent, 1, None).run(1)
    assert len(starts(parent)) == 2


def test_another_space_under_drawn_trials(tmp_path, fake):
    parent = write(tmp_path / "s", {"margin": [0.2, 0.4]}, num_trials=1)
    Search(parent, 1, None).run(1)
    for vary in ({"margin": [0.2, 0.4, 0.6]}, {"margin": {"low": 0.2, "high": 0.4}}):
        write(parent, vary, num_trials=2)
        for act in (Search(parent, 1, None).describe, lambda: Search(parent, 1, None).run(1)):
            with pytest.raises(UserError, match=r"search.json: 'vary' is not what trials were drawn from; set it back"):
                act()


def test_a_damaged_database_is_one_line(tmp_path, fake):
    parent = write(tmp_path / "s", {"margin": [0.2, 0.4]}, num_trials=1)
    (parent / "search.db").write_text("not a database, " * 1000)
    with pytest.raises(UserError, match=r"search.db: cannot be used .*not a database.*search in a new folder"):
        Search(parent, 1, None).run(1)


def test_modules_where_the_search_is_started_are_not_taken_for_others(tmp_path, fake, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("")
    (tmp_path / "argparse.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    parent = write(Path("s"), {"learning_rate": [0.1]})
    Search(parent, 1, None).run(1)
    assert Search(parent, 1, None).describe() == "learning_rate=0.1: finished"


def test_dry_run_lists_and_does_nothing(tmp_path, fake):
    parent = write(tmp_path / "s", RATES)
    process = run_search(parent, "--dry_run")
    printed, _ = process.communicate(timeout=30)
    assert printed.splitlines() == [f"learning_rate={rate}: new" for rate in RATES["learning_rate"]]
    write(parent, {"margin": {"low": 0.1, "high": 0.2}}, num_trials=3)
    process = run_search(parent, "--dry_run")
    printed, _ = process.communicate(timeout=30)
    assert printed.splitlines() == ["3 more will be drawn"]
    assert sorted(path.name for path in parent.iterdir()) == ["params.json", "search.json"]


@pytest.mark.parametrize(
    ("params", "search", "message"),
    [
        ({"validation_size": None}, {"vary": RATES}, r"params.json: 'validation_size' or .* is missing"),
        ({}, {"vary": {}}, r"search.json: 'vary' must have at least 1 item"),
        ({}, {"vary": {"margin": []}}, r"search.json: 'vary.margin' must have at least 1 item"),
        ({}, {"vary": {"margin": 3}}, r"search.json: 'vary.margin' must be a valid list, received 3$"),
        ({}, {}, r"search.json: 'vary' is missing$"),
        ({}, {"vary": RATES, "trials": 3}, r"search.json: unknown key 'trials'; did you mean 'num_trials'\?"),
        ({}, {"vary": {"margin": {"low": 1, "high": 2}}}, r"search.json: 'num_trials' is missing: 'margin' is a range"),
        ({}, {"vary": {"margin": {"low": 2, "high": 1}}, "num_trials": 3}, r"'vary.margin': 'low' must be below"),
        ({}, {"vary": {"margin": {"low": 2, "hgh": 3}}, "num_trials": 3}, r"'vary.margin.high' is missing; unknown"),
        ({}, {"vary": {"margin": {"low": math.nan, "high": 1}}, "num_trials": 3}, r"'vary.margin.low' must be .* NaN"),
        ({}, {"vary": {"margin": {"low": 0, "high": 10**400}}, "num_trials": 3}, r"'vary.margin.high' must be less"),
        ({}, {"vary": {"x": [{}, {"margin": 1}]}}, r"search.json: 'x' has an empty object"),
        ({}, {"vary": {"seed": [1, 2]}}, r"search.json: 'seed' cannot vary: --seeds runs"),
        ({}, {"vary": {"P": [{"split_seed": 2}]}}, r"search.json: 'split_seed' cannot vary: .* cannot be compared"),
        ({}, {"vary": {"num_labels": [2, 3]}}, r"search.json: 'num_labels' cannot vary: it has no effect"),
        ({}, {"vary": {"margin": {}}, "num_trials": 2}, r"'vary.margin.low' is missing; 'vary.margin.high' is missing"),
        ({}, {"vary": {"P": [{"margin": 2}], "margin": [1]}}, r"'margin' is varied by both 'P' and 'margin'; keep one"),
        ({}, {"vary": {"P": [{"margin": 0.5}, {"learning_rate": 0.001}]}}, r"'margin=0.5' and 'learn.*' are the same"),
        ({"seed": 2**32 - 1}, {"vary": RATES}, r"params.json: 'seed' must leave room for --seeds"),

        ({}, {"vary": {"margin": {"low": 0, "high": 1, "log": True}}, "num_trials": 3}, r"must be above 0"),
        ({}, {"vary": {"marign": [1]}}, r"search.json: marign=1: unknown key 'marign'; did you mean 'margin'\?"),
        ({}, {"vary": {"margin": [1, "soft"]}}, r"search.json: margin=soft: 'margin' \"soft\" needs triplet_strategy"),
        ({}, {"vary": {"distance": ["a\ud800"]}, "num_trials": 2}, r"search.json: half of a character, '.ud800'"),
        ({}, {"vary": {"margin": [1, 1]}}, r"search.json: 'margin=1' and 'margin=1,trial=1' are the same experiment"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, params, search, message):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({"validation_size": 0.2, **params}))
    (folder / "search.json").write_text(json.dumps(search))
    with pytest.raises(UserError, match=message) as caught:
        Search(folder, 2, None)
    assert "\n" not in str(caught.value)
    assert len(list(folder.iterdir())) == 2


def test_other_parameters_in_a_folder_with_trials(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.5, 0.1]})
    Search(parent, 1, None).run(1)
    (parent / "learning_rate=0.5" / "checkpoints").mkdir()
    for rates in ([0.5], [0.1], [0.3, 0.1]):  # failed on its way; finished; with another to be begun first
        write(parent, {"learning_rate": rates}, {"num_channels": 4})
        for act in (Search(parent, 1, None).describe, lambda: Search(parent, 1, None).run(1)):
            with pytest.raises(UserError, match=rf"learning_rate={rates[-1]}/params.json: not what .* say now"):
                act()
    assert set(starts(parent).values()) == {1} and len(starts(parent)) == 2


def test_a_mistake_that_failed_every_trial_can_be_mended(tmp_path, fake):
    """As long as nothing was learned there is nothing to lose."""
    parent = write(tmp_path / "s", {"margin": [1, 2]}, {"learning_rate": 0.5})
    Search(parent, 1, None).run(1)
    assert len(list(parent.glob("*/failed"))) == 2
    write(parent, {"margin": [1, 2]}, {"learning_rate": 0.1})
    Search(parent, 1, None).run(1)
    assert not list(parent.glob("*/failed")) and starts(parent) == {"margin=1": 2, "margin=2": 2}
    assert all(json.loads(path.read_text())["learning_rate"] == 0.1 for path in parent.glob("*/params.json"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dataset": "digitz"}, r"data set 'digitz': unknown; did you mean 'digits'\?"),
        ({"validation_size": 5000}, r"params.json: 'validation_size' must be .* received 5000"),
    ],
)
def test_data_that_cannot_be_are_told_once_before_any_trial(tmp_path, params, message):
    parent = write(tmp_path / "s", {"margin": [1, 2]}, params)
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=message):
        Search(parent, 1, tmp_path / "data").check_data()
    _, said = run_search(parent, "--data_dir", str(tmp_path / "data")).communicate(timeout=60)
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in parent.iterdir()) == ["params.json", "search.json"]


def test_a_trial_that_somebody_stops_has_not_failed(tmp_path, fake):
    fake(60)
    parent = write(tmp_path / "s", {"learning_rate": [0.1]})
    process = run_search(parent)
    wait_for(lambda: starts(parent))
    os.kill(int((parent / "learning_rate=0.1" / "starts").read_text()), signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "learning_rate=0.1: was asked to stop; the next search goes on with it." in said and process.returncode == 2
    fake(0)
    Search(parent, 1, None).run(1)
    assert Search(parent, 1, None).describe() == "learning_rate=0.1: finished"


def test_a_trial_that_failed_is_tried_again_if_asked(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.5, 0.1]})
    Search(parent, 1, None).run(1)
    (parent / "learning_rate=0.5" / "failed").unlink()
    Search(parent, 1, None).run(1)
    assert starts(parent) == {"learning_rate=0.1": 1, "learning_rate=0.5": 2}


def test_a_drawn_trial_that_failed_is_tried_again_if_asked(tmp_path, fake):
    optuna = pytest.importorskip("optuna")
    parent = write(tmp_path / "s", {"margin": {"low": 0.1, "high": 1.0}}, num_trials=2)
    (tmp_path / "fake_train.py").write_text("raise SystemExit(2)")
    Search(parent, 1, None).run(1)
    for path in parent.glob("*/failed"):
        path.unlink()
    (tmp_path / "fake_train.py").write_text(FAKE_WITH_A_CURVE)
    for _ in range(2):
        Search(parent, 1, None).run(1)
    assert len(list(parent.glob("*/validation.json"))) == 2 and not list(parent.glob("*/failed"))
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{parent / 'search.db'}")
    known = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    assert known == [0.9, 0.9]  # what later draws learn from, once each
    study._storage._backend.remove_session()
    study._storage._backend.engine.dispose()


def test_numbers_that_look_alike_have_folders_of_their_own(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.12345678, 0.12345679]})
    for _ in range(2):
        Search(parent, 1, None).run(2)
    assert starts(parent) == {"learning_rate=0.1235": 1, "learning_rate=0.1235,trial=1": 1}


def test_a_drawn_trial_is_worth_the_mean_of_its_seeds(tmp_path, fake):
    optuna = pytest.importorskip("optuna")
    parent = write(tmp_path / "s", {"learning_rate": {"low": 0.1, "high": 0.4}}, {"seed": 100_000}, num_trials=2)
    Search(parent, 3, None).run(2)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{parent / 'search.db'}")
    for trial in study.trials:  # 1 - rate + seed / 1e6
        assert trial.value == pytest.approx(1 - trial.params["learning_rate"] + 0.100001, abs=1e-9)
    study._storage._backend.remove_session()
    study._storage._backend.engine.dispose()


def test_the_best_is_one_whose_runs_are_all_finished(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.1, 0.2]})
    Search(parent, 1, None).run(1)
    (parent / "learning_rate=0.1" / "seed=231").mkdir()
    (parent / "learning_rate=0.1" / "seed=231" / "failed").write_text("")
    (parent / "stray" / "deep").mkdir(parents=True)
    shutil.copy(parent / "learning_rate=0.1" / "validation.json", parent / "stray" / "deep")
    (parent / "stray" / "validation.json").write_text("garbage")
    printed, _ = run_search(parent, "--seeds", "2").communicate(timeout=60)
    assert "Best: learning_rate=0.2, knn_accuracy 0.8002" in printed
    assert "1 broke down: learning_rate=0.1.\n" in printed and "stray" not in printed


def test_nothing_finished_is_one_line(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.5]})
    for _ in range(2):
        process = run_search(parent)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert said.splitlines()[-1] == f"{parent}: no trial has come to its end; see the output.log of each"


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--seeds", "-1"]])
def test_counts_are_at_least_1(tmp_path, fake, arguments):
    process = run_search(write(tmp_path / "s", RATES), *arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "must be at least 1, received" in said.splitlines()[-1]


def test_names_are_short_and_safe():
    assert name_of({"learning_rate": 0.00012345678, "margin": 0.5, "dataset": "emnist/letters"}) == (
        "learning_rate=0.0001235,margin=0.5,dataset=emnist_letters"
    )
    assert name_of({"holdout_classes": [1, 2]}) == "holdout_classes=1+2"
    long = [name_of({"holdout_classes": ["ä" * 300, end]}) for end in ("x", "y")]
    assert long[0] != long[1] and all(len(name.encode()) <= 200 for name in long)
    assert len(SearchSpace(vary={"a": [1, 2], "b": [1, 2, 3]}).grid()) == 6


# As the fake, but with a curve: good in the first five trials and poor in later ones, which then have all the time.
FAKE_WITH_A_CURVE = """
import sys; sys.argv.remove("--validate")
import json, pathlib, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto
folder = pathlib.Path(sys.argv[sys.argv.index("--model_dir") + 1])
finished = len(list(folder.parent.glob("*/validation.json")))
accuracy = 0.9 if finished < 5 else 0.1
(folder / "validation").mkdir()
value = Summary.Value(tag="knn_accuracy", tensor=make_tensor_proto(accuracy))
with (folder / "validation" / "events.out.tfevents.1").open("wb") as file:
    RecordWriter(file).write(Event(step=10, summary=Summary(value=[value])).SerializeToString())
if finished >= 5:
    time.sleep(60)
scores = {"knn_accuracy": accuracy, "global_step": 20}
content = {"checkpoint": {"name": "step-00000020", "digest": "0"}, "metrics": scores, "params": {"seed": 1}}
(folder / "validation.json").write_text(json.dumps(content))
"""


def test_hopeless_trials_are_ended_early(tmp_path, fake, caplog):
    caplog.set_level("INFO", "model")
    parent = write(tmp_path / "s", {"margin": {"low": 0.1, "high": 1.0}}, num_trials=7)
    (tmp_path / "fake_train.py").write_text(FAKE_WITH_A_CURVE)
    Search(parent, 1, None).run(1)
    assert len(list(parent.glob("*/validation.json"))) == 5
    assert len(list(parent.glob("*/pruned"))) == 2 and not list(parent.glob("*/failed"))
    assert caplog.text.count("ended early, as others were better by then") == 2
    Search(parent, 1, None).run(1)  # and are not tried again
    assert sorted(line.split(": ")[1] for line in Search(parent, 1, None).describe().splitlines()) == (
        ["finished"] * 5 + ["pruned"] * 2
    )
