"""Searches: what they try, in which folders, and that nothing is lost or repeated, whatever happens in between."""

import json
import os
import shutil
import signal
from pathlib import Path

import optuna
import pytest

import search_hyperparams
from model.common import cli, files
from model.common.errors import UserError
from model.params import Params
from model.scoring.record import Record
from model.studies.search import Search
from model.studies.states import State, state_of
from model.tests.studies.searches import (
    FAKE,
    FAKE_THAT_IS_EVALUATED,
    RATES,
    is_running,
    run_search,
    starts,
    wait_for,
    write,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def search(capsys, fake):
    """Runs search_hyperparams.py with the fake in this process: (exit code, stdout, stderr)."""

    def run(parent, *arguments):
        code = 0
        try:
            cli.run(
                search_hyperparams.main, "", ["--parent_dir", str(parent), *arguments], search_hyperparams.add_options,
                of_an_experiment=False,
            )  # fmt: skip
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_a_grid_tries_every_combination_once(tmp_path, fake):
    parent = write(
        tmp_path / "s", {**RATES, "margin": [1, "soft"]}, {"triplet_strategy": "batch_hard", "num_epochs": 3}
    )
    Search(parent, 1, None).run(2)
    expected = {f"learning_rate={rate},margin={margin}": 1 for rate in (0.1, 0.2, 0.3) for margin in (1, "soft")}
    assert starts(parent) == dict(sorted(expected.items()))
    params = json.loads((parent / "learning_rate=0.2,margin=soft" / "params.json").read_text())
    assert params == {
        "dataset": "digits", "validation_size": 0.2, "triplet_strategy": "batch_hard",
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


def test_a_trial_has_the_defaults_of_the_loss_that_it_varies(tmp_path, fake):
    """Unless the parent or the search says another value; and what is written reads back as it was tried."""
    losses = ["circle", "batch_all", "supervised_contrastive", {"triplet_strategy": "circle", "margin": 0.5}]
    parent = write(tmp_path / "s", {"triplet_strategy": losses}, {"triplet_strategy": "circle"})
    search = Search(parent, 1, None)
    search.run(1)
    tried = {trial.folder.name: next(iter(search.runs(trial).values())) for trial in search._trials()}
    expected = {
        "triplet_strategy=circle": (0.4, "cosine", 80.0, None),
        "triplet_strategy=batch_all": (0.5, "euclidean", None, None),
        "triplet_strategy=supervised_contrastive": (None, "cosine", None, 0.1),
        "triplet_strategy=circle,margin=0.5": (0.5, "cosine", 80.0, None),
    }
    assert {name: (p.margin, p.distance, p.scale, p.temperature) for name, p in tried.items()} == expected
    assert all(Params.from_json(parent / name / "params.json") == params for name, params in tried.items())
    parent = write(tmp_path / "t", {"triplet_strategy": ["circle", "batch_all"]}, {"margin": 0.5})
    search = Search(parent, 1, None)
    assert [next(iter(search.runs(trial).values())).margin for trial in search._trials()] == [0.5, 0.5]


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


def test_a_trial_that_found_no_room_ends_the_search_and_is_tried_again(tmp_path, fake):
    said = "step-00000010: cannot write the checkpoint: No space left on device; make room on the disk"
    fake(f"import sys; print({said!r}); sys.exit(2)")
    parent = write(tmp_path / "s", RATES)
    with pytest.raises(UserError, match=f"learning_rate=0.1: ended for want of room on the disk; .*: {said}$"):
        Search(parent, 1, None).run(1)
    assert not list(parent.rglob("failed"))
    assert Search(parent, 1, None).describe().splitlines()[:2] == ["learning_rate=0.1: begun", "learning_rate=0.2: new"]
    fake()
    Search(parent, 1, None).run(1)
    assert len(list(parent.rglob("validation.json"))) == 3


def test_the_table_has_the_best_first(tmp_path, search):
    parent = write(tmp_path / "s", {"learning_rate": [0.1, 0.5, 0.3, 0.2]}, {"early_stopping_metric": "recall_at_1"})
    code, printed, said = search(parent, "--jobs", "2")
    head, *rows = [line.split() for line in printed.splitlines() if "0." in line or "seeds" in line]
    assert code == 0 and head[:4] == ["experiment", "seeds", "recall_at_1", "knn_accuracy"]
    assert [row[0] for row in rows[:3]] == ["learning_rate=0.1", "learning_rate=0.2", "learning_rate=0.3"]
    assert printed.endswith(
        "1 broke down: learning_rate=0.5.\n"
        "Best: learning_rate=0.1, recall_at_1 0.9002, too few seeds for an interval.\n"
    )
    assert "differs from the defaults" not in printed and "no such rate" in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_search_that_was_ended_goes_on_where_it_was(tmp_path, fake, search, number):
    """Finished trials are not repeated, those under way end with the search and are begun again, none is lost."""
    fake(most=2)
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
    fake()
    code, printed, _ = search(parent, "--jobs", "2")
    assert code == 0 and len(list(parent.rglob("validation.json"))) == 6
    for folder, times in starts(parent).items():
        assert times == before.get(folder, 0) + (parent / folder not in finished)
    assert "Best: learning_rate=0.1, knn_accuracy 0.9002, 95 % interval 0.8002 to 1.0002." in printed


def test_two_searches_do_not_share_a_folder(tmp_path, fake):
    fake(most=0)
    parent = write(tmp_path / "s", RATES)
    first = run_search(parent)
    wait_for(lambda: starts(parent))
    with pytest.raises(UserError, match="another process searches here"):
        Search(parent, 1, None).run(1)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)


def test_a_trial_that_somebody_began_to_train_a_moment_before_is_waited_for(tmp_path, fake):
    refused = "if len((options.model_dir / 'starts').read_text().split()) == 1:\n    raise SystemExit(REFUSAL)\n"
    refusal = f"{tmp_path}: {files.ANOTHER_TRAINS}; wait for it or stop it"
    before, after = FAKE.split("signal.signal(")
    fake(f"{before}{refused.replace('REFUSAL', repr(refusal))}signal.signal({after}")
    parent = write(tmp_path / "s", {"learning_rate": [0.1]})
    Search(parent, 1, None).run(1)
    assert starts(parent) == {"learning_rate=0.1": 2}
    assert state_of(parent / "learning_rate=0.1") is State.FINISHED and not list(parent.rglob("failed"))


def test_trials_that_are_drawn(tmp_path, fake):
    vary = {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "embedding_size": {"low": 2, "high": 64}}
    parent = write(tmp_path / "s", vary, num_trials=2)
    for num_trials in (2, 2, 4):
        write(parent, vary, num_trials=num_trials)
        Search(parent, 1, None).run(2)
        assert len(starts(parent)) == num_trials and set(starts(parent).values()) == {1}
    params = [json.loads(path.read_text()) for path in sorted(parent.glob("*/params.json"))]
    assert all(1e-5 <= run["learning_rate"] <= 1e-1 and 2 <= run.get("embedding_size", 64) <= 64 for run in params)
    assert len({run["learning_rate"] for run in params}) == 4


def test_a_drawn_search_that_was_killed(tmp_path, fake, search):
    fake(most=2)
    parent = write(tmp_path / "s", {"learning_rate": {"low": 0.1, "high": 0.4}}, num_trials=5)
    process = run_search(parent, "--jobs", "2")
    wait_for(lambda: len(list(parent.rglob("validation.json"))) >= 2 and len(starts(parent)) >= 3)
    process.kill()
    process.communicate(timeout=30)
    begun = set(starts(parent))
    fake()
    code, _, said = search(parent, "--jobs", "2")
    assert code == 0 and "Warning" not in said
    rates = [json.loads(path.read_text())["learning_rate"] for path in parent.glob("*/params.json")]
    assert len(set(rates)) == 5  # the draws did not begin anew
    assert begun < set(starts(parent)) and len(starts(parent)) == len(list(parent.rglob("validation.json"))) == 5


def test_settings_that_params_refuses_are_drawn_anew(tmp_path, fake):
    vary = {"margin": [0.5, "soft"], "triplet_strategy": ["batch_hard", "batch_all"]}
    parent = write(tmp_path / "s", vary, num_trials=3)
    Search(parent, 1, None).run(1)
    assert len(starts(parent)) == 3  # batch_all has no soft margin


def test_modules_where_the_search_is_started_are_not_taken_for_others(tmp_path, fake, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("")
    (tmp_path / "argparse.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    parent = write(Path("s"), {"learning_rate": [0.1]})
    Search(parent, 1, None).run(1)
    assert Search(parent, 1, None).describe() == "learning_rate=0.1: finished"


def test_dry_run_lists_and_does_nothing(tmp_path, search):
    parent = write(tmp_path / "s", RATES)
    code, printed, _ = search(parent, "--dry_run")
    assert code == 0 and printed.splitlines() == [f"learning_rate={rate}: new" for rate in RATES["learning_rate"]]
    write(parent, {"margin": {"low": 0.1, "high": 0.2}}, num_trials=3)
    assert search(parent, "--dry_run") == (0, "3 more will be drawn\n", "")
    assert sorted(path.name for path in parent.iterdir()) == ["params.json", "search.json"]


@pytest.mark.parametrize(
    ("params", "vary", "message"),
    [
        ({"seed": 2**32 - 1}, RATES, r"params.json: 'seed' must leave room for --seeds"),
        ({}, {"margin": 3}, r"search.json: 'vary.margin' must be a valid list, received 3$"),
        ({}, {"P": [{"margin": 0.5}, {"learning_rate": 0.001}]}, r"'margin=0.5' and 'learn.*' are the same"),
        ({}, {"marign": [1]}, r"search.json: marign=1: unknown key 'marign'; did you mean 'margin'\?"),
        ({}, {"margin": [1, "soft"]}, r"search.json: margin=soft: 'margin' \"soft\" needs triplet_strategy"),
        ({}, {"margin": [1, 1]}, r"search.json: 'margin=1' and 'margin=1,trial=1' are the same experiment"),
    ],
)
def test_mistakes_are_one_line(tmp_path, params, vary, message):
    parent = write(tmp_path / "s", vary, params)
    with pytest.raises(UserError, match=message) as caught:
        Search(parent, 2, None)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in parent.iterdir()) == ["params.json", "search.json"]


@pytest.mark.parametrize("vary", [RATES, {"image_size": [8, 6]}])
def test_a_search_without_validation_images_is_refused(tmp_path, vary):
    parent = write(tmp_path / "s", vary, {"validation_size": None})
    with pytest.raises(
        UserError, match=r"params.json: 'validation_size' or .* is missing, and the data have no folder"
    ):
        Search(parent, 1, None).check_data()


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


def test_a_trial_that_is_begun_anew_is_not_judged_by_old_evaluations(tmp_path, fake):
    parent = write(tmp_path / "s", {"margin": [1]}, {"learning_rate": 0.5})
    Search(parent, 1, None).run(1)
    evaluations = parent / "margin=1" / "validation" / "evaluations.json"
    evaluations.parent.mkdir()
    evaluations.write_text('[{"global_step": 1, "knn_accuracy": 0.1}]')
    write(parent, {"margin": [1]}, {"learning_rate": 0.1})
    Search(parent, 1, None).run(1)
    assert not evaluations.exists() and Search(parent, 1, None).describe() == "margin=1: finished"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dataset": "digitz"}, r"data set 'digitz': unknown; did you mean 'digits'\?"),
        ({"validation_size": 5000}, r"params.json: 'validation_size' must be .* received 5000"),
    ],
)
def test_data_that_cannot_be_are_told_once_before_any_trial(tmp_path, search, params, message):
    parent = write(tmp_path / "s", {"margin": [1, 2]}, params)
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=message):
        Search(parent, 1, tmp_path / "data").check_data()
    code, _, said = search(parent, "--data_dir", str(tmp_path / "data"))
    assert code == 2 and len(said.splitlines()) == 1
    assert sorted(path.name for path in parent.iterdir()) == ["params.json", "search.json"]


def test_a_trial_that_somebody_stops_has_not_failed(tmp_path, fake):
    fake(most=0)
    parent = write(tmp_path / "s", {"learning_rate": [0.1]})
    process = run_search(parent)
    wait_for(lambda: starts(parent))
    os.kill(int((parent / "learning_rate=0.1" / "starts").read_text()), signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "learning_rate=0.1: was asked to stop; the next search goes on with it." in said and process.returncode == 2
    fake()
    Search(parent, 1, None).run(1)
    assert Search(parent, 1, None).describe() == "learning_rate=0.1: finished"


def test_a_trial_that_failed_is_tried_again_if_asked(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.5, 0.1]})
    Search(parent, 1, None).run(1)
    (parent / "learning_rate=0.5" / "failed").unlink()
    Search(parent, 1, None).run(1)
    assert starts(parent) == {"learning_rate=0.1": 1, "learning_rate=0.5": 2}


def study_in(parent):
    """What Optuna knows of the trials of a search."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{parent / 'search.db'}")
    try:
        return optuna.load_study(study_name="search", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_a_drawn_trial_that_failed_is_tried_again_if_asked(tmp_path, fake):
    parent = write(tmp_path / "s", {"margin": {"low": 0.1, "high": 1.0}}, num_trials=2)
    fake("raise SystemExit(2)")
    Search(parent, 1, None).run(1)
    for path in parent.glob("*/failed"):
        path.unlink()
    fake(FAKE_THAT_IS_EVALUATED)
    for _ in range(2):
        Search(parent, 1, None).run(1)
    assert len(list(parent.glob("*/validation.json"))) == 2 and not list(parent.glob("*/failed"))
    known = [trial.value for trial in study_in(parent) if trial.state.name == "COMPLETE"]
    assert known == [0.9, 0.9]  # what later draws learn from, once each


def test_numbers_that_look_alike_have_folders_of_their_own(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": [0.12345678, 0.12345679]})
    for _ in range(2):
        Search(parent, 1, None).run(2)
    assert starts(parent) == {"learning_rate=0.1235": 1, "learning_rate=0.1235,trial=1": 1}


def test_a_drawn_trial_is_worth_the_mean_of_its_seeds(tmp_path, fake):
    parent = write(tmp_path / "s", {"learning_rate": {"low": 0.1, "high": 0.4}}, {"seed": 100_000}, num_trials=2)
    Search(parent, 3, None).run(2)
    for trial in study_in(parent):  # 1 - rate + seed / 1e6
        assert trial.value == pytest.approx(1 - trial.params["learning_rate"] + 0.100001, abs=1e-9)


def test_the_best_is_one_whose_runs_are_all_finished(tmp_path, search):
    parent = write(tmp_path / "s", {"learning_rate": [0.1, 0.2]})
    Search(parent, 1, None).run(1)
    (parent / "learning_rate=0.1" / "seed=231").mkdir()
    (parent / "learning_rate=0.1" / "seed=231" / "failed").write_text("")
    (parent / "stray" / "deep").mkdir(parents=True)
    shutil.copy(parent / "learning_rate=0.1" / "validation.json", parent / "stray" / "deep")
    (parent / "stray" / "validation.json").write_text("garbage")
    _, printed, _ = search(parent, "--seeds", "2")
    assert "Best: learning_rate=0.2, knn_accuracy 0.8002" in printed
    assert "1 broke down: learning_rate=0.1.\n" in printed and "stray" not in printed


def test_nothing_finished_is_one_line(tmp_path, search):
    parent = write(tmp_path / "s", {"learning_rate": [0.5]})
    for _ in range(2):
        code, _, said = search(parent)
        assert code == 2
        assert said.splitlines()[-1] == f"{parent}: no trial has come to its end; see the output.log of each"


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--seeds", "-1"]])
def test_counts_are_at_least_1(tmp_path, search, arguments):
    code, _, said = search(write(tmp_path / "s", RATES), *arguments)
    assert code == 2 and "expected a whole number of at least 1, received" in said.splitlines()[-1]


def test_hopeless_trials_are_ended_early(tmp_path, fake, caplog):
    caplog.set_level("INFO", "model")
    parent = write(tmp_path / "s", {"margin": {"low": 0.1, "high": 1.0}}, num_trials=6)
    fake(FAKE_THAT_IS_EVALUATED)
    Search(parent, 1, None).run(1)
    assert len(list(parent.glob("*/validation.json"))) == 5
    assert len(list(parent.glob("*/pruned"))) == 1 and not list(parent.glob("*/failed"))
    assert caplog.text.count("ended early, as others were better by then") == 1
    Search(parent, 1, None).run(1)  # and are not tried again
    assert sorted(line.split(": ")[1] for line in Search(parent, 1, None).describe().splitlines()) == (
        ["finished"] * 5 + ["pruned"]
    )
