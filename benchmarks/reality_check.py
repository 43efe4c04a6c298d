"""Whether triplet loss with good mining holds against what came after it: every loss, under one protocol.

    python -m benchmarks.reality_check run --budget full --runs FOLDER
    python -m benchmarks.reality_check time
    python -m benchmarks.reality_check table --budget full

One network, one number of steps, the same batches and augmentation for all losses of a data set. `run` gives each loss
the same number of trials over the learning rate and the parameters of its own: the values of its paper first, then
points that fill the ranges evenly, the same learning rates for all. MAP@R of the validation images chooses one of them,
which is trained with seeds that no trial had, and scored once on test images. `time` measures the
training steps of all losses in turns, which runs beside each other cannot. `table` writes
`benchmarks/results/reality_check/<budget>.md` with means, intervals and paired tests, and a picture beside it.

Seen classes: MNIST and Fashion-MNIST, whose validation images are training images set aside. Unseen ones: two digits,
chosen for by two others, and the characters of Omniglot's evaluation alphabets, chosen for by every fifth background
alphabet. A loss is any strategy that takes the batches as they are: triplets that are mined offline have batches of
their own, and are no part of this.

Whatever is there is not made again, and what was interrupted goes on with the same --runs. To use several cores, start
the command several times, each with other --sets or --losses. On one core a run of the small budget takes half a
minute, one of the full budget less than a minute; of each loss and data set there are 7 and 15.

References:
    Musgrave, Belongie, Lim: A Metric Learning Reality Check, 2020.
"""

import argparse
import contextlib
import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.common import cli
from model.common.errors import UserError
from model.common.files import write_whole
from model.params import Params
from model.strategies import STRATEGIES
from model.studies import comparison
from model.studies.runs import Pool, find_runs, pool_runs, read_run
from model.studies.search_space import SearchSpace
from model.studies.states import State, read_value, state_of
from model.studies.trials import Grid

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reality_check"

LOSSES = [name for name, strategy in STRATEGIES.items() if not strategy.mines]
AGAINST = "batch_all"  # what all others are compared with

Settings = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How much is spent on each loss and data set.

    Attributes:
        trials: How many settings the search tries.
        seeds: How many runs the chosen one has; an interval needs three.
    """

    trials: int
    seeds: int


BUDGETS = {"small": Budget(trials=4, seeds=3), "full": Budget(trials=10, seeds=5)}

# The seed of all trials; those of the final runs are from 1 up.
_SEARCH_SEED = 0

# What no loss and no data set changes.
COMMON: Settings = {
    "num_channels": 16, "num_blocks": 3, "use_batch_norm": True, "embedding_size": 64, "normalize_embeddings": True,
    "learning_rate_schedule": "cosine", "warmup_steps": 50, "early_stopping_metric": "map_at_r", "precision": "auto",
}  # fmt: skip

# Of the background alphabets of Omniglot, in the order of the alphabet, how many characters each has.
_BACKGROUND = {
    "Alphabet_of_the_Magi": 20, "Anglo-Saxon_Futhorc": 29, "Arcadian": 26, "Armenian": 41, "Asomtavruli_(Georgian)": 40,
    "Balinese": 24, "Bengali": 46, "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14, "Braille": 26,
    "Burmese_(Myanmar)": 34, "Cyrillic": 33, "Early_Aramaic": 22, "Futurama": 26, "Grantha": 43, "Greek": 24,
    "Gujarati": 48, "Hebrew": 22, "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16, "Japanese_(hiragana)": 52,
    "Japanese_(katakana)": 47, "Korean": 40, "Latin": 26, "Malay_(Jawi_-_Arabic)": 40, "Mkhedruli_(Georgian)": 41,
    "N_Ko": 33, "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14, "Sanskrit": 42, "Syriac_(Estrangelo)": 23, "Tagalog": 17,
    "Tifinagh": 55,
}  # fmt: skip
_VALIDATE = list(_BACKGROUND)[4::5]  # every fifth


@dataclass(frozen=True)
class DataSet:
    """What is learned from, and what is scored.

    Attributes:
        title: What people call it.
        params: What it adds to `COMMON`.
        epochs: By budget; 36,000 to 55,000 images for the small one, 102,000 to 110,000 for the full one.
        num_classes: That are learned from.
        scored: What stands before the names of the metrics that count: "unseen/" where no test class was learned.
    """

    title: str
    params: Settings
    epochs: Mapping[str, int]
    num_classes: int
    scored: str = ""

    @property
    def metrics(self) -> list[str]:
        """What is compared, the metric of the tests first."""
        return [f"{self.scored}map_at_r", f"{self.scored}recall_at_1"]


def _batches(num_classes: int, num_images: int) -> Settings:
    return {
        "batch_size": num_classes * num_images,
        "num_classes_per_batch": num_classes,
        "num_images_per_class": num_images,
    }


SETS = {
    "mnist": DataSet(
        "MNIST",
        {"dataset": "mnist", "augmentation": "affine", "validation_size": 5000}
        | _batches(10, 16),
        {"small": 1, "full": 2},
        num_classes=10,
    ),
    "fashion_mnist": DataSet(
        "Fashion-MNIST",
        {
            "dataset": "fashion_mnist", "augmentation": "affine_and_flip", "augmentation_strength": 0.25,
            "validation_size": 5000,
        }
        | _batches(10, 16),
        {"small": 1, "full": 2},
        num_classes=10,
    ),
    # The last two digits are tested, the two before them choose, and the first six are learned from.
    "unseen_digits": DataSet(
        "MNIST, unseen digits",
        {
            "dataset": "mnist", "augmentation": "affine", "holdout_classes": [8, 9], "validation_classes": [6, 7],
        }
        | _batches(6, 25),
        {"small": 1, "full": 3},
        num_classes=6,
        scored="unseen/",
    ),
    "omniglot": DataSet(
        "Omniglot, unseen characters",
        {
            "dataset": "omniglot", "image_size": 28, "augmentation": "affine",
            "validation_classes": [f"{alphabet}/*" for alphabet in _VALIDATE],
        }
        | _batches(40, 4),
        {"small": 3, "full": 7},
        num_classes=sum(count for alphabet, count in _BACKGROUND.items() if alphabet not in _VALIDATE),
        scored="unseen/",
    ),
}  # fmt: skip

# Between which multiples of its default a parameter is tried, on a logarithmic scale. Unit vectors are at most 2 apart,
# which sets a limit to margins; and no cosine is above 1.
_MULTIPLES = {"learning_rate": (1 / 10, 10.0), "margin": (1 / 4, 2.0), "similarity_threshold": (1 / 4, 1.0)}
_MULTIPLES_OF_OTHERS = (1 / 4, 4.0)


def defaults(loss: str) -> Settings:
    """Returns what a search varies for a loss: the learning rate and its own parameters, as in its paper."""
    own = {name: value for name, value in STRATEGIES[loss].defaults.items() if name != "distance" and value is not None}
    return {"learning_rate": Params().learning_rate, **own}


def ranges(loss: str) -> dict[str, tuple[float, float]]:
    """Returns the lowest and the highest value of each parameter that a search varies for a loss."""
    multiples = {name: _MULTIPLES.get(name, _MULTIPLES_OF_OTHERS) for name in defaults(loss)}
    return {name: (value * multiples[name][0], value * multiples[name][1]) for name, value in defaults(loss).items()}


def settings_to_try(loss: str, number: int) -> list[Settings]:
    """Returns the settings of the trials of a loss: its defaults, then points that fill the ranges evenly.

    Point i is at i * sqrt(p) mod 1 of each range, p being the first prime for the first parameter, and so on: for all
    losses the same learning rates, on all machines the same points, and of more trials the first are those of fewer.

    References:
        Niederreiter: Random Number Generation and Quasi-Monte Carlo Methods, 1992, chapter 3 (Kronecker sequences).
    """
    varied = ranges(loss)
    primes = (2, 3, 5, 7, 11, 13, 17)[: len(varied)]
    points = [
        {
            name: float(f"{low * (high / low) ** (index * math.sqrt(prime) % 1):.3g}")
            for (name, (low, high)), prime in zip(varied.items(), primes, strict=True)
        }
        for index in range(1, number)
    ]
    return [defaults(loss), *points]


@dataclass(frozen=True)
class Study:
    """A loss on a data set, with a budget: its search and its final runs.

    Attributes:
        budget: One of `BUDGETS`.
        data: One of `SETS`.
        loss: One of `LOSSES`.
    """

    budget: str
    data: str
    loss: str

    @property
    def results(self) -> Path:
        """The folder for what is kept of it."""
        return RESULTS / self.budget / self.data / self.loss

    def params(self, seed: int, settings: Mapping[str, Any] | None = None) -> Settings:
        """Returns what a `params.json` says; without settings, that of the search."""
        data = SETS[self.data]
        epochs = data.epochs[self.budget]
        of_the_run = {"triplet_strategy": self.loss, "seed": seed, "num_epochs": epochs}
        of_the_run["evaluate_every_epochs"] = epochs  # the validation images are looked at once
        return COMMON | data.params | of_the_run | dict(settings or {})

    @property
    def space(self) -> Settings:
        """What the `search.json` says: a trial for each of the settings, in this order."""
        return {"vary": {"trial": settings_to_try(self.loss, BUDGETS[self.budget].trials)}}

    def search(self, runs: Path) -> None:
        """Tries the settings, as far as that has not been done, and keeps what each of them came to."""
        kept = self.results / "search.json"
        if kept.exists():
            self.tried()
            return
        folder = self._in(runs) / "search"
        _write_once(folder / "params.json", self.params(_SEARCH_SEED))
        _write_once(folder / "search.json", self.space)
        _call("search_hyperparams.py", "--parent_dir", folder)
        trials = [
            {"settings": trial.settings, "map_at_r": _value(trial.folder)}
            for trial in Grid(folder, SearchSpace.from_json(folder / "search.json")).trials()
        ]
        if all(trial["map_at_r"] is None for trial in trials):
            raise UserError(f"{folder}: no trial has come to its end; see the output.log of each")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({"params": self.params(_SEARCH_SEED), "trials": trials}, indent=2) + "\n")

    def tried(self) -> list[Settings]:
        """Returns the trials that were kept: `settings`, and `map_at_r`, None of one that broke down.

        Raises:
            UserError: There are none, or they are of another protocol.
        """
        path = self.results / "search.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            params, trials = content["params"], content["trials"]
            settings = [trial["settings"] for trial in trials]
            max(trial["map_at_r"] for trial in trials if trial["map_at_r"] is not None)
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not there, or damaged; delete this folder, and run it again") from None
        if params != self.params(_SEARCH_SEED) or {"vary": {"trial": settings}} != self.space:
            raise UserError(f"{path}: made under another protocol; delete this folder, and run it again")
        return trials

    def chosen(self) -> Settings:
        """Returns the settings with the highest MAP@R of the validation images, of several the first."""
        finished = [trial for trial in self.tried() if trial["map_at_r"] is not None]
        return max(finished, key=lambda trial: trial["map_at_r"])["settings"]

    def train(self, runs: Path, seed: int) -> None:
        """Trains with what was chosen and scores the test images, unless that has been done, and keeps the scores."""
        kept = self.results / f"seed={seed}" / "metrics.json"
        if kept.exists():
            return
        folder = self._in(runs) / f"seed={seed}"
        _write_once(folder / "params.json", self.params(seed, self.chosen()))
        _call("train.py", "--model_dir", folder)
        if self.loss == AGAINST and seed == 1:  # once for all losses, of which they know nothing
            _call("evaluate.py", "--model_dir", folder, "--baselines")
        metric = SETS[self.data].metrics[0]
        value = read_run(folder / "metrics.json").record.metrics[metric]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, (folder / "metrics.json").read_bytes())
        print(f"{self.data}, {self.loss}, seed {seed}: {metric} {value:.4f}", flush=True)

    def check(self, pool: Pool) -> None:
        """Raises a UserError if a run is not one of this protocol with what was chosen."""
        for run in pool.runs:
            seed = run.record.params.get("seed", _SEARCH_SEED)
            expected = Params(**self.params(seed, self.chosen())).differences()
            if run.record.params != expected or run.folder.name != f"seed={seed}":
                raise UserError(f"{run.folder}: made under another protocol; delete this folder, and run it again")

    def _in(self, runs: Path) -> Path:
        return runs / self.budget / self.data / self.loss


def _write_once(path: Path, content: Settings) -> None:
    """Writes a file, unless it is there.

    Raises:
        UserError: It is there, and says something else.
    """
    text = json.dumps(content, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path}: of another protocol; choose another folder for --runs")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _call(script: str, *arguments: str | Path) -> None:
    code = subprocess.run([sys.executable, ROOT / script, *arguments], cwd=ROOT).returncode
    if code < 0 or code > 128:  # a signal ended it
        raise KeyboardInterrupt
    if code != 0:
        raise UserError(f"{script} {arguments[1]}: ended with exit code {code}")


def _value(folder: Path) -> float | None:
    """Returns what a trial came to; None if it broke down."""
    state = state_of(folder)
    if state is State.FAILED:
        return None
    if state is not State.FINISHED:
        raise UserError(f"{folder}: this trial has not come to its end; run the search again")
    value = read_value(folder, COMMON["early_stopping_metric"])
    return None if math.isnan(value) else value


def run(studies: Iterable[Study], seeds: Sequence[int], runs: Path) -> list[str]:
    """Makes what is missing of some studies; returns a line for each that failed, after which the next one began."""
    failures: list[str] = []
    for study in studies:
        with _noted_in(failures):
            study.search(runs)
            for seed in seeds:
                with _noted_in(failures):
                    study.train(runs, seed)
    return failures


@contextlib.contextmanager
def _noted_in(failures: list[str]) -> Iterator[None]:
    """Adds what goes wrong to a list instead of raising it."""
    try:
        yield
    except UserError as error:
        failures.append(str(error))
        print(error, flush=True)


@dataclass(frozen=True)
class Result:
    """What a loss reached on a data set.

    Attributes:
        study: Which loss, and where.
        row: Of the table that `comparison.tabulate` makes.
        each: The metric of the tests, by seed.
        low95: The lower end of the 95 % interval of its mean over the seeds; NaN with fewer than three.
        high95: The upper end.
        baselines: The same metric of what costs no training, if a run of this loss measured it.
    """

    study: Study
    row: comparison.Row
    each: Sequence[float]
    low95: float
    high95: float
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The mean of that metric."""
        return self.row[SETS[self.study.data].metrics[0]]


def read_results(budget: str) -> dict[str, list[Result]]:
    """Returns what was kept of a budget, by data set, the best loss first.

    Raises:
        UserError: There is nothing, or nothing of batch all, or what is there is of another protocol.
    """
    found = [name for name in SETS if any((RESULTS / budget / name).glob("*/seed=*/metrics.json"))]
    if not found:
        raise UserError(f"{RESULTS / budget}: there are no results; make some with the command run")
    return {name: _read_set(budget, name) for name in found}


def _read_set(budget: str, name: str) -> list[Result]:
    folder, metrics = RESULTS / budget / name, SETS[name].metrics
    pools: dict[str, Pool] = {}
    for pool in pool_runs(find_runs(folder), folder):
        loss = pool.runs[0].folder.parent.name
        if loss not in LOSSES:
            raise UserError(f"{folder / loss}: no such loss; delete this folder")
        Study(budget, name, loss).check(pool)
        if loss in pools:
            raise UserError(f"{folder / loss}: not all runs had the same data; delete this folder, and run it again")
        pools[loss] = pool
    if AGAINST not in pools:
        raise UserError(f"{folder}: there are no runs of {AGAINST}, with which all others are compared; make some")
    results = []
    rows = comparison.tabulate(list(pools.values()), metrics, pools[AGAINST])
    for (loss, pool), row in zip(pools.items(), rows, strict=True):
        each = list(pool.values(metrics[0]).values())
        low, high = comparison.interval(pool, metrics[0]) if len(each) > 1 else (math.nan, math.nan)
        baselines = {
            baseline: scores[metrics[0]] for run in pool.runs for baseline, scores in run.record.baselines.items()
        }
        results.append(Result(Study(budget, name, loss), row, each, low, high, baselines))
    return sorted(results, key=lambda result: result.value, reverse=True)


_LEGEND = f"""\
Made by `python -m benchmarks.reality_check table --budget {{budget}}`. Each loss had {{trials}} trials, and MAP@R of
the validation images chose among them; the table is of the test images.

- MAP@R, recall@1: mean ± standard deviation over the seeds. The interval is that of the mean over seeds, by Student's
  t: it knows nothing of other test classes.
- difference: in MAP@R from `{AGAINST}`, seed by seed, with its 95 % interval; p of the paired t-test, and p raised for
  the number of losses in the table (Holm).
- ms: a training step with all that is in it, as the command `time` measured it with all losses in turns. MB: about
  what the loss takes beside the network, as `train.py --check` says it. `benchmarks/triplet_loss.py` measures both of
  the losses alone."""


def tables(budget: str, results: Mapping[str, Sequence[Result]]) -> str:
    """Returns the tables of all data sets as Markdown."""
    trials, timed = BUDGETS[budget].trials, read_times()
    lines = [f"# Losses under one protocol, {budget} budget", "", _LEGEND.format(budget=budget, trials=trials)]
    for name, of_set in results.items():
        made = (" / ".join(dict.fromkeys(result.row[key] for result in of_set)) for key in ("hardware", "code"))
        lines += ["", f"## {SETS[name].title}", "", *_table(of_set, timed["milliseconds"].get(name, {}))]
        lines += ["", _verdicts(of_set), "", "Made on {}, by version {}.".format(*made)]
        lines += [note for result in of_set for note in _notes(result, BUDGETS[budget])]
    if timed["hardware"]:
        lines += ["", f"Steps were timed on {timed['hardware']}."]
    return "\n".join(lines) + "\n"


def _table(results: Sequence[Result], milliseconds: Mapping[str, float]) -> list[str]:
    columns = (
        "loss", "seeds", "MAP@R", "95 % interval", "difference", "p", "p, Holm", "recall@1", "chosen", "ms", "MB"
    )  # fmt: skip
    cells = [_cells(result, milliseconds.get(result.study.loss)) for result in results]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells)]


def _cells(result: Result, milliseconds: float | None) -> list[str]:
    from model.training.preflight import bytes_of_the_loss  # which imports TensorFlow

    row, chosen, data = result.row, result.study.chosen(), SETS[result.study.data]
    params = Params(**result.study.params(_SEARCH_SEED, chosen))
    difference = ""
    if row["difference"] is not None:
        difference = f"{row['difference']:+.4f}"
        if row["low95"] is not None:
            difference += f" ({row['low95']:+.4f} to {row['high95']:+.4f})"
    return [
        f"`{result.study.loss}`",
        str(row["seeds"]),
        _mean(row, data.metrics[0]),
        "" if math.isnan(result.low95) else f"{result.low95:.4f} to {result.high95:.4f}",
        difference,
        *("" if row[name] is None else f"{row[name]:.2g}" for name in ("p", "p_holm")),
        _mean(row, data.metrics[1]),
        ", ".join(f"{name} {value:g}" for name, value in chosen.items()),
        "" if milliseconds is None else f"{milliseconds:.1f}",
        f"{bytes_of_the_loss(params, data.num_classes) / 1e6:.1f}",
    ]


def _mean(row: comparison.Row, metric: str) -> str:
    spread = row[f"{metric}_std"]
    return f"{row[metric]:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _verdicts(results: Sequence[Result]) -> str:
    """Returns what the tests say, as a sentence."""
    losses: dict[str, list[str]] = {}
    for result in results:
        if result.study.loss != AGAINST:
            losses.setdefault(result.row["verdict"], []).append(f"`{result.study.loss}`")
    said = (f"{verdict}: {', '.join(of_it)}" for verdict, of_it in losses.items())
    return f"Beside `{AGAINST}`, {'; '.join(said) or 'nothing yet'}."


def _notes(result: Result, budget: Budget) -> list[str]:
    notes = []
    broken = sum(trial["map_at_r"] is None for trial in result.study.tried())
    if broken:
        notes += ["", f"Of the {budget.trials} trials of `{result.study.loss}`, {broken} broke down."]
    missing = budget.seeds - result.row["seeds"]
    if missing > 0:
        notes += [
            "",
            f"Of the {budget.seeds} runs of `{result.study.loss}`, {missing} are missing: not made yet, or broken.",
        ]
    if result.baselines:
        each = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result.baselines.items())
        notes += ["", f"MAP@R without training: {each}."]
    return notes


def time_steps(name: str, turns: int = 9, block: int = 8) -> dict[str, float]:
    """Returns the milliseconds of a training step of each loss on a data set, medians over the turns.

    Args:
        name: Of `SETS`.
        turns: Of all losses, one after the other.
        block: Steps in a turn.
    """
    from benchmarks.training import bare_loop
    from model.common import devices
    from model.data import datasets
    from model.data.input_fn import train_input_fn
    from model.data.partition import divide

    loops = {}
    for loss in LOSSES:
        params = Params(**Study("full", name, loss).params(_SEARCH_SEED, defaults(loss)))
        train_input = train_input_fn(divide(datasets.load_for(params, None), params), params)
        loops[loss] = bare_loop(train_input, params, devices.choose_precision(params.precision), block)
        loops[loss]()  # compiles
    seconds = [{loss: loop() for loss, loop in loops.items()} for _ in range(turns)]
    return {loss: 1e3 * statistics.median(turn[loss] for turn in seconds) / block for loss in LOSSES}


def write_times() -> None:
    """Measures the steps of all losses on all data sets, and keeps them for the tables."""
    from model.common import devices

    devices.start_tensorflow()
    times = {name: time_steps(name) for name in SETS}
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_whole(_times(), json.dumps({"hardware": devices.describe(), "milliseconds": times}, indent=2) + "\n")


def read_times() -> dict[str, Any]:
    """Returns `hardware`, and `milliseconds` by data set and loss; nothing where nothing was timed."""
    if not _times().exists():
        return {"hardware": "", "milliseconds": {}}
    return json.loads(_times().read_text(encoding="utf-8"))


def _times() -> Path:
    return RESULTS / "times.json"


def draw(results: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draws MAP@R of every loss on each data set: a dot for the mean, a line for its interval, a ring for each seed.

    Losses that are far behind all others stand at the left border with their number, as the others would be one dot.
    """
    from matplotlib.figure import Figure

    losses = _by_mean_rank(results)
    figure = Figure(figsize=(2 + 3.2 * len(results), 1.6 + 0.36 * len(losses)), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (name, of_set) in zip(panels, results.items(), strict=True):
        lowest = _lowest_shown([result.value for result in of_set])
        for result in of_set:
            is_other = result.study.loss != AGAINST
            height, color = losses.index(result.study.loss), "#3f90da" if is_other else "#bd1f01"
            if not is_other:
                axes.axvline(result.value, color=color, linewidth=0.8, linestyle=":", zorder=0)
            if result.value < lowest:
                axes.annotate(
                    f"\N{LEFTWARDS ARROW} {result.value:.3f}", (0, height), (4, 0), ("axes fraction", "data"),
                    "offset points", color=color, fontsize=9, va="center",
                )  # fmt: skip
                continue
            axes.scatter(result.each, [height] * len(result.each), 22, "none", edgecolors="#94a4a2", linewidths=0.8)
            if not math.isnan(result.low95):
                axes.errorbar(
                    result.value, height, xerr=[[result.value - result.low95], [result.high95 - result.value]],
                    color=color, linewidth=1.6, capsize=3.5,
                )  # fmt: skip
            axes.scatter([result.value], [height], 16, color, marker="o" if is_other else "D", zorder=3)
        axes.set_title(SETS[name].title, fontsize=10)
        axes.set_xlabel("MAP@R")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(losses)), losses)
    panels[0].invert_yaxis()
    figure.suptitle("Every loss under one protocol\nmean over seeds, its 95 % interval, and each seed", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _lowest_shown(values: Sequence[float]) -> float:
    """Returns which of the means of a data set are drawn at their place: from here on.

    The distance from the best to the median is shown five times, so that what is far behind does not squeeze it.
    """
    best = max(values)
    return best - 5 * (best - statistics.median(values)) if len(values) > 3 else -math.inf


def _by_mean_rank(results: Mapping[str, Sequence[Result]]) -> list[str]:
    """Returns the losses by their mean place over the data sets, the best first."""
    places: dict[str, list[int]] = {}
    for of_set in results.values():
        for place, result in enumerate(of_set):
            places.setdefault(result.study.loss, []).append(place)
    return sorted(places, key=lambda loss: sum(places[loss]) / len(places[loss]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, or writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    of_run = commands.add_parser("run", help="search, train and score what is missing")
    of_run.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="the folder for what is trained")
    of_run.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    of_run.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES, metavar="LOSS", help=", ".join(LOSSES))
    of_run.add_argument(
        "--seeds", nargs="+", type=cli.whole_number(1, 2**32 - 1), help="of the final runs; from 1 up if not given"
    )
    commands.add_parser("time", help="time the training steps of all losses in turns, while nothing else runs")
    of_table = commands.add_parser("table", help="write the table and the picture")
    for command in (of_run, of_table):
        command.add_argument("--budget", choices=BUDGETS, default="full")
    options = parser.parse_args(arguments)
    try:
        if options.command == "time":
            write_times()
            return
        if options.command == "table":
            results = read_results(options.budget)
            text = tables(options.budget, results)
            draw(results, RESULTS / f"{options.budget}.png")
            write_whole(RESULTS / f"{options.budget}.md", text)
            return
        studies = [Study(options.budget, *pair) for pair in itertools.product(options.sets, options.losses)]
        seeds = options.seeds or range(1, BUDGETS[options.budget].seeds + 1)
        failures = run(studies, seeds, options.runs.resolve())
    except UserError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, "Stopped; the same command goes on.\n")
    if failures:
        parser.exit(1, "\n".join([f"{len(failures)} failed; the same command tries them again:", *failures]) + "\n")


if __name__ == "__main__":
    main()
