"""Trials that Optuna draws. Importing it takes half a second: who searches a grid does without."""

import contextlib
import functools
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.trial import TrialState, create_trial

from model.common.errors import UserError, one_line
from model.common.files import is_name
from model.studies.search_space import SearchSpace
from model.studies.trials import DATABASE, Trial, folder_of

_log = logging.getLogger(__name__)

# A draw may repeat an earlier one, or be a combination that `Params` refuses. After this many such draws in a row there
# is taken to be nothing else.
_MOST_DRAWS = 50

# What Optuna raises where the database holds something else than it wrote.
_OF_WHAT_IS_READ = (ValueError, LookupError, TypeError, AttributeError)


class Drawn:
    """Trials that Optuna's tree-structured Parzen estimator draws, and its median rule ends early.

    What was drawn and what came of it is kept in `search.db`, an SQLite database.

    Args:
        parent: Folder of the search.
        space: What varies.
        seed: Decides the draws.
        check: Raises a UserError for settings that cannot be.

    Raises:
        UserError: The database is damaged, or holds trials of another search.

    References:
        Bergstra, Bardenet, Bengio, Kegl: Algorithms for Hyper-Parameter Optimization, 2011.
        Golovin, Solnik, Moitra, Kochanski, Karro, Sculley: Google Vizier, 2017 (the median rule).
    """

    def __init__(self, parent: Path, space: SearchSpace, seed: int, check: Callable[[Trial], object]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # warnings of several lines, on its way to an error
        self._parent, self._space, self._seed, self._check = parent, space, seed, check
        self._vary = json.loads(space.model_dump_json())["vary"]
        path = parent / DATABASE
        connect = functools.partial(sqlite3.connect, path.resolve(), check_same_thread=False)
        with self._errors_in_one_line():
            try:
                self._storage = optuna.storages.RDBStorage("sqlite:///search.db", engine_kwargs={"creator": connect})
            except RuntimeError as error:  # of another version of Optuna
                raise optuna.exceptions.StorageInternalError(str(error)) from None
            self._study = self._open()
            vary = self._study.user_attrs.get("vary", self._vary)
        if vary != self._vary:
            raise UserError(
                f"{parent / 'search.json'}: 'vary' is not what trials were drawn from; set it back, or search in a new "
                "folder (num_trials may change)"
            )
        self._from_before = iter(self.trials())  # drawn by an earlier search, which may not have finished them

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Turns errors of the database, and of Optuna over what is in it, into a UserError."""
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, *_OF_WHAT_IS_READ) as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"{self._parent / DATABASE}: cannot be used ({said}); make room on the disk and start again, or, if it "
                "is damaged, search in a new folder"
            ) from None

    def _open(self) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage,
            study_name="search",
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(),
        )
        # The sampler's random numbers begin anew whenever a search is started. A seed that grows with the number of
        # trials keeps a search that goes on from drawing the same ones again.
        seed = (self._seed + len(study.trials)) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return study

    def trials(self) -> list[Trial]:
        """Returns all that were drawn."""
        with self._errors_in_one_line():
            drawn_trials = self._study.get_trials(deepcopy=False)
        return [
            self._read(drawn)
            for drawn in drawn_trials
            if "settings" in drawn.user_attrs  # without, it was refused, or the search was killed while it drew it
        ]

    def _read(self, drawn: optuna.trial.FrozenTrial) -> Trial:
        """Returns a trial that the database holds.

        Raises:
            UserError: Its folder is not in that of the search, or it sets something else than `search.json` varies.
        """
        name, settings = drawn.user_attrs.get("folder"), drawn.user_attrs["settings"]
        if not isinstance(name, str) or not is_name(name):
            wrong = f"has the folder {name!r}, expected a name"
        elif not isinstance(settings, dict) or not settings.keys() <= self._space.varied:
            wrong = f"sets {settings!r}, expected {', '.join(sorted(self._space.varied))}"
        else:
            return Trial(self._parent / name, settings, drawn.number)
        raise UserError(f"{self._parent / DATABASE}: damaged, trial {drawn.number} {wrong}; search in a new folder")

    def ask(self) -> Trial | None:
        """Returns the trials of earlier searches first, then new ones; None when there are `num_trials`.

        Raises:
            UserError: All that was drawn was refused.
        """
        with self._errors_in_one_line():
            return self._ask()

    def _ask(self) -> Trial | None:
        before = next(self._from_before, None)
        if before is not None:
            return before
        known = self.trials()
        names = {trial.folder.name for trial in known}
        if len(known) >= (self._space.num_trials or 0):
            return None
        if self._study.get_trials(deepcopy=False) and not known:
            # All were refused; with what search.json says now they may not be.
            optuna.delete_study(study_name="search", storage=self._storage)
            self._study = self._open()
        for begun in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if "settings" not in begun.user_attrs:  # the search was killed while it drew this one
                self._study.tell(begun.number, state=TrialState.FAIL)
        impossible = None
        for _ in range(_MOST_DRAWS):
            drawn = self._study.ask()
            settings = self._space.draw(drawn)
            trial = Trial(folder_of(self._parent, settings, drawn.number, names), settings, drawn.number)
            try:
                if all(settings != other.settings for other in known):
                    self._check(trial)
                    self._study.set_user_attr("vary", self._vary)
                    drawn.set_user_attr("folder", trial.folder.name)
                    drawn.set_user_attr("settings", settings)
                    return trial
            except UserError as error:
                impossible = error
            self._study.tell(drawn, state=TrialState.FAIL)
        if impossible is not None and not known:
            raise impossible
        _log.warning("There are %d trials: nothing else that can be was drawn.", len(known))
        return None

    def should_prune(self, trial: Trial, number: int, value: float) -> bool:
        """Returns whether a trial is below the median of the others, each at its evaluation of that number.

        Args:
            trial: Which one.
            number: Which of its evaluations, from 1.
            value: What it reached there.
        """
        with self._errors_in_one_line():
            known = self._study.get_trials(deepcopy=False)[trial.number]
            if known.state.is_finished() or number in known.intermediate_values:  # an earlier search told it
                return False
            study_id = self._storage.get_study_id_from_name(self._study.study_name)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            drawn = optuna.Trial(self._study, trial_id)
            drawn.report(value, number)
            return drawn.should_prune()

    def tell(self, trial: Trial, value: float | None, is_pruned: bool = False) -> None:
        """Takes what became of a trial. Told again, it counts only if it had broken down the first time.

        Args:
            trial: Which one.
            value: What it came to; None if it broke down or was ended early.
            is_pruned: Whether it was ended early.
        """
        failed = TrialState.PRUNED if is_pruned else TrialState.FAIL
        with self._errors_in_one_line():
            trials = self._study.get_trials(deepcopy=False)
            drawn = trials[trial.number]
            is_known = any(other.user_attrs.get("again") == trial.number for other in trials)
            if not drawn.state.is_finished():
                self._study.tell(trial.number, value, state=failed if value is None else TrialState.COMPLETE)
            elif drawn.state == TrialState.FAIL and value is not None and not is_known:
                # It was tried again. Optuna keeps a finished trial as it is, so what came of it now is one more.
                again = create_trial(
                    value=value, params=drawn.params, distributions=drawn.distributions,
                    user_attrs={"again": trial.number},
                )  # fmt: skip
                self._study.add_trial(again)

    def close(self) -> None:
        """Closes the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()
