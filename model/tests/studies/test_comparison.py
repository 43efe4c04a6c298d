"""Experiments side by side, by hand and against SciPy's paired t-test."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import compare_experiments
from model.common import cli
from model.common.commands import ROOT
from model.common.errors import UserError
from model.common.versions import Provenance
from model.studies import comparison
from model.tests.studies.runs import pools_in, write_run


def test_a_row_holds_means_and_deviations_over_the_seeds(tmp_path):
    for seed, accuracy in [(1, 0.5), (2, 0.7), (3, 0.9)]:
        write_run(tmp_path / "small" / f"seed={seed}", accuracy, seed=seed, margin=0.2)
    write_run(tmp_path / "large", 0.25, margin=2.0)
    rows = {row["experiment"]: row for row in comparison.tabulate(pools_in(tmp_path), ["knn_accuracy"])}
    assert rows["small"]["seeds"] == 3 and rows["small"]["knn_accuracy"] == pytest.approx(0.7)
    assert rows["small"]["knn_accuracy_std"] == pytest.approx(0.2)  # (0.04 + 0.04) / (3 - 1) = 0.2^2
    assert rows["large"]["knn_accuracy_std"] is None and rows["large"]["differs"] == "margin 2.0"
    assert (rows["large"]["train_seconds"], rows["large"]["images_per_second"]) == (60.0, 1000.0)


def test_the_code_of_a_seed_that_was_run_again_is_told(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "old" / f"seed={seed}", 0.9 + seed / 100, seed=seed)
        write_run(tmp_path / "retrained" / f"seed={seed}", 0.94 + seed**2 / 100, seed=seed, commit="b" * 40)
    pools = pools_in(tmp_path)
    rows = comparison.tabulate(pools, ["knn_accuracy"], against=pools[0])
    assert [row["code"] for row in rows] == ["aaaaaaa", "bbbbbbb"] and rows[1]["difference"] is not None


def test_what_runs_come_from_is_told_where_it_is_known(tmp_path):
    write_run(tmp_path / "x" / "1", 0.5, seed=1, provenance=False)
    (alone,) = comparison.tabulate(pools_in(tmp_path), ["knn_accuracy"])
    assert alone["code"] == alone["data"] == alone["hardware"] == "?" and alone["train_seconds"] is None
    write_run(tmp_path / "x" / "2", 0.7, seed=2)
    pools = pools_in(tmp_path)
    (row,) = rows = comparison.tabulate(pools, ["knn_accuracy"])
    assert row["seeds"] == 2 and row["train_seconds"] == 60.0
    assert (row["code"], row["data"], row["hardware"]) == ("? / aaaaaaa", "? / ddddddd", "? / some cores")
    assert len(comparison.describe(pools, rows, ["knn_accuracy"])[1]) == 3


def test_a_parameter_that_changed_on_the_way_is_told(tmp_path):
    history = ({"from_step": 0, "params": {"margin": 0.5}}, {"from_step": 500, "params": {"margin": 0.2}})
    write_run(tmp_path / "mixed", 0.5, margin=0.2, history=history)
    write_run(tmp_path / "pure", 0.5, margin=0.2)
    pools = pools_in(tmp_path)
    rows = comparison.tabulate(pools, ["eer"])
    assert [row["differs"] for row in rows] == ["margin 0.5 until step 500, then 0.2", "margin 0.2"]
    assert "mixed differs from the defaults in margin 0.5 until step 500, then 0.2.\n" in comparison.show(
        pools, rows, ["eer"]
    )


def test_the_best_is_the_first_with_its_interval(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "two" / str(seed), 0.75 + seed / 100, seed=seed, margin=1)
    write_run(tmp_path / "one", 0.5)
    pools = pools_in(tmp_path)
    rows = comparison.sort(comparison.tabulate(pools, ["knn_accuracy"]), "knn_accuracy", "knn_accuracy")
    assert comparison.describe_best(pools, rows, "knn_accuracy") == (
        "Best: two, knn_accuracy 0.7650, too few seeds for an interval."
    )
    assert comparison.describe_best(pools, rows[1:], "knn_accuracy") == (
        "Best: one, knn_accuracy 0.5000, 95 % interval 0.1000 to 0.9000."
    )


@pytest.mark.parametrize("form", comparison.FORMATS)
def test_text_ends_with_a_line_break(tmp_path, form):
    write_run(tmp_path / "one", 0.5, margin=3)
    pools = pools_in(tmp_path)
    text = comparison.show(pools, comparison.tabulate(pools, ["eer"]), ["eer"], form, differences=False)
    assert text.endswith("\n") and "one" in text and "differs from the defaults in margin" not in text


def test_the_interval_is_that_of_the_run_with_the_value(tmp_path):
    write_run(tmp_path / "1", math.nan, seed=1)
    write_run(tmp_path / "2", 0.5, seed=2)
    (pool,) = pools_in(tmp_path)
    assert comparison.interval(pool, "knn_accuracy") == (0.1, 0.9)
    assert all(map(math.isnan, comparison.interval(pool, "no_such_metric")))


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 30])
def test_the_paired_comparison_is_that_of_scipy(tmp_path, num_seeds):
    random = np.random.default_rng(num_seeds)
    ours, theirs = 0.9 + 0.02 * random.random((2, num_seeds))
    for name, values in [("ours", ours), ("theirs", theirs)]:
        for seed, value in enumerate(values):
            write_run(tmp_path / name / str(seed), float(value), seed=seed, margin=len(name))
    write_run(tmp_path / "theirs" / "alone", 0.1, seed=99, margin=6)  # has no partner
    this, other = pools_in(tmp_path)
    found = comparison.compare(this, other, "knn_accuracy")
    expected = scipy.stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.num_pairs == num_seeds
    np.testing.assert_allclose(
        [found.mean, found.low95, found.high95, found.p],
        [np.mean(ours - theirs), interval.low, interval.high, expected.pvalue],
    )


def verdict(tmp_path, ours, theirs, metric="knn_accuracy"):
    for name, values in [("ours", ours), ("theirs", theirs)]:
        for seed, value in enumerate(values):
            write_run(tmp_path / name / str(seed), value, seed=seed, margin=len(name))
    this, other = pools_in(tmp_path)
    mine, itself = comparison.tabulate([this, other], [metric], against=other)
    assert itself["difference"] is None
    return mine


@pytest.mark.parametrize(
    ("ours", "theirs", "metric", "expected"),
    [
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.53], "knn_accuracy", "better"),
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.53], "eer", "better"),  # less is better, and there is less
        ([0.5, 0.51, 0.53], [0.9, 0.91, 0.92], "eer", "worse"),
        ([0.5, 0.9, 0.7], [0.6, 0.7, 0.7], "knn_accuracy", "not told apart by 3 seeds"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "eer", "no spread to judge by: the same difference with all 3 seeds"),
        (
            [0.993, 0.994, 0.992],
            [0.99, 0.991, 0.989],
            "knn_accuracy",
            "no spread to judge by: the same difference with all 3 seeds",
        ),
        ([0.9, 0.91], [0.5, 0.51], "knn_accuracy", "too few to tell: 2 seeds in common"),
        ([0.9, 0.9101], [0.5, 0.51], "knn_accuracy", "too few to tell: 2 seeds in common"),  # p would be 8e-5
        ([0.9], [0.5], "knn_accuracy", "too few to tell: 1 seed in common"),
    ],
)
def test_the_verdict(tmp_path, ours, theirs, metric, expected):
    assert verdict(tmp_path, ours, theirs, metric)["verdict"] == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_p_values_are_raised_as_the_closure_of_bonferroni_does(values):
    """Marcus, Peritz and Gabriel: a hypothesis falls if every set of hypotheses with it does, each by Bonferroni."""
    for index, raised in enumerate(comparison.holm(values)):
        others = [i for i in range(len(values)) if i != index]
        sets = [
            [values[index], *(values[i] for i in chosen)]
            for size in range(len(values))
            for chosen in itertools.combinations(others, size)
        ]
        assert raised == pytest.approx(max(min(1.0, len(some) * min(some)) for some in sets))


def test_what_one_test_would_call_better_is_not_told_apart_among_many(tmp_path):
    """By itself p is 0.03; as the second smallest of three, that is not enough."""
    differences = {
        "near": [0.004, 0.001, 0.002, 0.003],
        "far": [0.1, 0.102, 0.104, 0.101],
        "same": [0.0, 0.2, -0.2, 0.01],
    }
    for name, values in differences.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / name / str(seed), 0.5 + value, seed=seed, margin=ord(name[0]))
    for seed in range(4):
        write_run(tmp_path / "base" / str(seed), 0.5, seed=seed, margin=9)
    pools = pools_in(tmp_path)
    base = next(pool for pool in pools if pool.name == "base")
    rows = {row["experiment"]: row for row in comparison.tabulate(pools, ["knn_accuracy"], against=base)}
    p = {name: scipy.stats.ttest_1samp(values, 0).pvalue for name, values in differences.items()}
    assert 0.05 / 2 < p["near"] < 0.05
    assert rows["near"]["p"] == pytest.approx(p["near"]) and rows["near"]["p_holm"] == pytest.approx(2 * p["near"])
    assert rows["far"]["p_holm"] == pytest.approx(3 * p["far"]) and rows["far"]["verdict"] == "better"
    assert rows["near"]["verdict"] == rows["same"]["verdict"] == "not told apart by 4 seeds"
    two = [pool for pool in pools if pool.name in ("near", "base")]
    alone = comparison.tabulate(two, ["knn_accuracy"], against=base)
    assert next(row for row in alone if row["experiment"] == "near")["verdict"] == "better"


def test_other_data_are_not_compared(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "ours" / str(seed), 0.5 + seed**2 / 100, seed=seed, margin=1)
        write_run(tmp_path / "theirs" / str(seed), 0.6, seed=seed, margin=2, data="e" * 64)
    this, other = pools_in(tmp_path)
    row, _ = comparison.tabulate([this, other], ["knn_accuracy"], against=other)
    assert row["verdict"] == "other data: not comparable"
    assert row["difference"] is row["low95"] is row["high95"] is row["p"] is row["p_holm"] is None


def test_without_a_seed_in_common_there_is_no_difference(tmp_path):
    write_run(tmp_path / "ours", 0.5, seed=1, margin=1)
    write_run(tmp_path / "theirs", 0.6, seed=2, margin=2)
    this, other = pools_in(tmp_path)
    row, _ = comparison.tabulate([this, other], ["knn_accuracy"], against=other)
    assert row["difference"] is row["p"] is None and row["verdict"] == "too few to tell: 0 seeds in common"


def test_the_interval_of_one_run_is_that_over_its_images(tmp_path):
    write_run(tmp_path / "one", 0.5)
    (pool,) = pools_in(tmp_path)
    assert comparison.interval(pool, "knn_accuracy") == (0.1, 0.9)
    assert all(math.isnan(end) for end in comparison.interval(pool, "eer"))


def test_the_interval_over_seeds_needs_three(tmp_path):
    for seed, accuracy in [(1, 0.95), (2, 0.96)]:
        write_run(tmp_path / str(seed), accuracy, seed=seed)
    (two,) = pools_in(tmp_path)
    assert all(map(math.isnan, comparison.interval(two, "knn_accuracy")))
    write_run(tmp_path / "3", 0.94, seed=3)
    (three,) = pools_in(tmp_path)
    half = 4.302653 * 0.01 / 3**0.5  # a table's 97.5 % quantile of Student's t with 2 degrees of freedom
    assert comparison.interval(three, "knn_accuracy") == pytest.approx((0.95 - half, 0.95 + half))


def test_sorting_puts_the_best_first():
    rows = [
        {"a": 1.0, "eer": 0.5, "unseen/eer_low95": 0.5, "a_std": 0.5, "difference": 0.5, "name": "z"},
        {"a": None, "eer": None, "unseen/eer_low95": None, "a_std": None, "difference": None, "name": "y"},
        {"a": 2.0, "eer": 0.1, "unseen/eer_low95": 0.1, "a_std": 0.1, "difference": 0.1, "name": "x"},
    ]

    def order(column, reverse=False):
        return "".join(row["name"] for row in comparison.sort(rows, column, "eer", reverse))

    assert order("a") == "xzy" and order("a", reverse=True) == "zxy"
    for column in ("eer", "unseen/eer_low95", "a_std", "difference"):  # less is better
        assert order(column) == "xzy" and order(column, reverse=True) == "zxy"
    assert order("name") == "xyz" and order("name", reverse=True) == "zyx"
    with pytest.raises(
        UserError, match="no column 'b' to sort by; there are a, eer, unseen/eer_low95, a_std, difference, name"
    ):
        order("b")


def test_what_a_column_is_called_on_the_screen_sorts_as_well():
    rows = [{"experiment": name, "train_seconds": seconds} for name, seconds in [("slow", 9.0), ("fast", 3.0)]]
    assert [row["experiment"] for row in comparison.sort(rows, "minutes", "eer")] == ["fast", "slow"]


def test_what_is_not_comparable_is_marked(tmp_path):
    write_run(tmp_path / "ours", 0.5, margin=1, commit="b" * 40 + "+changes")
    write_run(tmp_path / "theirs", 0.6, margin=2)
    pools = pools_in(tmp_path)
    rows = comparison.tabulate(pools, ["knn_accuracy"])
    assert [row["code"] for row in rows] == ["bbbbbbb+", "aaaaaaa"]
    _, notes = comparison.describe(pools, rows, ["knn_accuracy"])
    assert notes == ["Not all runs have the same version of the code: bbbbbbb+ of ours; aaaaaaa of theirs."]


def test_one_experiment_of_two_versions_is_marked(tmp_path):
    write_run(tmp_path / "1", 0.5, seed=1)
    write_run(tmp_path / "2", 0.5, seed=2, commit="b" * 40)
    pools = pools_in(tmp_path)
    _, notes = comparison.describe(pools, comparison.tabulate(pools, ["eer"]), ["eer"])
    assert notes == ["Not all runs have the same version of the code: aaaaaaa / bbbbbbb of 1, 2."]


def test_what_all_share_is_said_once(tmp_path):
    write_run(tmp_path / "ours", 0.5, margin=1, dataset="digits")
    write_run(tmp_path / "theirs", 0.6, margin=2, dataset="digits")
    pools = pools_in(tmp_path)
    described, notes = comparison.describe(pools, comparison.tabulate(pools, ["knn_accuracy"]), ["knn_accuracy"])
    assert notes == ["In all of them: dataset digits."]
    assert [row["differs from the defaults in"] for row in described] == ["margin 1", "margin 2"]


# ------------------------------------------------------------------------------- the command line


@pytest.fixture
def compare(capsys):
    """Runs compare_experiments.py in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = 0
        try:
            cli.run(
                compare_experiments.main, "", [*map(str, arguments)], compare_experiments.add_options,
                of_an_experiment=False,
            )  # fmt: skip
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def two(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "ours" / str(seed), 0.9 + seed / 100, seed=seed, margin=1)
        write_run(tmp_path / "theirs" / str(seed), 0.5 + seed**2 / 1000, seed=seed, margin=2)
    return tmp_path


@pytest.mark.slow
def test_the_command_line_in_every_format(two, compare):
    options = (two, "--metrics", "knn_accuracy", "eer", "--against", "theirs", "--format")
    results = {form: compare(*options, form) for form in ("terminal", "markdown", "csv", "json")}
    assert all((code, said) == (0, "") for code, _, said in results.values())
    text = {form: printed for form, (_, printed, _) in results.items()}
    rows = json.loads(text["json"])
    assert [row["experiment"] for row in rows] == ["ours", "theirs"]
    assert rows[0]["knn_accuracy"] == pytest.approx(0.92) and rows[0]["verdict"] == "better"
    as_csv = list(csv.DictReader(io.StringIO(text["csv"])))
    assert [float(row["eer"]) for row in as_csv] == [row["eer"] for row in rows]
    assert as_csv[1]["p"] == ""
    head, rule, first, *_ = text["markdown"].splitlines()
    assert head.startswith("| experiment | seeds | knn_accuracy | eer | difference |") and set(rule) <= set("| -")
    assert first.startswith("| ours | 3 | 0.9200 ± 0.0100 | 0.0800 ± 0.0100 | +0.4153 |")
    assert "0.9200 ± 0.0100" in text["terminal"]
    assert "ours differs from the defaults in margin 1.\n" in text["terminal"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["theirs", "theirs/2"])
def test_what_others_are_compared_with_may_be_called_by_any_of_its_runs(two, compare, name):
    _, printed, _ = compare(two, "--metrics", "eer", "--against", name, "--format", "json")
    assert [row["verdict"] for row in json.loads(printed)] == ["better", "what the others are compared with"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "knn_acuracy"], "no run has a metric 'knn_acuracy'; did you mean 'knn_accuracy'?"),
        (["--sort", "colour"], "no column 'colour' to sort by; there are experiment, seeds, "),
        (["--against", "nobody"], "--against nobody: no such experiment; there are ours, theirs"),
    ],
)
def test_mistakes_are_one_line(two, compare, arguments, message):
    code, _, said = compare(two, *(["--metrics", "eer"] if "--metrics" not in arguments else []), *arguments)
    assert code == 2 and said.startswith(message) and said.count("\n") == 1


def test_a_folder_without_scores_is_one_line(tmp_path, compare):
    for option, file in ([], "metrics.json"), (["--validation"], "validation.json"):
        message = f"{tmp_path}: there is no {file} in it or below it; train an experiment first\n"
        assert compare(tmp_path, *option) == (2, "", message)


@pytest.mark.parametrize("form", ["json", "terminal"])
@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"seed": [1]}},
        {"params": {"\ud800": 1}},
        {"params": {"margin": "\ud800"}},
        {"metrics": {"knn_accuracy": math.inf}},
        {"metrics": {"other": 1}},
        {"provenance": []},
        {"provenance": {**dataclasses.asdict(Provenance("", "", {}, "", "")), "train_seconds": 0}},
    ],
)
def test_scores_that_somebody_edited_are_shown_or_refused_in_a_line(tmp_path, compare, changes, form):
    write_run(tmp_path / "s", 0.5)
    path = tmp_path / "s" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    code, printed, said = compare(tmp_path, "--metrics", "knn_accuracy", "--format", form)
    assert (code == 0 and "knn_accuracy" in printed) or (code == 2 and said.count("\n") == 1)


@pytest.mark.parametrize("content", ["[]", '{"checkpoint": {"name": "", "digest": ""}, "metrics": {"eer": "low"}}'])
def test_scores_that_cannot_be_are_refused(tmp_path, compare, content):
    (tmp_path / "metrics.json").write_text(content)
    message = f"{tmp_path / 'metrics.json'}: not the scores of an experiment; delete this file, or evaluate again\n"
    assert compare(tmp_path) == (2, "", message)


def test_a_name_that_a_terminal_cannot_show(tmp_path):
    write_run(tmp_path / os.fsdecode(b"od\xffd"), 0.5)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, ROOT / "compare_experiments.py", tmp_path, "--metrics", "knn_accuracy"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0 and r"od\udcffd" in result.stdout and "0.5000" in result.stdout


def test_names_and_values_that_would_look_like_lines_of_the_table(tmp_path, compare):
    hostile = "\x1b[31mred\n2026-01-01 INFO Done\u202e"
    for seed in (1, 2):
        write_run(tmp_path / f"{hostile}{seed}", 0.5, margin=hostile + str(seed), commit=hostile, seed=seed)
    write_run(tmp_path / "long", 0.5, margin="x" * 200_000, commit="other")
    for form in ("terminal", "markdown"):
        code, printed, said = compare(tmp_path, "--metrics", "knn_accuracy", "--format", form)
        assert (code, said) == (0, "") and all(line.isprintable() for line in printed.split("\n"))
        assert r"\x1b[31mred\n2026-01-01 INFO Done\u202e1" in printed and len(printed) < 30_000
    code, _, said = compare(tmp_path, "--metrics", "knn_accuracy", "--against", "nobody")
    assert code == 2 and said.count("\n") == 1 and said[:-1].isprintable()
