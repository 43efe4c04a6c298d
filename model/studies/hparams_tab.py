"""A row for each experiment in TensorBoard's HParams tab: its parameters, its scores, how it ended."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

from model.common.errors import Interrupted, UserError
from model.common.files import Held, Place, lock_experiment
from model.params import Params
from model.studies.comparison import DEFAULT_METRICS
from model.studies.search_space import SearchSpace
from model.training import event_files

_log = logging.getLogger(__name__)

# Parameters that may be a number or something else: a column of the tab has one type.
_TEXT = {"margin", "holdout_classes", "validation_classes"}

# The columns that the tab shows until somebody chooses: what a search varies, then these, until there are five.
_FIRST = ("triplet_strategy", "learning_rate", "margin", "distance", "batch_size")


@contextlib.contextmanager
def session(model_dir: Path, params: Params) -> Iterator[None]:
    """Tells TensorBoard that an experiment is running and, after the block, whether it succeeded.

    A run that was stopped or killed has no end until the same command has brought it to one.

    Args:
        model_dir: Folder of the experiment, by whose path TensorBoard knows it: two of equal parameters have two rows.
        params: The experiment.

    Raises:
        UserError: Another process trains there.
    """
    varied = _varied_around(model_dir)
    changes = "".join(f"| {key} | {json.dumps(value)} |\n" for key, value in params.differences().items())
    text = f"| parameter | value |\n|---|---|\n{changes}\nEverything else has its default."
    images = ("validation", "eval") if varied else ("eval", "validation")
    metrics = [
        summary_v2.Metric(event_files.tag_of(name), group=group, display_name=f"{group}.{name}")
        for group in images
        for name in DEFAULT_METRICS
    ]
    first = list(dict.fromkeys([*sorted(varied), *_FIRST]))[: max(len(varied), len(_FIRST))]
    columns = [summary_v2.HParam(name, _Column(name, name in first)) for name in Params.model_fields]
    start = [
        summary_v2.hparams_config_pb(columns, metrics),
        summary_v2.hparams_pb(flatten(params), trial_id=_name(model_dir)),
    ]
    with lock_experiment(model_dir):
        event_files.write_hparams(model_dir, start, text)
    place = Place(model_dir, model_dir)

    def end(status: int) -> None:
        place.check()
        # Where another process has begun to train here meanwhile, the row is about that one.
        with contextlib.suppress(Held), lock_experiment(model_dir):
            event_files.write_hparams(model_dir, [*start, summary.session_end_pb(status)], text)

    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise
    except BaseException:
        with contextlib.suppress(UserError, OSError, tf.errors.OpError):  # what ended the run is what is told
            end(api_pb2.STATUS_FAILURE)
        raise
    try:
        end(api_pb2.STATUS_SUCCESS)
    except (OSError, tf.errors.OpError):  # which costs no result
        _log.warning("%s: cannot be written; TensorBoard's HParams tab does not say that the run has ended.", model_dir)


def _name(model_dir: Path) -> str:
    """Returns the name of a folder and a digest of its path: folders of one name may lie in different places."""
    return f"{model_dir.name} {hashlib.sha256(bytes(model_dir.resolve())).hexdigest()[:6]}"


def _varied_around(model_dir: Path) -> set[str]:
    """Returns what varies in the search that an experiment is a trial of; nothing if it is none."""
    for folder in model_dir.resolve().parents[:2]:  # the search's folder holds trials, these hold runs with other seeds
        with contextlib.suppress(UserError):
            return SearchSpace.from_json(folder / "search.json").varied
    return set()


class _Column(summary_v2.Domain):
    """A column: its type, and whether it is shown at first.

    It has no limits, as those of TensorBoard's own domains have: the tab would hide rows with values beyond them.
    """

    def __init__(self, name: str, is_first: bool) -> None:
        self._is_first = is_first
        kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
        example = "" if name in _TEXT else flatten(Params()).get(name, 0.0)  # what is not set is a number
        self._kind = kinds.get(type(example), api_pb2.DATA_TYPE_FLOAT64)

    @property
    def dtype(self) -> type:
        """Part of the interface; only samplers ask for it."""
        return object

    def sample_uniform(self, rng: Any = None) -> None:
        """Part of the interface; only samplers call it."""

    def update_hparam_info(self, hparam_info: Any) -> None:
        """Writes what the tab reads."""
        hparam_info.type = self._kind
        hparam_info.differs = self._is_first


def flatten(params: Params) -> dict[str, bool | int | float | str]:
    """Returns all parameters as TensorBoard takes them: lists as text, without those that are not set."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(params.to_json()).items():
        if value is not None:
            fits = isinstance(value, str) or not (key in _TEXT or isinstance(value, list))
            flat[key] = value if fits else json.dumps(value)
    return flat
