"""What `triplet_strategy` can name: which loss each strategy is, and all else that has to be known of it.

A new loss is one function and one entry in `STRATEGIES`. What `params.json` may say, the batches, the doctor and
`train.py --check` follow from the entry, and so does the schema, whose file `make schema` writes. Nothing here needs
TensorFlow: a loss is fetched when the first step is built.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from model.triplet_loss import Sums

# (labels (B,), embeddings (B, D), margin, distance, seed (2,)) -> by name, (sum, count): "loss", and any quantity that
# is to be seen beside it. On several devices and with a memory, `triplet_loss.Candidates` come as a sixth. Parameters
# that the loss has of its own come by name. A loss that learns class vectors is the scalar itself: (rows of the class
# vectors (B,), embeddings (B, D), class vectors (C, D), margin) -> the loss.
LossSums = Callable[..., "Sums"]


@dataclass(frozen=True)
class Strategy:
    """How the loss of a batch is made.

    Attributes:
        load: Returns the loss. The seed, for example (seed, global step), decides what it draws at random.
        bytes_per_pair: About how much memory it takes for each of the B x B pairs of a batch, as
            benchmarks/triplet_loss.py measured with B = 8,192; 0 where it does not look at pairs.
        teaches: What a batch has to hold for a network to learn from it: "triplets", two images of a class and one of
            another, "positives", two images of a class, "pairs", any two images, or "images", each by itself.
        only_hardest: Whether each anchor learns from its hardest triplet alone, which may pull everything together.
        takes_soft_margin: Whether the margin may be "soft".
        mines: For triplets that are mined offline, before the steps that train on them: which negative an anchor and
            its positive get, "semi_hard" or "hard". None where triplets are found inside each batch.
        scored_as: The strategy whose loss is reported for validation and test batches: with `mines`, as these are
            images and not triplets; with class vectors, under its own defaults, as new classes have no vector.
        parameters: Keys of `params.json` that this strategy reads; with strategies that do not list them they are
            refused.
        loss_parameters: The same, for those that the loss is called with by name, each with the value of its paper,
            which it has where `params.json` says nothing.
        margin: The margin where `params.json` says nothing; None for a loss that has none.
        margin_limit: What the margin has to be below.
        distance: The distance where `params.json` says nothing.
        of_similarities: Whether the loss is made of cosine similarities: the distance has to be "cosine", and the
            margin does not say how far apart images have to be.
        class_vector_learning_rate_factor: For a loss that compares images with a vector for each class, which is
            learned with the network: what the learning rate of these vectors is multiplied by where `params.json` says
            nothing. None for one that compares images with each other.

    Example:
        >>> strategy = Strategy(lambda: my_sums, bytes_per_pair=40, loss_parameters={"temperature": 0.1}, margin=None)
        >>> strategy.defaults
        {'margin': None, 'distance': 'euclidean', 'temperature': 0.1}
    """

    load: Callable[[], LossSums]
    bytes_per_pair: int
    teaches: Literal["triplets", "positives", "pairs", "images"] = "triplets"
    only_hardest: bool = False
    takes_soft_margin: bool = False
    mines: Literal["semi_hard", "hard"] | None = None
    scored_as: str | None = None
    parameters: frozenset[str] = frozenset()
    loss_parameters: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = 0.5
    margin_limit: float = math.inf
    distance: str = "euclidean"
    of_similarities: bool = False
    class_vector_learning_rate_factor: float | None = None

    def __post_init__(self) -> None:
        if (self.mines is None and not self.learns_class_vectors) != (self.scored_as is None):
            raise ValueError(f"Expected scored_as with mines or class vectors, and only then. Received: {self}")

    @property
    def learns_class_vectors(self) -> bool:
        """Whether the loss compares images with a vector for each class, which is learned with the network."""
        return self.class_vector_learning_rate_factor is not None

    @property
    def defaults(self) -> dict[str, Any]:
        """What `params.json` means where it does not say it, as far as that depends on the strategy."""
        defaults = {"margin": self.margin, "distance": self.distance, **self.loss_parameters}
        if self.learns_class_vectors:
            defaults["class_vector_learning_rate_factor"] = self.class_vector_learning_rate_factor
        return defaults


def _triplet_loss() -> Any:
    from model import triplet_loss

    return triplet_loss


def _metric_losses() -> Any:
    from model import metric_losses

    return metric_losses


STRATEGIES: dict[str, Strategy] = {
    "batch_all": Strategy(lambda: _triplet_loss().batch_all_sums, bytes_per_pair=40),
    "batch_hard": Strategy(
        lambda: _triplet_loss().batch_hard_sums, bytes_per_pair=16, only_hardest=True, takes_soft_margin=True
    ),
    "batch_semi_hard": Strategy(lambda: _triplet_loss().batch_semi_hard_sums, bytes_per_pair=52),
    "batch_random_semi_hard": Strategy(lambda: _triplet_loss().batch_random_semi_hard_sums, bytes_per_pair=44),
    "contrastive": Strategy(lambda: _triplet_loss().contrastive_sums, bytes_per_pair=39, teaches="pairs"),
    "offline_semi_hard": Strategy(
        lambda: _triplet_loss().offline_sums,
        bytes_per_pair=0,
        mines="semi_hard",
        scored_as="batch_semi_hard",
        parameters=frozenset({"mining_size"}),
    ),
    "offline_hard": Strategy(
        lambda: _triplet_loss().offline_sums,
        bytes_per_pair=0,
        mines="hard",
        scored_as="batch_hard",
        parameters=frozenset({"mining_size"}),
    ),
    "multi_similarity": Strategy(
        lambda: _metric_losses().multi_similarity_sums,
        bytes_per_pair=31,
        loss_parameters={"scale_positive": 2.0, "scale_negative": 50.0, "similarity_threshold": 1.0},
        margin=0.1,
        distance="cosine",
        of_similarities=True,
    ),
    "supervised_contrastive": Strategy(
        lambda: _metric_losses().supervised_contrastive_sums,
        bytes_per_pair=26,
        teaches="positives",
        loss_parameters={"temperature": 0.1},
        margin=None,
        distance="cosine",
        of_similarities=True,
    ),
    "lifted_structured": Strategy(lambda: _metric_losses().lifted_structured_sums, bytes_per_pair=27, margin=1.0),
    "circle": Strategy(
        lambda: _metric_losses().circle_sums,
        bytes_per_pair=36,
        loss_parameters={"scale": 80.0},
        margin=0.4,
        margin_limit=1.0,
        distance="cosine",
        of_similarities=True,
    ),
    "proxy_anchor": Strategy(
        lambda: _metric_losses().proxy_anchor_loss,
        bytes_per_pair=26,
        teaches="images",
        scored_as="supervised_contrastive",
        loss_parameters={"scale": 32.0},
        margin=0.1,
        distance="cosine",
        of_similarities=True,
        class_vector_learning_rate_factor=100.0,
    ),
    "arcface": Strategy(
        lambda: _metric_losses().arcface_loss,
        bytes_per_pair=26,
        teaches="images",
        scored_as="supervised_contrastive",
        loss_parameters={"scale": 64.0},
        margin=0.5,
        margin_limit=math.pi / 2,
        distance="cosine",
        of_similarities=True,
        class_vector_learning_rate_factor=1.0,
    ),
}


def strategies_with(parameter: str) -> list[str]:
    """Returns the names of the strategies that read a parameter of their own; none if it belongs to all.

    Example:
        >>> strategies_with("scale")
        ['circle', 'proxy_anchor', 'arcface']
        >>> strategies_with("margin")
        []
    """
    return [
        name
        for name, strategy in STRATEGIES.items()
        if parameter in strategy.parameters or parameter in strategy.defaults.keys() - {"margin", "distance"}
    ]
