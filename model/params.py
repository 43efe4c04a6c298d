"""The parameters of one experiment: what `params.json` may say, and what it must not.

A file holds only what differs from the defaults, which are those of plain batch-all training on MNIST. Every
problem of a file is told in one line, before anything is written.

Editors that know JSON Schema check and complete `params.json` while it is typed: put
`"$schema": "../params.schema.json"` into it. `python -m model.params` prints that schema.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from model.common import json_file
from model.networks.entries import NETWORKS, networks_with
from model.strategies import STRATEGIES, Strategy, strategies_with

PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
# Of a single class, every neighbour is right.
Classes = (
    Annotated[int, Field(ge=2, le=2**31 - 1)]
    | Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)] | str], Field(min_length=1)]
)

# Keys that older files carry and that nothing reads any more, with the reason that the log gives for each.
WITHOUT_EFFECT: Mapping[str, str] = {
    "num_labels": "the classes are counted in the data",
    "train_size": "training shuffles over all training images",
    "eval_size": "evaluation sees every test image",
    "num_parallel_calls": "the images lie in memory, no input pipeline has to be filled",
}

# Parameters that nothing reads where no images validate.
ONLY_WITH_VALIDATION = ("evaluate_every_epochs", "early_stopping_metric")

# Where a person finds all of them.
KNOWN_KEYS = "experiments/params.schema.json"


def _one_of(known: Iterable[str], name: str) -> str:
    if name not in known:
        *names, last = map(repr, known)
        expected = f"{', '.join(names)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


def _known_strategy(name: str) -> str:
    return _one_of(STRATEGIES, name)


def _known_network(name: str) -> str:
    return _one_of(NETWORKS, name)


def _defaults_of(parameter: str) -> str:
    """Returns what a parameter is with each strategy, as "1.0 with lifted_structured", the rule at first."""
    values: dict[str, list[str]] = {}
    for name, strategy in STRATEGIES.items():
        if parameter in strategy.defaults:
            values.setdefault(json.dumps(strategy.defaults[parameter]), []).append(name)
    return ", ".join(
        value if number == 0 and len(values) > 1 else f"{value} with {' and '.join(names)}"
        for number, (value, names) in enumerate(values.items())
    )


def _quoted(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


# Augmentations, with the parameters that they alone read.
_PARAMETERS_OF_AUGMENTATIONS: Mapping[str, frozenset[str]] = {
    "off": frozenset(),
    "affine": frozenset({"augmentation_strength"}),
    "affine_and_flip": frozenset({"augmentation_strength"}),
    "drawing": frozenset({"augmentation_strength", "drawing_bend", "drawing_stroke"}),
    "photo": frozenset(
        {
            "photo_area", "photo_aspect_ratio", "photo_mirror",
            "photo_brightness", "photo_contrast", "photo_saturation", "photo_hue",
        }
    ),
}  # fmt: skip

# Numbers in the memory of past batches, 1 GiB of them.
_MOST_NUMBERS_IN_MEMORY = 2**28


class Params(BaseModel):
    """The validated, frozen parameters of one experiment."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        title="Parameters of one experiment",
    )

    # Data
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")] = Field(
        "mnist",
        description="mnist, fashion_mnist, kmnist, emnist/<split>, digits, the name of a folder in data/, "
        "or any image-classification set of TensorFlow Datasets",
    )
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Images are resized to this many pixels a side; null keeps the size of the data"
    )
    image_fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="How an image becomes a square of image_size: stretch resizes both sides; crop resizes the shorter "
        "one and cuts out the middle; pad resizes the longer one and adds black",
    )
    image_bits: Annotated[int, Field(ge=8, le=16)] = Field(
        16,
        description="Of grey image files that store 16 bits, how many are used: cameras often fill the lower 10 or 12",
    )
    on_damaged_image: Literal["stop", "skip"] = Field(
        "stop",
        description="skip: image files that cannot be decoded are left out, with a word; one that the system does not "
        "let be read ends the command either way",
    )
    exclude_images: Annotated[str, Field(pattern=r"^[^\x00]+$")] | None = Field(
        None,
        description="A text file that lists training images to leave out, as audit_labels.py writes it; relative paths "
        "begin in the folder in which the command is started",
    )
    rotated_classes: Literal["train", "all"] | None = Field(
        None,
        description="train: training images turned by 90, 180 and 270 degrees are three classes more for each class, "
        "as characters on their side are other characters; all: test images are turned, too",
    )
    augmentation: Literal["off", "affine", "affine_and_flip", "drawing", "photo"] = Field(
        "off",
        description="affine: a small random rotation, zoom, shear and shift of each training image; affine_and_flip: "
        "half of them are mirrored left to right besides; drawing: affine, with bent and thicker or thinner strokes; "
        "photo: a random part of it, mirrored or not, in other colors",
    )
    augmentation_strength: Annotated[float, Field(gt=0, le=4)] = Field(
        1.0,
        description="Factor of the limits of the affine augmentation: 10 degrees, a shift by 8 % of the size, zoom and "
        "shear by 10 %",
    )
    drawing_bend: Annotated[float, Field(ge=0, le=0.2)] = Field(
        0.03,
        description="The drawing augmentation moves the points of a 4 x 4 grid, and smoothly what lies between, by up "
        "to this part of the size",
    )
    drawing_stroke: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="The drawing augmentation makes strokes thicker or thinner by up to this many pixels a side"
    )
    photo_area: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="Of the photo augmentation: the smallest part of an image that is cut out, of its area"
    )
    photo_aspect_ratio: Annotated[float, Field(ge=1, le=10)] = Field(
        4 / 3,
        description="By how much that part may be wider or higher than the image, for its size; it is stretched",
    )
    photo_mirror: bool = Field(True, description="Whether the photo augmentation mirrors half of the images")
    photo_brightness: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="The photo augmentation multiplies pixels by 1 minus up to 1 plus this"
    )
    photo_contrast: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="The same for their distance from the mean grey of the image"
    )
    photo_saturation: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="The same for the distance of each pixel from its own grey"
    )
    photo_hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.1, description="The photo augmentation turns the hue by up to this part of the color circle, either way"
    )
    test_time_augmentation: Literal["off", "mirror", "shifts"] = Field(
        "off",
        description="An image that is not learned from in this step is embedded as the mean of several embeddings: "
        "mirror: its own and that of its mirror image, for images that mean the same mirrored; shifts: its own and "
        "those of the image shifted by 4 % of the size in eight directions",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        230, description="Decides the initial weights, the order of the images and the augmentation"
    )

    # Who sees what
    validation_size: PositiveInt | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="So many training images, or this fraction of them, are set aside, the same share of each class: "
        "they are evaluated during training and choose the best checkpoint; null evaluates at the end only",
    )
    validation_classes: Classes | None = Field(
        None,
        description="The same, with whole classes of the training images: a list of labels, names or patterns of names "
        '(["Fruit/*"] is all below Fruit), or how many split_seed draws',
    )
    holdout_classes: Classes | None = Field(
        None,
        description="Classes that are kept out of training and validation, and scored apart as unseen: a list of "
        'labels, names or patterns of names (["Fruit/*"] is all below Fruit), or how many split_seed draws',
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        230, description="Decides which images and classes are set aside, whatever seed is"
    )
    exclude_same_group: bool = Field(
        False,
        description="Images of one group in images.csv (a camera, scene or sequence) are no neighbours and no pairs of "
        "each other, where images are scored among themselves or queries looked up in a gallery; may be changed after "
        "training",
    )

    # Batches
    batch_size: Annotated[int, Field(ge=3, le=2**20)] = Field(64, description="Images of a training batch")
    num_classes_per_batch: Annotated[int, Field(ge=2, le=2**20)] | None = Field(
        None, description="P of P x K batches: different classes in each batch; null draws images uniformly"
    )
    num_images_per_class: Annotated[int, Field(ge=2, le=2**20)] | None = Field(
        None, description="K of P x K batches: images of each of these classes; batch_size must be P x K"
    )
    batch_classes: Literal["any", "siblings"] = Field(
        "any",
        description="siblings: the classes of a P x K batch are of one parent, as Fruit/Apple/Pink and "
        "Fruit/Apple/Royal are, or where it has too few of the next one up",
    )
    micro_batch_size: PositiveInt | None = Field(
        None,
        description="The network takes so many images at a time, for a batch that is too large for the memory: the "
        "same gradient in a third more time, but batch normalization sees these images alone; null takes all at once",
    )

    # Network
    network: Annotated[str, AfterValidator(_known_network)] = Field(
        "cnn",
        json_schema_extra=lambda schema: schema.update(enum=list(NETWORKS)),
        description="What turns an image into features, on which a dense layer makes the embedding: cnn, described by "
        "the keys from num_channels to pooling, or a network of keras.applications",
    )
    weights: Annotated[str, Field(pattern=r"^(imagenet|.+\.weights\.h5)$")] | None = Field(
        None,
        description="What a network of keras.applications begins with: null for random weights, imagenet for those "
        "that Keras offers, or a file of Keras, ending in .weights.h5, of a network without its top",
    )
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="The SHA-256 of a file of weights of one's own, without which it is not loaded"
    )
    frozen_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        0, description="Epochs at the beginning in which only the last layer learns, and all others keep their weights"
    )
    frozen_batch_norm: bool = Field(
        False, description="Batch normalization keeps the statistics, scales and offsets that the weights came with"
    )
    bn_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="Momentum of the moving averages of batch normalization, in any network"
    )
    num_channels: Annotated[int, Field(ge=1, le=2**14)] = Field(
        32, description="Channels of the first block; each further block has twice as many as the one before"
    )
    num_blocks: Annotated[int, Field(ge=1, le=8)] = Field(
        2, description="Blocks of convolutions; each halves the height and width"
    )
    convolutions_per_block: Annotated[int, Field(ge=1, le=8)] = Field(
        1, description="3x3 convolutions of a block, one after the other"
    )
    use_batch_norm: bool = Field(False, description="Batch normalization between convolution and ReLU")
    pooling: Literal["flatten", "average"] = Field(
        "flatten",
        description="What the dense layer of the cnn sees: all that the last block gives, or its mean over the image",
    )
    embedding_size: Annotated[int, Field(ge=1, le=2**12)] = Field(64, description="Dimension of the embeddings")
    normalize_embeddings: bool = Field(
        False, description="Scale every embedding to length 1, which the cosine distance always does"
    )
    precision: Literal["float32", "mixed_bfloat16", "auto"] = Field(
        "float32",
        description="Arithmetic of the convolutions; auto takes mixed_bfloat16 where the hardware is built for it",
    )

    # Loss
    triplet_strategy: Annotated[str, AfterValidator(_known_strategy)] = Field(
        "batch_all",
        json_schema_extra=lambda schema: schema.update(enum=list(STRATEGIES)),
        description="Which triplets of a batch the loss is made of, or its pairs; offline: triplets that are mined "
        "before the steps that train on them, batch_size of them in a batch",
    )
    mining_size: PositiveInt | None = Field(
        None,
        description="How many anchors one round of offline mining takes, rounded down to whole batches; negatives are "
        "sought among these and their positives. null, or more than there are: all, once an epoch",
    )
    margin: Annotated[float, Field(ge=0, le=1e9)] | Literal["soft"] | None = Field(
        0.5,
        description="How much farther than the positive the negative has to be, in units of the distance, by default "
        f"{_defaults_of('margin')}; soft, for batch_hard: softplus instead of a margin. Of multi_similarity, what is "
        "added before a pair counts as easy; of circle, how far from 1 and from 0 similarities may be, "
        "below 1; of proxy_anchor, how much above 0 the similarity to the vector of the own class has to be, and "
        "how much below 0 that to others; of arcface, an angle in radians, below pi / 2",
    )
    distance: Literal["euclidean", "squared_euclidean", "cosine"] = Field(
        "euclidean", description=f"The distance between two embeddings, by default {_defaults_of('distance')}"
    )
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] | None = Field(
        None,
        description="What similarities are divided by: the lower, the more the hardest pairs count; by default "
        f"{_defaults_of('temperature')}",
    )
    scale: Annotated[float, Field(ge=1e-3, le=1e4)] | None = Field(
        None,
        description="What similarities are multiplied by: the higher, the more the hardest pairs count; by default "
        f"{_defaults_of('scale')}",
    )
    scale_positive: Annotated[float, Field(ge=1e-3, le=1e4)] | None = Field(
        None, description=f"The same for pairs of a class; by default {_defaults_of('scale_positive')}"
    )
    scale_negative: Annotated[float, Field(ge=1e-3, le=1e4)] | None = Field(
        None, description=f"The same for pairs of two classes; by default {_defaults_of('scale_negative')}"
    )
    similarity_threshold: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None,
        description="The cosine similarity at which pairs of either kind begin to cost; by default "
        f"{_defaults_of('similarity_threshold')}",
    )
    class_vector_learning_rate_factor: Annotated[float, Field(ge=1e-3, le=1e4)] | None = Field(
        None,
        description="What the learning rate is multiplied by for the vectors of the classes, which such a loss learns; "
        f"by default {_defaults_of('class_vector_learning_rate_factor')}",
    )

    memory_size: Annotated[int, Field(ge=1, le=2**20)] | None = Field(
        None,
        description="Positives and negatives are looked for among so many embeddings of the last batches, too, as they "
        "were then; null looks in the batch alone",
    )
    memory_start_step: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        0, description="Steps to be made before that begins: embeddings change quickly at first"
    )

    # Optimization (Adam)
    num_epochs: PositiveInt = Field(20, description="Passes over the training images")
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = Field(1e-3, description="Of Adam, at its highest")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: linear warm-up over warmup_steps, then down to 0 along a cosine"
    )
    warmup_steps: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        0, description="Steps of the warm-up of the cosine schedule, fewer than the training has"
    )

    # What happens when training breaks down
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="skip: go on, a gradient counting as 0 if it or the loss is NaN or infinite"
    )
    on_collapse: Literal["warn", "stop"] = Field(
        "warn", description="stop: end the run when all embeddings have become alike"
    )

    # What the run keeps, and when
    save_summary_steps: PositiveInt = Field(50, description="Steps between two points of the training curves")
    save_checkpoints_steps: PositiveInt = Field(1000, description="Steps between two checkpoints")
    keep_checkpoint_max: PositiveInt = Field(5, description="Newest checkpoints that are kept")
    evaluate_every_epochs: PositiveInt = Field(5, description="Epochs between two evaluations on the validation images")
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Stop after this many evaluations in a row without a new best; null trains to the end"
    )
    early_stopping_metric: Literal["knn_accuracy", "recall_at_1", "r_precision", "map_at_r", "mrr"] = Field(
        "knn_accuracy",
        description="The validation metric that early stopping watches; the checkpoint that is kept as the best is the "
        "last one for which it is as good as the highest, but for one standard error",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, content: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(content, dict):
            return validate(content)
        said = translate(content)
        # A null that is the default says nothing; what is said of unknown keys is for Pydantic to tell.
        fields = cls.model_fields
        said = {
            key: value
            for key, value in said.items()
            if value is not None or key not in fields or fields[key].default is not None
        }
        params = validate(_with_defaults(said))
        # What is filled in is not set: a search that varies the strategy gets the defaults of each.
        params.model_fields_set.intersection_update(said)
        return params

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        # What belongs to another choice is told as that, and not as too large or too small.
        self._check_owners("triplet_strategy", strategies_with)
        self._check_owners("network", networks_with)
        self._check_owners("augmentation", augmentations_with)
        self._check_batches()
        self._check_network()
        self._check_memory()
        self._check_loss()
        if self.validation_size is not None and self.validation_classes is not None:
            raise ValueError("'validation_size' and 'validation_classes' are both set: keep one")
        if self.image_fit != "stretch" and self.image_size is None:
            raise ValueError(f"'image_fit' needs 'image_size', received \"{self.image_fit}\" without it")
        if self.warmup_steps and self.learning_rate_schedule != "cosine":
            raise ValueError(
                f"'warmup_steps' needs learning_rate_schedule \"cosine\", received {self.warmup_steps} steps "
                f'with "{self.learning_rate_schedule}"'
            )
        return self

    def _check_batches(self) -> None:
        """Finds batches that cannot be drawn."""
        classes, images = self.num_classes_per_batch, self.num_images_per_class
        if (classes is None) != (images is None):
            given, missing = ("num_images_per_class", "num_classes_per_batch")[:: 1 if classes is None else -1]
            raise ValueError(f"'{given}' is set without '{missing}': set both for P x K batches, or neither")
        if classes and images and classes * images != self.batch_size:
            raise ValueError(
                f"'batch_size' must be num_classes_per_batch x num_images_per_class = "
                f"{classes} x {images} = {classes * images}, received {self.batch_size}"
            )
        if self.batch_classes != "any" and not classes:
            raise ValueError(
                f"'batch_classes' needs 'num_classes_per_batch', received \"{self.batch_classes}\" without it"
            )
        if self.strategy.mines and classes:
            raise ValueError(
                f"'num_classes_per_batch' needs a strategy that mines inside the batch, received {classes} with "
                f'"{self.triplet_strategy}"'
            )
        if self.mining_size is not None and self.mining_size < self.batch_size:
            raise ValueError(
                f"'mining_size' must be at least batch_size = {self.batch_size}, received {self.mining_size}"
            )
        if self.micro_batch_size and self.images_per_step % self.micro_batch_size:
            raise ValueError(
                f"'micro_batch_size' must divide the {self.images_per_step} images of a batch, received "
                f"{self.micro_batch_size}"
            )

    def _check_memory(self) -> None:
        """Finds a memory of past batches that nothing reads, or that is too large."""
        if self.memory_size and (self.strategy.mines or self.strategy.learns_class_vectors):
            does = "mines inside the batch" if self.strategy.mines else "compares images with each other"
            raise ValueError(
                f"'memory_size' needs a strategy that {does}, received {self.memory_size} with "
                f'"{self.triplet_strategy}"'
            )
        if (self.memory_size or 0) * self.embedding_size > _MOST_NUMBERS_IN_MEMORY:
            raise ValueError(
                f"'memory_size' must be at most {_MOST_NUMBERS_IN_MEMORY // self.embedding_size} with embedding_size = "
                f"{self.embedding_size}, received {self.memory_size}"
            )
        if self.memory_start_step and self.memory_size is None:
            raise ValueError(
                f"'memory_start_step' needs 'memory_size', received {self.memory_start_step} steps without it"
            )

    def _check_loss(self) -> None:
        """Finds a margin or a distance that the strategy does not take."""
        if self.margin == "soft" and not self.strategy.takes_soft_margin:
            owners = _quoted(name for name, strategy in STRATEGIES.items() if strategy.takes_soft_margin)
            raise ValueError(f'\'margin\' "soft" needs triplet_strategy {owners}, received "{self.triplet_strategy}"')
        if self.margin is not None and self.strategy.margin is None:
            raise ValueError(
                f"'margin' needs a strategy that has one, received {json.dumps(self.margin)} with "
                f'"{self.triplet_strategy}"'
            )
        if self.margin is None and self.strategy.margin is not None:
            raise ValueError(f"'margin' must be a number with \"{self.triplet_strategy}\", received null")
        limit = self.strategy.margin_limit
        if isinstance(self.margin, float) and self.margin >= limit:
            raise ValueError(
                f"'margin' must be below {limit:.4g} with \"{self.triplet_strategy}\", received {self.margin:g}"
            )
        if self.strategy.of_similarities and self.distance != "cosine":
            raise ValueError(
                f'\'distance\' must be "cosine" with "{self.triplet_strategy}", received "{self.distance}"'
            )

    def _check_owners(self, choice: str, owners_of: Callable[[str], list[str]]) -> None:
        """Finds that nothing is set that belongs to another strategy, network or augmentation than the chosen one."""
        values = self.model_dump()
        for key, field in type(self).model_fields.items():
            owners = owners_of(key)
            if owners and values[choice] not in owners and values[key] != field.default:
                raise ValueError(
                    f"'{key}' needs {choice} {_quoted(owners)}, received {json.dumps(values[key])} with "
                    f'"{values[choice]}"'
                )

    def _check_network(self) -> None:
        """Finds what cannot be together in a network and the weights that it begins with."""
        network = NETWORKS[self.network]
        if self.image_size is not None and self.image_size < network.smallest_side:
            raise ValueError(
                f"'image_size' must be at least {network.smallest_side} with network \"{self.network}\", received "
                f"{self.image_size}"
            )
        if self.weights == "imagenet" and network.imagenet is None:
            with_weights = _quoted(name for name, entry in NETWORKS.items() if entry.imagenet is not None)
            raise ValueError(f'\'weights\' "imagenet" needs network {with_weights}, received "{self.network}"')
        if self.weights_sha256 and self.weights in (None, "imagenet"):
            raise ValueError(
                f"'weights_sha256' needs a file of one's own in 'weights', received {json.dumps(self.weights)}"
            )
        if self.weights is None:
            for key, value in (("frozen_epochs", self.frozen_epochs), ("frozen_batch_norm", self.frozen_batch_norm)):
                if value:
                    raise ValueError(
                        f"'{key}' needs 'weights', received {json.dumps(value)} without: random layers would be frozen"
                    )
        if self.frozen_epochs >= self.num_epochs:
            raise ValueError(
                f"'frozen_epochs' must be fewer than num_epochs = {self.num_epochs}, received {self.frozen_epochs}"
            )
        is_default = self.bn_momentum == type(self).model_fields["bn_momentum"].default
        for key, asked in (("frozen_batch_norm", self.frozen_batch_norm), ("bn_momentum", not is_default)):
            if asked and not (network.has_batch_norm or self.use_batch_norm):
                raise ValueError(f"'{key}' needs batch normalization, which \"{self.network}\" has none of")

    @property
    def strategy(self) -> Strategy:
        """The strategy that `triplet_strategy` names."""
        return STRATEGIES[self.triplet_strategy]

    @property
    def of_the_network(self) -> dict[str, Any]:
        """The parameters that the network alone reads, by name."""
        return self.model_dump(include=set(NETWORKS[self.network].parameters))

    @property
    def of_the_loss(self) -> dict[str, Any]:
        """The parameters that the loss has of its own, by name."""
        return self.model_dump(include=set(self.strategy.loss_parameters))

    @property
    def learns_batch_norm(self) -> bool:
        """Whether there is batch normalization by the batch in training."""
        return (NETWORKS[self.network].has_batch_norm or self.use_batch_norm) and not self.frozen_batch_norm

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "Params":
        """Reads and checks a `params.json`.

        Args:
            path: The file. Keys that it does not name have their defaults.

        Returns:
            The parameters.

        Raises:
            UserError: The file cannot be read, is not a JSON object, or has a key that is unknown, of the wrong
                type, out of range, or impossible together with another. The line names the file and the key.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "params.json")
            ...     _ = path.write_text('{"triplet_strategy": "batch_hard", "margin": "soft"}')
            ...     params = Params.from_json(path)
            >>> params.margin, params.dataset
            ('soft', 'mnist')
        """
        return cls.from_json_with_notes(path)[0]

    @classmethod
    def from_json_with_notes(cls, path: str | os.PathLike[str]) -> tuple["Params", list[str]]:
        """Reads as `from_json` does; returns a line for every key of the file that has no effect as well."""
        content = json_file.read_object(
            path, "an experiment is a folder with a params.json (an empty object {} takes every default)"
        )
        params = json_file.validate(path, content, cls, KNOWN_KEYS)
        return params, [f"'{key}' has no effect: {why}" for key, why in WITHOUT_EFFECT.items() if key in content]

    def to_json(self) -> str:
        """Returns the complete set, defaults included, as JSON text that `from_json` reads back as equal."""
        return self.model_dump_json(indent=2) + "\n"

    def differences(self) -> dict[str, Any]:
        """Returns the seed and what differs from the defaults, as in a `params.json`.

        The defaults are those of the strategy, so that what is left out is what is filled in when it is read again.

        Example:
            >>> Params(triplet_strategy="circle", margin=0.25, scale=80.0, seed=7).differences()
            {'seed': 7, 'triplet_strategy': 'circle', 'margin': 0.25}
        """
        defaults = Params(triplet_strategy=self.triplet_strategy).model_dump(mode="json")
        defaults["triplet_strategy"] = Params().triplet_strategy
        return {
            key: value for key, value in self.model_dump(mode="json").items() if key == "seed" or value != defaults[key]
        }

    def changes_from(self, before: "Params") -> dict[str, tuple[Any, Any]]:
        """Returns the parameters that differ, each with its value before and now, as JSON has them.

        Example:
            >>> Params(margin=0.3).changes_from(Params(margin=0.5))
            {'margin': (0.5, 0.3)}
        """
        old, new = before.model_dump(mode="json"), self.model_dump(mode="json")
        return {key: (old[key], new[key]) for key in new if old[key] != new[key]}

    @property
    def images_per_step(self) -> int:
        """Images that the network sees in a step: three for each triplet that is mined offline."""
        return self.batch_size * (3 if self.strategy.mines else 1)

    @property
    def has_unit_length(self) -> bool:
        """Whether embeddings are scaled to length 1."""
        return self.normalize_embeddings or self.distance == "cosine"


def augmentations_with(parameter: str) -> list[str]:
    """Returns the names of the augmentations that read a parameter of their own; none if it belongs to all.

    Example:
        >>> augmentations_with("drawing_bend")
        ['drawing']
    """
    return [name for name, parameters in _PARAMETERS_OF_AUGMENTATIONS.items() if parameter in parameters]


def translate(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file from TensorFlow 1 times says in the keys of today.

    Args:
        content: Of a `params.json`; one without such keys comes back as it is.

    Raises:
        ValueError: `squared`, the old name of the distance "squared_euclidean", says what cannot be.

    Example:
        >>> translate({"margin": 0.5, "squared": True, "num_labels": 10})
        {'margin': 0.5, 'distance': 'squared_euclidean'}
    """
    new = {key: value for key, value in content.items() if key not in WITHOUT_EFFECT}
    squared = new.pop("squared", False)
    if not isinstance(squared, bool):
        raise ValueError(f"'squared' must be a valid boolean, received {json.dumps(squared)}")
    if squared and new.get("distance") == "cosine":
        raise ValueError("'squared' needs a euclidean distance, received \"cosine\"")
    if squared and new.get("distance", "euclidean") == "euclidean":
        new["distance"] = "squared_euclidean"
    return new


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Returns what a file says, and what the strategy that it names fills in where it says nothing."""
    name = content.get("triplet_strategy", Params.model_fields["triplet_strategy"].default)
    strategy = STRATEGIES.get(name) if isinstance(name, str) else None
    if strategy is None:  # which is told of later
        return content
    return strategy.defaults | content


def part_of_a_run(from_step: int, params: dict[str, Any]) -> dict[str, Any]:
    """Returns an entry of `params_history` that was read from JSON; a TypeError if it is none."""
    if type(from_step) is not int or not isinstance(params, dict):
        raise TypeError(f"Expected a step and parameters. Received: {from_step!r}, {params!r}")
    return {"from_step": from_step, "params": params}


def json_schema() -> str:
    """Returns the JSON Schema of `params.json` as JSON text."""
    schema = Params.model_json_schema()
    old = {key: f"No effect: {reason}" for key, reason in WITHOUT_EFFECT.items()}
    old["squared"] = "The old name of distance squared_euclidean"
    for key, description in old.items():
        schema["properties"][key] = {"deprecated": True, "description": description}
    schema["properties"]["$schema"] = {"type": "string", "description": "This schema, for editors"}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
