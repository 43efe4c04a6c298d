"""What goes wrong in training with a triplet loss, recognised while it happens, with what to change.

Each trouble is found by what can be measured of one training batch, and said when it has shown in several reports in a
row, once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from model.params import Params

# Reports in a row that have to show a trouble before it is named, and those in which nearly no triplet has a loss.
_PATIENCE, _PATIENCE_WITHOUT_LOSS = 3, 20

# A batch has collapsed if its images are closer together than this part of the margin.
_COLLAPSED = 0.05
# Embeddings of three classes or more lie on a line if their participation ratio is below this.
_LINE = 1.05
# Part of the anchors that may be without a positive, or without a negative.
_MANY_ANCHORS = 0.5
# Nearly no triplet has a loss if only this part of them has. Healthy runs that are nearly through have ten times that.
_FEW_TRIPLETS = 1e-4
# The loss has exploded if it is this many times the margin, and what it was at first.
_EXPLODED = 10.0


@dataclass(frozen=True)
class Finding:
    """A trouble by its name, one line that says what was seen and what to change, and whether it ends the run."""

    name: str
    message: str
    is_fatal: bool = False


@dataclass(frozen=True)
class Batch:
    """What is known of a training batch.

    Attributes:
        step: The global step.
        scalars: Metrics of `model_fn`, by name.
        embeddings: Array of shape (B, D).
        labels: Array of shape (B,).
        indices: Which training images these are, (B,); None if none of them is there twice.
    """

    step: int
    scalars: Mapping[str, float]
    embeddings: np.ndarray
    labels: np.ndarray
    indices: np.ndarray | None = None


def participation_ratio(embeddings: np.ndarray) -> float:
    """Returns how many dimensions embeddings spread over, a measure of the effective rank of their covariance.

    (sum_i l_i)^2 / sum_i l_i^2 for its eigenvalues l_i: from 1, on a line, to D, alike in all directions. 1 for points
    that are all equal.

    Args:
        embeddings: Array of shape (B, D), B at least 1.

    References:
        Gao, Trautmann, Yu et al.: A theory of multineuronal dimensionality, dynamics and measurement, 2017.
    """
    centered = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    # The covariance and the Gram matrix have the same eigenvalues but for zeros; the smaller one will do.
    product = centered.T @ centered if centered.shape[1] <= len(centered) else centered @ centered.T  # (D, D) or (B, B)
    total = np.trace(product)
    return float(total**2 / np.sum(product**2)) if total > 0 else 1.0


def rms_distance(embeddings: np.ndarray) -> float:
    """Returns the root of the mean squared euclidean distance of two different embeddings, of shape (B, D), B >= 2."""
    variance = np.var(np.asarray(embeddings, np.float64), axis=0).sum()
    return math.sqrt(2 * variance * len(embeddings) / (len(embeddings) - 1))


def count_partners(labels: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many positives and negatives each image of a batch has in it; copies of an image count once.

    Args:
        labels: (B,) integers.
        indices: (B,) integers, which images these are.

    Returns:
        Two arrays of shape (U,), one entry for each of the U different images.
    """
    _, first = np.unique(indices, return_index=True)
    _, class_of, sizes = np.unique(labels[first], return_inverse=True, return_counts=True)
    of_its_class = sizes[class_of]  # (U,)
    return of_its_class - 1, len(first) - of_its_class


class Doctor:
    """Looks at one batch after the other, and names each trouble once.

    Args:
        params: The experiment: what the margin is, and what there is to change.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._first: Batch | None = None
        self._in_a_row: dict[str, int] = {}
        self._examined = 0
        self._last: dict[str, str] = {}  # what each check said of the last batch
        self._named: set[str] = set()

    def begin(self, batch: Batch) -> None:
        """Takes the first batch, of a network that nothing has spoilt yet: what later ones are measured by."""
        if _is_finite(batch):
            self._first = batch

    def examine(self, batch: Batch) -> list[Finding]:
        """Returns the troubles that have to be named now; none of a batch with numbers that are not finite."""
        if not _is_finite(batch):
            self._in_a_row.clear()
            return []
        self._first = self._first or batch
        self._examined += 1
        found = []
        for name, check in _CHECKS.items():
            message = self._last[name] = check(batch, self._first, self._params)
            self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if message else 0
            patience = _PATIENCE_WITHOUT_LOSS if name == "few_triplets" else _PATIENCE
            if self._in_a_row[name] >= patience and name not in self._named:
                self._named.add(name)
                ends_the_run = name == "collapse" and self._params.on_collapse == "stop"
                found.append(Finding(name, message, ends_the_run))
        return found

    def conclude(self) -> list[Finding]:
        """Returns what a run that was too short to be patient with has shown in all of its reports.

        That hardly any triplet has a loss is none of it: that is no trouble before it lasts.
        """
        if self._examined >= _PATIENCE:
            return []
        names = [name for name, count in self._in_a_row.items() if count == self._examined and name != "few_triplets"]
        return [Finding(name, self._last[name]) for name in names]


def _is_finite(batch: Batch) -> bool:
    return math.isfinite(batch.scalars["loss"]) and bool(np.isfinite(batch.embeddings).all())


def _collapse(batch: Batch, first: Batch, params: Params) -> str:
    distance, asked = rms_distance(batch.embeddings), _asked(params)
    # As a euclidean distance: of unit vectors at a distance d, the cosine distance is d^2 / 2.
    if params.distance == "squared_euclidean":
        asked = math.sqrt(asked)
    elif params.distance == "cosine":
        asked = math.sqrt(2 * asked)
    if distance >= _COLLAPSED * (asked or rms_distance(first.embeddings)):  # a margin of 0 asks for nothing
        return ""
    return (
        f"the embeddings have collapsed: two images are {distance:.2g} apart (root mean square), the loss is "
        f"{batch.scalars['loss']:.4f}{_with_margin(params)}; {_advice(params)}"
    )


def _asked(params: Params) -> float:
    """Returns the differences of distances that the loss asks for: its margin, or in the order of 1 without one."""
    if params.margin is None or isinstance(params.margin, str) or params.strategy.of_similarities:
        return 1.0
    return params.margin


def _with_margin(params: Params) -> str:
    return "" if params.margin is None else f" with margin {params.margin}"


def _line(batch: Batch, first: Batch, params: Params) -> str:
    if params.embedding_size < 2 or len(np.unique(batch.labels)) < 3 or participation_ratio(batch.embeddings) >= _LINE:
        return ""
    if _collapse(batch, first, params):  # which says more
        return ""
    return f"the embeddings lie on a line, though there are more than two classes; {_advice(params)}"


def _no_triplets(batch: Batch, first: Batch, params: Params) -> str:
    if params.strategy.teaches != "triplets" or params.memory_size:  # less teaches, or a pair with a batch gone by
        return ""
    positives, negatives = _partners(batch)
    if np.any((positives > 0) & (negatives > 0)):
        return ""
    return (
        f"a batch of {len(batch.labels)} images has no triplet, two images of a class and one of another; "
        f"raise batch_size, or {_more_positives(params)}"
    )


def _no_positives(batch: Batch, first: Batch, params: Params) -> str:
    return explain_missing("positive", float(np.mean(_partners(batch)[0] == 0)), params)


def _no_negatives(batch: Batch, first: Batch, params: Params) -> str:
    return explain_missing("negative", float(np.mean(_partners(batch)[1] == 0)), params)


def _partners(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(len(batch.labels)) if batch.indices is None else batch.indices
    return count_partners(batch.labels, indices)


def _more_positives(params: Params) -> str:
    """Returns what to do for more images of a class in a batch; P x K batches hold all that there are."""
    if params.num_classes_per_batch is None:
        return "set num_classes_per_batch and num_images_per_class"
    return "add images to the classes that have one alone"


def explain_missing(kind: str, without: float, params: Params) -> str:
    """Returns what to do if many anchors have no partner of a kind, "" where that is no trouble.

    Args:
        kind: "positive" or "negative".
        without: Part of the anchors.
        params: The experiment.
    """
    needed = {"triplets": ("positive", "negative"), "positives": ("positive",)}.get(params.strategy.teaches, ())
    if without <= _MANY_ANCHORS or kind not in needed:
        return ""
    if params.strategy.mines or params.memory_size:  # which comes with both, or looks in batches gone by as well
        return ""
    advice = {
        "positive": f"{_more_positives(params)}, or raise batch_size",
        "negative": "take more classes into a batch, with num_classes_per_batch",
    }[kind]
    return f"{without:.0%} of the images of a batch have no {kind} in it and teach nothing; {advice}"


def _few_triplets(batch: Batch, first: Batch, params: Params) -> str:
    fraction = batch.scalars.get("fraction_positive_triplets", 1.0)
    others_teach = params.strategy.teaches != "triplets" or params.margin == "soft"
    if params.margin is None or (batch.scalars["loss"] > 0 and (others_teach or fraction >= _FEW_TRIPLETS)):
        return ""
    advice = "" if params.strategy.only_hardest else ", or use batch_hard"
    return (
        "hardly any triplet has had a loss for long: nearly all keep the margin, and little is learned any more; stop "
        f"here, or raise the margin{advice}"
    )


def _exploded(batch: Batch, first: Batch, params: Params) -> str:
    loss = batch.scalars["loss"]
    # Images that are all alike have about the margin as their loss; a run that goes on may have begun with less.
    usual = max(first.scalars["loss"], _asked(params))
    if loss <= _EXPLODED * usual or not usual:
        return ""
    advice = "" if params.has_unit_length else " or set normalize_embeddings"
    return (
        f"the loss has grown to {loss:.3g}{_with_margin(params)}; lower "
        f"learning_rate ({params.learning_rate:g}){advice}"
    )


def _advice(params: Params) -> str:
    advice = [f"lower learning_rate ({params.learning_rate:g})"]
    if params.strategy.only_hardest:
        advice.append("train with batch_all or batch_semi_hard first")
    if params.num_classes_per_batch is None:
        advice.append("set num_classes_per_batch and num_images_per_class")
    if not params.of_the_network.get("use_batch_norm", True):
        advice.append("set use_batch_norm")
    if not params.has_unit_length:
        advice.append("set normalize_embeddings")
    return ", ".join(advice[:-1]) + " or " * (len(advice) > 1) + advice[-1]


_CHECKS: Mapping[str, Callable[[Batch, Batch, Params], str]] = {
    "collapse": _collapse,
    "line": _line,
    "no_triplets": _no_triplets,
    "no_positives": _no_positives,
    "no_negatives": _no_negatives,
    "few_triplets": _few_triplets,
    "learning_rate": _exploded,
}
