"""Runs the trials of a search, each an experiment of its own, and goes on where it was when it is started again.

A search is a folder with a `params.json` and a `search.json`. What `search.json` may say stands in `search_space.py`.
Each trial has a folder in it whose name says what it varies, "learning_rate=0.001,margin=soft": `search_space.name_of`
makes it, `trials.folder_of` adds ",trial=N" where it is taken. Its runs with further seeds lie in `seed=N` below that.

What there is to know of a run lies in its folder: what became of it (`states.py`), `output.log` with what it printed,
`validation/evaluations.json` with how it fares. Where trials are drawn, Optuna keeps what was drawn and what came of it
in `search.db`.
"""

import contextlib
import json
import logging
import math
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from model.common import devices, json_file
from model.common.commands import ROOT
from model.common.errors import Interrupted, UserError, says_full
from model.common.files import ANOTHER_TRAINS, lock, write_whole
from model.common.images import Kind
from model.common.signals import STOPPING, stop_requests
from model.experiment import load_partition
from model.params import KNOWN_KEYS, Params
from model.scoring.evaluations import Evaluations
from model.studies import comparison, trial_process
from model.studies.runs import Pool, pool_runs, read_run
from model.studies.search_space import SearchSpace
from model.studies.states import State, read_value, state_of
from model.studies.trials import DATABASE, Grid, Source, Trial

_log = logging.getLogger(__name__)

_TRAIN = ROOT / "train.py"
_SECONDS_BETWEEN_LOOKS = 0.5

# Exit codes of a process that was asked to stop: 128 + n if it obeyed signal n, -n if the signal killed it.
_STOPPED = {code for number in STOPPING for code in (128 + number, -number)}


class Search:
    """A folder with a `params.json` and a `search.json`, and the trials in it.

    Args:
        parent: The folder.
        num_seeds: How many runs, each with another seed, a trial has.
        data_dir: Folder of the data; None takes `data/<dataset>`.
        images: Where the images lie, as for `open_experiment`.

    Raises:
        UserError: One of the files cannot be used, or a combination of a grid cannot.
    """

    def __init__(self, parent: Path, num_seeds: int, data_dir: Path | None, images: Kind = "auto") -> None:
        self.parent = parent
        self.params = Params.from_json(parent / "params.json")
        self.space = SearchSpace.from_json(parent / "search.json")
        last_seed = self.params.seed + num_seeds - 1
        if last_seed >= 2**32:
            raise UserError(
                f"{parent / 'params.json'}: 'seed' must leave room for --seeds, received {self.params.seed}"
            )
        self._num_seeds = num_seeds
        self._data_dir, self._images = data_dir, images
        self._lock = threading.Lock()  # a source of trials serves one thread at a time
        self._stopping = threading.Event()
        if self.space.is_grid:
            self._check_grid()

    def _check_grid(self) -> None:
        """Looks at all combinations before one is begun."""
        seen: dict[str, Trial] = {}
        for trial in Grid(self.parent, self.space).trials():
            same = seen.setdefault(self._params_of(trial).to_json(), trial)
            if same is not trial:
                raise UserError(
                    f"{self.parent / 'search.json'}: {same.folder.name!r} and {trial.folder.name!r} are the same "
                    "experiment; keep one"
                )

    def check_data(self) -> None:
        """Loads the data before any trial does, so that a download, or a mistake in `params.json`, comes once.

        Raises:
            UserError: There are no such data, or `params.json` does not fit them.
        """
        # Of all that varies, only the size of the images decides whether the data can be loaded.
        params = self._params_of(Trial(self.parent, self.space.first_of("image_size")))
        with devices.without_gpus():
            divided = load_partition(self.parent, params, self._data_dir, self._images)
        if divided.validation is None:
            raise UserError(
                f"{self.parent / 'params.json'}: 'validation_size' or 'validation_classes' is missing, and the data "
                "have no folder val/: a search chooses by the validation images, never by the test images"
            )

    def _open(self) -> contextlib.AbstractContextManager[Source]:
        """Opens the source of the trials."""
        if self.space.is_grid:
            return contextlib.closing(Grid(self.parent, self.space))
        from model.studies.drawn_trials import Drawn  # which imports Optuna

        return contextlib.closing(Drawn(self.parent, self.space, self.params.seed, self._params_of))

    def _trials(self) -> list[Trial]:
        """Returns all that there are."""
        if not self.space.is_grid and not (self.parent / DATABASE).exists():
            return []
        with self._open() as source:
            return source.trials()

    @property
    def metric(self) -> str:
        """The validation metric whose highest value is looked for."""
        return self.params.early_stopping_metric

    def runs(self, trial: Trial) -> dict[Path, Params]:
        """Returns the runs of a trial, one for each seed, by their folders: the first is that of the trial."""
        params = self._params_of(trial)
        others = range(params.seed + 1, params.seed + self._num_seeds)
        runs = {trial.folder / f"seed={seed}": params.model_copy(update={"seed": seed}) for seed in others}
        return {trial.folder: params, **runs}

    def states(self) -> dict[Path, list[State]]:
        """Returns what became of the runs of each trial there is, by the folder of the trial."""
        return {trial.folder: [state_of(run) for run in self.runs(trial)] for trial in self._trials()}

    def describe(self) -> str:
        """Returns a line for each trial: what became of its runs.

        Raises:
            UserError: The parameters are not those that trials were begun with.
        """
        self._check_begun(self._trials())
        states = self.states()
        lines = [
            f"{folder.name}: {', '.join(state.name.lower() for state in of_runs)}" for folder, of_runs in states.items()
        ]
        to_draw = (self.space.num_trials or 0) - len(states)
        if to_draw > 0:
            lines.append(f"{to_draw} more will be drawn")
        return "\n".join(lines)

    def describe_scores(self) -> str:
        """Returns a table of the trials that have come to their end, what became of the others, and which is best.

        Raises:
            UserError: There is no such trial, or the scores of one cannot be read.
        """
        pools = self._finished_pools()
        metrics = list(dict.fromkeys([self.metric, *comparison.DEFAULT_METRICS]))
        rows = comparison.sort(comparison.tabulate(pools, metrics), self.metric, self.metric)
        # The name of a trial says in what it differs.
        table = comparison.show(pools, rows, metrics, differences=False)
        return table + self._describe_unfinished() + comparison.describe_best(pools, rows, self.metric)

    def _describe_unfinished(self) -> str:
        """Returns a line for each way in which trials have not come to their end, "" if all have."""
        what = {State.FAILED: "broke down", State.PRUNED: "ended early", State.BEGUN: "stopped before the end"}
        states = self.states().items()
        names = {state: [folder.name for folder, of_runs in states if state in of_runs] for state in what}
        return "".join(
            f"{len(names[state])} {what[state]}: {'; '.join(names[state])}.\n" for state in what if names[state]
        )

    def _finished_pools(self) -> list[Pool]:
        """Returns the trials of which all runs are finished, as experiments.

        Raises:
            UserError: There is no such trial, or the scores of one cannot be read.
        """
        folders: set[Path] = set()
        for trial in self._trials():
            runs = self.runs(trial)
            if all(state_of(run) is State.FINISHED for run in runs):
                folders |= runs.keys()
        if not folders:
            raise UserError(f"{self.parent}: no trial has come to its end; see the output.log of each")
        return pool_runs([read_run(folder / "validation.json") for folder in sorted(folders)], self.parent)

    def run(self, num_jobs: int) -> None:
        """Runs every trial that is not finished.

        Args:
            num_jobs: How many at once.

        Raises:
            UserError: Another process searches here, or the parameters are not those that trials were begun with.
            Interrupted: SIGINT, SIGTERM or SIGHUP came. The trials under way have saved their state.
        """
        if_held = f"{self.parent}: another process searches here; wait for it or stop it"
        with lock(self.parent / ".search.lock", if_held), self._open() as source, stop_requests() as stop:
            self._check_begun(source.trials())
            workers = [_Worker(lambda: self._work(source)) for _ in range(num_jobs)]
            for worker in workers:
                worker.start()
            try:
                while any(worker.is_alive() for worker in workers):
                    time.sleep(_SECONDS_BETWEEN_LOOKS / 5)
                    if stop.signal_number is not None or any(worker.error for worker in workers):
                        self._stopping.set()
            finally:  # also after a second Ctrl-C, since the workers use the source, which is closed next
                self._stopping.set()
                for worker in workers:
                    worker.join()
        for worker in workers:
            if worker.error:
                raise worker.error
        if stop.signal_number is not None:
            raise Interrupted(
                "Stopped; every trial under way is saved, and the same command goes on.", stop.signal_number
            )

    def _work(self, source: Source) -> None:
        """Runs one trial after the other."""
        while not self._stopping.is_set():
            with self._lock:
                trial = source.ask()
            if trial is None:
                return
            self._run_trial(source, trial)

    def _run_trial(self, source: Source, trial: Trial) -> None:
        """Runs a trial with every seed, as far as that has not been done, and tells the source what came of it."""
        values: list[float] = []
        has_trained = False
        for folder, params in self.runs(trial).items():
            self._write_params(folder, params)
            state = state_of(folder)
            if state is State.BEGUN:
                has_trained = True
                # Only the run with the first seed may be ended early: Optuna compares it with those of other trials.
                state = self._train(folder, source, trial if not values else None)
            if state is State.BEGUN:  # it was stopped, and goes on with the next search
                return
            if state in (State.FAILED, State.PRUNED):
                with self._lock:
                    source.tell(trial, None, state is State.PRUNED)
                if has_trained and state is State.PRUNED:
                    _log.info("%s: ended early, as others were better by then.", trial.folder.name)
                return
            values.append(read_value(folder, self.metric))
        mean = statistics.mean(values)
        with self._lock:
            source.tell(trial, None if math.isnan(mean) else mean)
        if has_trained:
            _log.info("%s: %s %.4f.", trial.folder.name, self.metric, mean)

    def _write_params(self, folder: Path, params: Params) -> None:
        """Writes the parameters of a run, unless they are there.

        Raises:
            UserError: Others are there, and something was learned with them.
        """
        path = folder / "params.json"
        self._check_run(folder, params)
        if path.exists():
            if Params.from_json(path) == params:
                return
            # It was begun with other parameters, and ended before its first checkpoint: it is a new run now.
            (folder / "failed").unlink(missing_ok=True)
            _evaluations_of(folder).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(params.differences(), indent=2) + "\n")

    def _check_begun(self, trials: list[Trial]) -> None:
        """Checks that no trial that has learned something was begun with other parameters than it has now."""
        for trial in trials:
            for folder, params in self.runs(trial).items():
                self._check_run(folder, params)

    def _check_run(self, folder: Path, params: Params) -> None:
        """Checks the same of a run; other parameters are no matter as long as it has no checkpoint."""
        path = folder / "params.json"
        has_begun = state_of(folder) in (State.FINISHED, State.PRUNED) or (folder / "checkpoints").exists()
        if has_begun and path.exists() and Params.from_json(path) != params:
            raise UserError(
                f"{path}: not what {self.parent / 'params.json'} and search.json say now; set them back, or search in "
                "a new folder"
            )

    def _train(self, folder: Path, source: Source, trial: Trial | None) -> State:
        """Trains in a process of its own.

        Args:
            folder: Of the run.
            source: Where its trial comes from.
            trial: Whose run may be ended early; None lets it come to its end.

        Returns:
            What became of it; BEGUN if it or the search was asked to stop.

        Raises:
            UserError: There was no room on the disk, as there will be none for others; it counts as begun.
        """
        trial_process.wait_for_others(folder, self._stopping.is_set)
        if self._stopping.is_set():
            return State.BEGUN
        arguments: list[str | Path] = ["--model_dir", folder.absolute(), "--validate"]
        if self._data_dir is not None:
            arguments += ["--data_dir", self._data_dir.absolute()]
        if self._images != "auto":
            arguments += ["--images", self._images]
        told, is_pruned = 0, False

        def is_ending() -> bool:
            nonlocal told, is_pruned
            if trial is not None and not is_pruned:
                is_pruned, told = self._look(source, folder, trial, told)
            return self._stopping.is_set() or is_pruned

        code, last_words = trial_process.run(
            _TRAIN, arguments, folder / "output.log", _SECONDS_BETWEEN_LOOKS, is_ending
        )
        if code != 0 and not is_pruned and self._stopping.is_set():
            return State.BEGUN
        if code in _STOPPED and not is_pruned:
            _log.warning("%s: was asked to stop; the next search goes on with it.", folder)
            return State.BEGUN
        if code != 0 and not is_pruned and says_full(last_words):
            raise UserError(
                f"{folder}: ended for want of room on the disk; the next search tries it again: {last_words}"
            )
        if code != 0 and not is_pruned and ANOTHER_TRAINS in last_words:
            return self._train(folder, source, trial)  # somebody was quicker, and is waited for
        if code != 0:
            said = "others were better" if is_pruned else f"exit code {code}, see output.log"
            write_whole(folder / ("pruned" if is_pruned else "failed"), said + "\n")
        if state_of(folder) is State.FAILED:
            name = folder.relative_to(self.parent).as_posix()
            _log.warning("%s: broke down: %s; delete %s to try it again.", name, last_words, folder / "failed")
        return state_of(folder)

    def _look(self, source: Source, folder: Path, trial: Trial, told: int) -> tuple[bool, int]:
        """Tells the source how a run fares; returns whether it is hopeless and how many evaluations were told."""
        values = list(Evaluations.read(_evaluations_of(folder)).values(self.metric).values())
        for number, value in enumerate(values[told:], told + 1):
            with self._lock:
                if math.isfinite(value) and source.should_prune(trial, number, value):
                    return True, number
        return False, len(values)

    def _params_of(self, trial: Trial) -> Params:
        """Returns the parameters of a trial.

        Raises:
            UserError: Such parameters cannot be.
        """
        content = self.params.model_dump(exclude_unset=True) | dict(trial.settings)
        try:
            return Params.model_validate(content)
        except ValidationError as error:
            explained = json_file.explain(error, content, Params, KNOWN_KEYS)
            raise UserError(f"{self.parent / 'search.json'}: {trial.folder.name}: {explained}") from None


class _Worker(threading.Thread):
    """A thread that keeps its exception."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = work
        self.error: Exception | None = None

    def run(self) -> None:
        """Works."""
        try:
            self._call()
        except Exception as error:
            self.error = error


def _evaluations_of(folder: Path) -> Path:
    """Returns the file in which a run keeps the evaluations of its training."""
    return folder / "validation" / "evaluations.json"
