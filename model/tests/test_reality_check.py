"""One protocol for all losses; what is there is not made again; and the table says what the runs say.

Nothing is trained here: where a command would be called, a stub writes what it leaves behind.
"""

import dataclasses
import json
import math
import statistics
import types

import numpy as np
import pytest
from scipy import stats

from benchmarks import reality_check
from benchmarks.reality_check import AGAINST, BUDGETS, LOSSES, SETS, Study
from model.common.versions import Provenance
from model.data.dataset import Dataset, Split
from model.data.partition import divide
from model.params import Params
from model.scoring.record import Record
from model.strategies import STRATEGIES
from model.studies.search import Search
from model.studies.trials import Grid

# Every parameter that may differ between two losses of a data set, and no other.
MAY_DIFFER = {
    "triplet_strategy", "learning_rate", "margin", "temperature", "scale", "scale_positive", "scale_negative",
    "similarity_threshold", "class_vector_learning_rate_factor", "distance",
}  # fmt: skip
ALL = [Study(budget, data, loss) for budget in BUDGETS for data in SETS for loss in LOSSES]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder for what is kept, an empty one."""
    folder = tmp_path / "results"
    monkeypatch.setattr(reality_check, "RESULTS", folder)
    return folder


def search_of(study, folder):
    """The search as its command opens it, which checks every trial."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(study.params(0)))
    (folder / "search.json").write_text(json.dumps(study.space))
    return Search(folder, 1, None)


def scores(study, value):
    """What a run measured: `value` of the metric that is compared, less of others."""
    prefix = SETS[study.data].scored
    return {"global_step": 9.0, f"{prefix}map_at_r": value, f"{prefix}recall_at_1": value + 0.01}


def write_record(path, params, metrics, **more):
    made = Provenance("a" * 40, "a" * 40, {}, "an abacus", more.pop("data", "d" * 64), 60.0, 2000.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Record("step-9", f"{path}", metrics, params=params, provenance=made, **more).write(path)


def keep(study, values, best=0, broken=(), **more):
    """Writes what is kept of a study: `values` by seed, and of its trials the one of this number is the best."""
    settings = study.space["vary"]["trial"]
    found = [None if number in broken else 0.9 if number == best else 0.5 for number in range(len(settings))]
    trials = [{"settings": tried, "map_at_r": value} for tried, value in zip(settings, found, strict=True)]
    study.results.mkdir(parents=True)
    (study.results / "search.json").write_text(json.dumps({"params": study.params(0), "trials": trials}))
    for seed, value in values.items():
        params = Params(**study.params(seed, settings[best])).differences()
        write_record(study.results / f"seed={seed}" / "metrics.json", params, scores(study, value), **more)


class Commands:
    """Stands for the commands: writes what they leave behind, and remembers what was called.

    Args:
        fails: Called with the script and its folder; returns the exit code.
    """

    def __init__(self, fails=lambda script, folder: 0):
        self.fails, self.called = fails, []

    def run(self, command, cwd):
        script, option, folder = command[1].name, command[2], command[3]
        self.called.append(f"{script} {'/'.join(folder.parts[-4:])}")
        code = self.fails(script, folder)
        if code == 0 and script == "search_hyperparams.py":
            assert option == "--parent_dir"
            search = Search(folder, 1, None)
            for number, trial in enumerate(Grid(folder, search.space).trials()):
                params = {**json.loads((folder / "params.json").read_text()), **trial.settings}
                metrics = {"global_step": 9.0, "map_at_r": 0.1 * number}
                write_record(trial.folder / "validation.json", params, metrics)
        if code == 0 and script != "search_hyperparams.py":
            assert option == "--model_dir"
            params = Params.from_json(folder / "params.json")
            study = Study(*folder.parts[-4:-1])
            write_record(folder / "metrics.json", params.differences(), scores(study, 0.5 + params.seed / 100))
        return types.SimpleNamespace(returncode=code)


def stub(monkeypatch, **more):
    commands = Commands(**more)
    monkeypatch.setattr(reality_check, "subprocess", types.SimpleNamespace(run=commands.run))
    return commands


def main(*arguments):
    reality_check.main([*map(str, arguments)])


def ends_with(code, capsys, *arguments):
    """Calls the command, which has to end with this code; returns the last line that it says."""
    with pytest.raises(SystemExit) as ended:
        main(*arguments)
    assert ended.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


# The protocol.


def test_every_strategy_takes_part_but_those_that_mine_offline():
    assert set(STRATEGIES) - set(LOSSES) == {"offline_semi_hard", "offline_hard"}
    assert AGAINST in LOSSES


@pytest.mark.parametrize("data", SETS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_losses_differ_in_nothing_but_what_is_theirs(budget, data):
    def shared(loss, settings):
        params = Params(**Study(budget, data, loss).params(1, settings)).model_dump()
        return {name: value for name, value in params.items() if name not in MAY_DIFFER}

    expected = shared(AGAINST, {})
    for loss in LOSSES:
        for settings in (None, *Study(budget, data, loss).space["vary"]["trial"]):
            assert shared(loss, settings) == expected, loss


@pytest.mark.parametrize("study", ALL, ids=lambda study: f"{study.budget}-{study.data}-{study.loss}")
def test_every_search_can_be_and_has_the_same_number_of_trials(study, tmp_path):
    search = search_of(study, tmp_path / "search")
    trials = Grid(search.parent, search.space).trials()
    assert len(trials) == BUDGETS[study.budget].trials
    assert search.metric == "map_at_r"
    assert search.params.validation_size or search.params.validation_classes
    assert search.params.seed == 0  # and final runs have seeds from 1 up
    for trial in trials:
        Params(**study.params(1, trial.settings))


@pytest.mark.parametrize("loss", LOSSES)
def test_both_ends_of_every_range_can_be(loss):
    study, ranges = Study("small", "mnist", loss), reality_check.ranges(loss)
    for end in (0, 1):
        Params(**study.params(1, {name: both[end] for name, both in ranges.items()}))
        for name, both in ranges.items():
            Params(**study.params(1, {name: both[end]}))
    if "margin" in ranges and not STRATEGIES[loss].of_similarities:
        assert ranges["margin"][1] <= 2  # unit vectors are not farther apart


@pytest.mark.parametrize(
    ("loss", "paper"),
    [
        ("batch_all", {"margin": 0.5}),
        ("multi_similarity", {"scale_positive": 2, "scale_negative": 50, "similarity_threshold": 1, "margin": 0.1}),
        ("supervised_contrastive", {"temperature": 0.1}),
        ("circle", {"margin": 0.4, "scale": 80}),
        ("proxy_anchor", {"margin": 0.1, "scale": 32, "class_vector_learning_rate_factor": 100}),
        ("arcface", {"margin": 0.5, "scale": 64, "class_vector_learning_rate_factor": 1}),
    ],
)
def test_the_first_trial_is_that_of_the_paper(loss, paper):
    assert reality_check.settings_to_try(loss, 4)[0] == {"learning_rate": 1e-3, **paper}


@pytest.mark.parametrize("loss", LOSSES)
def test_trials_fill_the_ranges(loss):
    few, many = (reality_check.settings_to_try(loss, BUDGETS[budget].trials) for budget in ("small", "full"))
    assert many[: len(few)] == few
    for name, (low, high) in reality_check.ranges(loss).items():
        places = sorted(math.log(settings[name] / low) / math.log(high / low) for settings in many[1:])
        assert places[0] > -0.01 and places[-1] < 1.01
        assert {min(2, int(3 * place)) for place in places} == {0, 1, 2}, name
        assert max(b - a for a, b in zip([0, *places], [*places, 1], strict=True)) < 0.4, name


def test_all_losses_have_the_same_learning_rates():
    rates = {tuple(t["learning_rate"] for t in reality_check.settings_to_try(loss, 10)) for loss in LOSSES}
    assert len(rates) == 1


# Who is learned from, who chooses, who is tested.


def data_of(train, test, names):
    """A data set of tiny images: two training images of each class, and one test image."""
    labels = np.repeat(np.array(train, np.int32), 2)
    blank = np.zeros((max(len(labels), len(test)), 1, 1, 1), np.uint8)
    return Dataset(
        "", Split(blank[: len(labels)], labels), Split(blank[: len(test)], np.array(test, np.int32)), tuple(names)
    )


def classes_of(split):
    return set(np.unique(split.labels).tolist())


def test_two_digits_are_tested_two_choose_and_six_are_learned_from():
    params = Params(**Study("full", "unseen_digits", AGAINST).params(1))
    parts = divide(data_of(range(10), range(10), map(str, range(10))), params)
    assert classes_of(parts.train) == {0, 1, 2, 3, 4, 5}
    assert len(classes_of(parts.train)) == SETS["unseen_digits"].num_classes == params.num_classes_per_batch
    assert classes_of(parts.validation) == {6, 7}
    assert set(parts.unseen) == {8, 9}


def test_every_fifth_background_alphabet_of_omniglot_chooses():
    background = reality_check._BACKGROUND
    assert len(background) == 30 and sum(background.values()) == 964  # as Lake and others published it
    assert list(background) == sorted(background)
    names = [f"{of}/character{number:02}" for of, count in background.items() for number in range(1, count + 1)]
    names += [f"Tengwar/character{number:02}" for number in range(1, 26)]
    params = Params(**Study("full", "omniglot", AGAINST).params(1))
    parts = divide(data_of(range(964), range(964, 989), names), params)
    assert {names[label].partition("/")[0] for label in classes_of(parts.validation)} == {
        "Asomtavruli_(Georgian)", "Burmese_(Myanmar)", "Greek", "Japanese_(katakana)", "N_Ko", "Tifinagh",
    }  # fmt: skip
    assert classes_of(parts.validation) | classes_of(parts.train) == set(range(964))
    assert not classes_of(parts.validation) & classes_of(parts.train)
    assert len(classes_of(parts.train)) == SETS["omniglot"].num_classes
    assert set(parts.unseen) == set(range(964, 989))


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_training_images_choose_where_all_classes_are_seen(data):
    params = Params(**Study("full", data, AGAINST).params(1))
    assert params.validation_size and params.validation_classes is None and params.holdout_classes is None
    assert SETS[data].num_classes == 10
    assert SETS[data].metrics == ["map_at_r", "recall_at_1"]


# What `run` does.


def test_a_search_comes_first_and_its_best_trial_is_trained(results, tmp_path, monkeypatch):
    commands = stub(monkeypatch)
    main("run", "--budget", "small", "--sets", "mnist", "--losses", "circle", "--runs", tmp_path / "runs")
    runs = "small/mnist/circle"
    assert commands.called == [
        f"search_hyperparams.py {runs}/search", *(f"train.py {runs}/seed={seed}" for seed in (1, 2, 3))
    ]  # fmt: skip
    study = Study("small", "mnist", "circle")
    last = reality_check.settings_to_try("circle", 4)[3]  # the stub gives each trial more than the one before
    assert study.chosen() == last
    assert [trial["map_at_r"] for trial in study.tried()] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    for seed in (1, 2, 3):
        trained = json.loads((tmp_path / "runs" / runs / f"seed={seed}" / "params.json").read_text())
        assert trained == {**study.params(seed), **last}
        assert (results / runs / f"seed={seed}" / "metrics.json").exists()


def test_baselines_are_measured_once(results, tmp_path, monkeypatch):
    commands = stub(monkeypatch)
    main("run", "--sets", "mnist", "--losses", AGAINST, "circle", "--seeds", 2, 1, "--runs", tmp_path)
    assert [line for line in commands.called if "evaluate" in line] == [f"evaluate.py full/mnist/{AGAINST}/seed=1"]


def test_what_is_there_is_not_made_again(results, tmp_path, monkeypatch):
    commands = stub(monkeypatch)
    arguments = ("run", "--budget", "small", "--sets", "omniglot", "--losses", "contrastive")
    main(*arguments, "--runs", tmp_path / "runs")
    (results / "small" / "omniglot" / "contrastive" / "seed=2" / "metrics.json").unlink()
    commands.called.clear()
    main(*arguments, "--runs", tmp_path / "elsewhere")
    assert commands.called == ["train.py small/omniglot/contrastive/seed=2"]
    commands.called.clear()
    main(*arguments, "--runs", tmp_path / "elsewhere")
    assert commands.called == []


def test_one_that_fails_does_not_keep_others_from_being_made(results, tmp_path, monkeypatch, capsys):
    def fails(script, folder):
        is_broken = folder.parts[-2:] == ("circle", "search") or folder.parts[-2:] == ("arcface", "seed=2")
        return 2 if is_broken else 0

    commands = stub(monkeypatch, fails=fails)
    arguments = ("run", "--budget", "small", "--sets", "mnist", "--losses", "circle", "arcface", "--runs", tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(*arguments)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "2 failed" in said and "circle/search" in said and "arcface/seed=2" in said
    assert len(commands.called) == 5 and "arcface/seed=3" in commands.called[-1]
    commands.called.clear()
    commands.fails = lambda script, folder: 0
    main(*arguments)
    assert "circle/search" in commands.called[0] and "arcface/seed=2" in commands.called[-1]


@pytest.mark.parametrize("code", [130, 143, -9])
def test_a_command_that_was_stopped_stops_all(code, results, tmp_path, monkeypatch, capsys):
    commands = stub(monkeypatch, fails=lambda script, folder: code)
    assert "goes on" in ends_with(130, capsys, "run", "--runs", tmp_path)
    assert len(commands.called) == 1
    assert not results.exists()


def test_a_search_without_a_trial_is_not_kept(results, tmp_path, monkeypatch, capsys):
    def breaks(command, cwd):
        for trial in Grid(command[3], Search(command[3], 1, None).space).trials():
            trial.folder.mkdir()
            (trial.folder / "failed").write_text("exit code 1\n")
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(reality_check, "subprocess", types.SimpleNamespace(run=breaks))
    line = ends_with(1, capsys, "run", "--sets", "mnist", "--losses", "circle", "--runs", tmp_path)
    assert "no trial has come to its end" in line
    assert not results.exists()


# Bad input is one line.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--sets", "cifar"), "cifar"),
        (("--losses", "offline_hard"), "offline_hard"),
        (("--losses", "triplet"), "triplet"),
        (("--seeds", 0), "from 1"),
        (("--budget", "huge"), "huge"),
    ],
)
def test_what_is_not_there_cannot_be_run(arguments, named, results, tmp_path, monkeypatch, capsys):
    commands = stub(monkeypatch)
    assert named in ends_with(2, capsys, "run", "--runs", tmp_path, *arguments)
    assert not commands.called


def test_there_is_no_table_without_results(results, capsys):
    assert "there are no results" in ends_with(2, capsys, "table", "--budget", "small")


def test_there_is_no_table_without_what_all_are_compared_with(results, capsys):
    keep(Study("small", "mnist", "circle"), {1: 0.9})
    assert f"no runs of {AGAINST}" in ends_with(2, capsys, "table", "--budget", "small")


@pytest.mark.parametrize("change", ["params", "trials", "damaged", "missing", "run", "seed", "loss", "data"])
def test_results_of_another_protocol_are_told(change, results, capsys):
    study = Study("small", "mnist", AGAINST)
    keep(study, {1: 0.9, 2: 0.8})
    path, of_run = study.results / "search.json", study.results / "seed=2" / "metrics.json"
    kept, run = json.loads(path.read_text()), json.loads(of_run.read_text())
    if change == "params":
        path.write_text(json.dumps({**kept, "params": {**kept["params"], "num_epochs": 3}}))
    if change == "trials":
        path.write_text(json.dumps({**kept, "trials": kept["trials"][1:]}))
    if change == "damaged":
        path.write_text(path.read_text()[:100])
    if change == "missing":
        path.unlink()
    if change == "run":
        of_run.write_text(json.dumps({**run, "params": {**run["params"], "margin": 0.7}}))
    if change == "seed":
        of_run.write_text(json.dumps({**run, "params": {**run["params"], "seed": 3}}))
    if change == "loss":
        study.results.rename(study.results.with_name("triplet"))
    if change == "data":
        of_run.write_text(json.dumps({**run, "provenance": {**run["provenance"], "data_sha256": "e" * 64}}))
    line = ends_with(2, capsys, "table", "--budget", "small")
    assert str(results) in line and "delete this folder" in line
    assert not list(results.glob("*.md"))


def test_a_search_kept_under_another_protocol_is_told_before_anything_is_trained(
    results, tmp_path, monkeypatch, capsys
):
    keep(Study("small", "mnist", "circle"), {})
    (path,) = results.rglob("search.json")
    path.write_text(path.read_text().replace('"num_epochs": 1', '"num_epochs": 5'))
    commands = stub(monkeypatch)
    line = ends_with(
        1, capsys, "run", "--budget", "small", "--sets", "mnist", "--losses", "circle", "--runs", tmp_path / "runs"
    )
    assert "another protocol" in line
    assert not commands.called


def test_a_folder_of_runs_of_another_protocol_is_left_alone(results, tmp_path, monkeypatch, capsys):
    other = tmp_path / "full" / "mnist" / "circle" / "search" / "params.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    commands = stub(monkeypatch)
    line = ends_with(1, capsys, "run", "--sets", "mnist", "--losses", "circle", "--runs", tmp_path)
    assert "another folder for --runs" in line
    assert other.read_text() == "{}" and not commands.called


# The table, beside SciPy.

VALUES = {
    AGAINST: {1: 0.80, 2: 0.82, 3: 0.81, 4: 0.83, 5: 0.79},
    "circle": {1: 0.84, 2: 0.87, 3: 0.855, 4: 0.87, 5: 0.84},
    "arcface": {1: 0.78, 2: 0.83, 3: 0.80, 4: 0.84, 5: 0.775},
    "contrastive": {1: 0.70, 2: 0.75, 3: 0.73, 4: 0.74, 5: 0.72},
}


def holm(p):
    """By the definition: the k-th smallest of m is multiplied by m - k + 1, and none is below the one before."""
    order = np.argsort(p)
    raised = np.minimum(1, np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)))
    return dict(zip(order.tolist(), raised.tolist(), strict=True))


def table_of(budget, title):
    """The rows of a table by loss, each by column."""
    text = reality_check.tables(budget, reality_check.read_results(budget)).partition(f"## {title}\n")[2]
    lines = [line.strip("| ").split("|") for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    columns, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0].strip("`"): dict(zip(columns, row, strict=True)) for row in rows}, text


@pytest.mark.parametrize("data", ["mnist", "omniglot"])
def test_the_table_says_what_scipy_says(data, results):
    for loss, values in VALUES.items():
        keep(Study("full", data, loss), values, best=2)
    rows, text = table_of("full", SETS[data].title)
    assert list(rows) == ["circle", AGAINST, "arcface", "contrastive"]  # by the mean
    others = [loss for loss in VALUES if loss != AGAINST]
    base = list(VALUES[AGAINST].values())
    tests = [stats.ttest_rel(list(VALUES[loss].values()), base) for loss in others]
    raised = holm([test.pvalue for test in tests])
    for loss, values in VALUES.items():
        of_it = list(values.values())
        low, high = stats.t.interval(0.95, 4, np.mean(of_it), stats.sem(of_it))
        assert rows[loss]["seeds"] == "5"
        assert rows[loss]["MAP@R"] == f"{np.mean(of_it):.4f} ± {np.std(of_it, ddof=1):.4f}"
        assert rows[loss]["95 % interval"] == f"{low:.4f} to {high:.4f}"
        assert rows[loss]["recall@1"].startswith(f"{np.mean(of_it) + 0.01:.4f}")
    for number, (loss, test) in enumerate(zip(others, tests, strict=True)):
        low, high = test.confidence_interval(0.95)
        mean = statistics.mean(VALUES[loss].values()) - statistics.mean(base)
        assert rows[loss]["difference"] == f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        assert rows[loss]["p"] == f"{test.pvalue:.2g}"
        assert rows[loss]["p, Holm"] == f"{raised[number]:.2g}"
    assert {rows[AGAINST][column] for column in ("difference", "p", "p, Holm")} == {""}
    assert raised[0] < 0.05 and raised[1] > 0.05 and raised[2] < 0.05  # so that all verdicts are to be seen
    assert "better: `circle`; not told apart by 5 seeds: `arcface`; worse: `contrastive`." in text


def test_a_row_says_what_was_chosen_and_what_it_costs(results):
    keep(Study("full", "mnist", AGAINST), {1: 0.9, 2: 0.8, 3: 0.7})
    keep(Study("full", "mnist", "supervised_contrastive"), {1: 0.9, 2: 0.8, 3: 0.75}, best=1, broken=(0, 4))
    rows, text = table_of("full", "MNIST")
    tried = reality_check.settings_to_try("supervised_contrastive", 10)[1]
    assert rows[AGAINST]["chosen"] == "learning_rate 0.001, margin 0.5"
    assert rows["supervised_contrastive"]["chosen"] == (
        f"learning_rate {tried['learning_rate']}, temperature {tried['temperature']}"
    )
    assert rows[AGAINST]["ms"] == "" and "timed" not in text
    assert rows[AGAINST]["MB"] == f"{40 * 160**2 / 1e6:.1f}"
    assert "Of the 10 trials of `supervised_contrastive`, 2 broke down." in text
    assert "Made on an abacus, by version aaaaaaa." in text

    assert "Of the 5 runs of `batch_all`, 2 are missing" in text


def test_the_time_of_a_step_is_that_of_the_command(results):
    keep(Study("small", "mnist", AGAINST), {1: 0.9, 2: 0.8, 3: 0.7})
    keep(Study("small", "mnist", "circle"), {1: 0.9, 2: 0.8, 3: 0.7})
    times = {"hardware": "a loom", "milliseconds": {"mnist": {AGAINST: 12.34}, "omniglot": {"circle": 1.0}}}
    (results / "times.json").write_text(json.dumps(times))
    rows, text = table_of("small", "MNIST")
    assert (rows[AGAINST]["ms"], rows["circle"]["ms"]) == ("12.3", "")
    assert "timed on a loom" in text and "missing" not in text


@pytest.mark.slow
def test_the_steps_of_every_loss_are_timed(monkeypatch):
    """On the digits of scikit-learn, which are there."""
    small = {"dataset": "digits", "num_blocks": 1, "num_channels": 4, "batch_size": 20, "num_classes_per_batch": 10}
    of_mnist = dataclasses.replace(SETS["mnist"], params={**small, "num_images_per_class": 2})
    monkeypatch.setitem(SETS, "mnist", of_mnist)
    times = reality_check.time_steps("mnist", turns=2, block=2)
    assert list(times) == LOSSES and all(0 < milliseconds < 10_000 for milliseconds in times.values())


@pytest.mark.parametrize("number", [1, 2])
def test_few_seeds_have_no_interval(number, results):
    for loss, value in ((AGAINST, 0.9), ("circle", 0.7)):
        keep(Study("small", "mnist", loss), {seed: value + seed / 50 for seed in range(1, number + 1)})
    rows, text = table_of("small", "MNIST")
    for row in rows.values():
        assert row["seeds"] == str(number) and row["95 % interval"] == row["p"] == row["p, Holm"] == ""
    assert "too few to tell" in text


def test_what_costs_no_training_stands_below(results):
    baselines = {"raw_pixels": {"map_at_r": 0.25}, "pca": {"map_at_r": 0.5}}
    keep(Study("small", "mnist", AGAINST), {1: 0.9}, baselines=baselines)
    assert "MAP@R without training: raw pixels 0.2500, pca 0.5000." in table_of("small", "MNIST")[1]


def test_losses_have_the_same_place_in_all_panels(results):
    for data, order in (("mnist", ["circle", "arcface", AGAINST]), ("omniglot", ["arcface", AGAINST, "circle"])):
        for place, loss in enumerate(order):
            keep(Study("small", data, loss), {1: 0.9 - place / 10})
    places = reality_check._by_mean_rank(reality_check.read_results("small"))
    assert places == ["arcface", "circle", AGAINST]  # in the mean 0.5, 1 and 1.5


@pytest.mark.parametrize(
    ("values", "hidden"),
    [
        ([0.98, 0.97, 0.96, 0.95, 0.5], {0.5}),
        ([0.98, 0.97, 0.96, 0.95, 0.9], set()),
        ([0.98, 0.5, 0.1], set()),  # of three, none is the odd one
    ],
)
def test_what_is_far_behind_does_not_squeeze_the_others(values, hidden):
    lowest = reality_check._lowest_shown(values)
    assert {value for value in values if value < lowest} == hidden


@pytest.mark.slow
def test_the_command_writes_the_table_and_the_picture(results):
    for loss, values in VALUES.items():
        keep(Study("full", "mnist", loss), values)
    keep(Study("full", "omniglot", AGAINST), {1: 0.5})
    main("table")
    assert (results / "full.md").read_text().count("\n## ") == 2
    assert (results / "full.png").read_bytes().startswith(b"\x89PNG")


def test_the_committed_tables_are_what_the_committed_runs_say():
    """If this fails: python -m benchmarks.reality_check table. Runs of an older protocol have to be made again."""
    results = reality_check.RESULTS
    found = {path.relative_to(results).parts[0] for path in results.rglob("metrics.json")}
    assert found <= set(BUDGETS)
    for budget in found:
        path = results / f"{budget}.md"
        assert path.read_text(encoding="utf-8") == reality_check.tables(budget, reality_check.read_results(budget))
