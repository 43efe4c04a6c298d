"""From a divided data set to what training and scoring consume.

Images stay uint8 until they are on the device. A training step receives the indices of its images, which it gathers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from model.common.draws import Stream, permutation
from model.common.errors import UserError, listed
from model.common.images import Images
from model.common.text import class_name
from model.data import sampling, siblings
from model.data.dataset import Dataset, Split
from model.data.listing import Roles
from model.data.partition import Partition
from model.params import Params


def check_images(images: Images) -> None:
    """Makes sure that an array holds images: TensorFlow would cut off what numbers have behind the point, and NaN.

    Args:
        images: What has to be a uint8 array of shape (N, H, W, C), N at least 1, or stored images.

    Raises:
        ValueError: It is something else.
    """
    is_array = isinstance(images, Images)
    if not is_array or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        received = f"{images.dtype}, shape {images.shape}" if is_array else type(images).__name__
        raise ValueError(
            "Expected images, a NumPy array of uint8 of shape (N, H, W, C), N at least 1, pixels from 0 to 255. "
            f"Received: {received}"
        )


@dataclass(frozen=True)
class TrainInput:
    """The training images and the order in which they come.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        batches: From the step to indices, int32: (batch_size,), or pairs to mine for, (batch_size, 2).
        batch_size: Of these.
        steps_per_mining: Steps for which triplets are mined offline at a time; None where none are.
        train_sha256: `Dataset.train_sha256` of the data set that they are of, by which a run knows them again; "" where
            nobody needs to.
    """

    images: Images
    labels: np.ndarray
    batches: sampling.BatchPolicy
    batch_size: int
    steps_per_mining: int | None = None
    train_sha256: str = ""

    def __post_init__(self) -> None:
        check_images(self.images)

    @property
    def images_per_step(self) -> int:
        """Images that the network sees in a step: three for each triplet that is mined offline."""
        return self.batch_size if self.steps_per_mining is None else 3 * self.batch_size

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which N images come by, as anchors if they are mined offline; not a whole number in general."""
        return len(self.images) / self.batch_size

    def steps_in(self, epochs: int) -> int:
        """Returns the number of steps of so many epochs, rounded up."""
        return -(-len(self.images) * epochs // self.batch_size)


@dataclass(frozen=True)
class EvalInput:
    """The images to score, the gallery in which their neighbours are looked for, and how the loss is batched.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        gallery_images: (G, H, W, C) uint8.
        gallery_labels: (G,) int32.
        batches: Indices, each of the N once.
        groups: By name, the labels of classes that are scored apart.
        seed: Decides what is drawn at random while scoring.
        roles: Which of the images are queries, which the gallery of these, and which groups are left out; None where
            each looks for all others.
    """

    images: Images
    labels: np.ndarray
    gallery_images: Images
    gallery_labels: np.ndarray
    batches: list[np.ndarray]
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    roles: Roles | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        check_images(self.gallery_images)

    @property
    def needs_gallery(self) -> bool:
        """Whether a score depends on the gallery: an image to score is of one of its classes, or it has unseen ones."""
        return bool(np.isin(self.gallery_labels, [*self.labels, *self.groups.get("unseen", ())]).any())


def train_input_fn(partition: Partition, params: Params) -> TrainInput:
    """Returns the images that are learned from, in the order that the parameters ask for.

    Raises:
        UserError: A batch cannot be filled from them.
    """
    data, images, labels = partition.data, partition.train.images, partition.train.labels
    if params.batch_size > len(images):
        raise UserError(
            f"'batch_size' must be at most the {len(images)} training images of {data.name}, "
            f"received {params.batch_size}"
        )
    steps_per_mining = None
    if params.strategy.mines:
        steps_per_mining = _steps_per_mining(data.name, labels, params)
        batches = sampling.anchor_positive_batches(labels, params.seed, params.batch_size)
    elif np.bincount(labels).max() < 2:
        raise UserError(
            f"no class of {data.name} has two images to learn from, so nothing tells which images belong together (of "
            "the two images of a class, one is for the test); add images"
        )
    elif params.num_classes_per_batch is None or params.num_images_per_class is None:
        batches = sampling.uniform_batches(labels, params.seed, params.batch_size)
    else:
        num_classes = len(np.unique(labels))
        if params.num_classes_per_batch > num_classes:
            raise UserError(
                f"'num_classes_per_batch' must be at most the {num_classes} training classes of "
                f"{data.name}, received {params.num_classes_per_batch}"
            )
        size = params.num_classes_per_batch, params.num_images_per_class
        if params.batch_classes == "siblings":
            _check_tree(data, labels)
            batches = siblings.sibling_batches(labels, data.class_names, params.seed, *size)
        else:
            batches = sampling.class_balanced_batches(labels, params.seed, *size)
    return TrainInput(images, labels, batches, params.batch_size, steps_per_mining, data.train_sha256)


def _check_tree(data: Dataset, labels: np.ndarray) -> None:
    names = [data.class_names[label] for label in np.unique(labels).tolist()]
    if not siblings.Tree.of(names).tells_apart:
        raise UserError(
            "'batch_classes' \"siblings\" needs training classes whose names form a tree, some of them below one "
            f"folder, as Fruit/Apple/Pink and Fruit/Apple/Royal: received {listed(map(class_name, names), most=3)} of "
            f'{data.name}; take "any"'
        )


def classes_too_small(labels: np.ndarray, params: Params) -> str:
    """Returns a warning of training classes that have fewer images than P x K batches take of them, "" if none has.

    Args:
        labels: (N,) int32, of the training images.
        params: The experiment.
    """
    images = params.num_images_per_class
    _, sizes = np.unique(labels, return_counts=True)
    too_small = int(np.count_nonzero(sizes < images)) if images is not None else 0
    if not too_small:
        return ""
    lone = int(np.count_nonzero(sizes == 1))
    more = f", and {lone} have one alone, which has no positive" if lone else ""
    return (
        f"{too_small} of {len(sizes)} training classes have fewer than 'num_images_per_class' = {images} images{more}; "
        "batches repeat these, and a copy of an image teaches nothing: lower it or add images"
    )


def _steps_per_mining(name: str, labels: np.ndarray, params: Params) -> int:
    """Returns for how many steps triplets are mined at a time: for all anchors, or for `mining_size` of them."""
    class_sizes = np.bincount(labels)
    num_anchors = int(class_sizes[class_sizes > 1].sum())
    if np.count_nonzero(class_sizes) < 2 or params.batch_size > num_anchors:
        raise UserError(
            f"'triplet_strategy' \"{params.triplet_strategy}\" needs two training classes, and batch_size = "
            f"{params.batch_size} images with another one of their class; {name} has "
            f"{np.count_nonzero(class_sizes)} and {num_anchors}"
        )
    if params.mining_size is None:
        return -(-num_anchors // params.batch_size)
    return min(params.mining_size, num_anchors) // params.batch_size


def eval_input_fn(partition: Partition, params: Params) -> EvalInput:
    """Returns the test images of a data set, with all of its training images as the gallery."""
    groups = {}
    if partition.has_unseen:
        groups = {"seen": tuple(np.unique(partition.train.labels).tolist()), "unseen": partition.unseen}
    return _eval_input(partition.data.test, partition.data.train, params, groups)


def validation_input_fn(partition: Partition, params: Params) -> EvalInput:
    """Returns the validation images of a data set with their gallery.

    Raises:
        ValueError: The parameters set none aside.
    """
    if partition.validation is None or partition.validation_gallery is None:
        raise ValueError("Expected 'validation_size' or 'validation_classes'. Received: neither")
    return _eval_input(partition.validation, partition.validation_gallery, params, {})


def _eval_input(images: Split, gallery: Split, params: Params, groups: Mapping[str, tuple[int, ...]]) -> EvalInput:
    # The loss is computed over batches in a fixed random order: data that lie class by class would fill batches in
    # which there is no triplet.
    order = permutation(params.seed, Stream.EVALUATION_ORDER, size=len(images.labels))
    batches = [order[start : start + params.batch_size] for start in range(0, len(order), params.batch_size)]
    roles = images.roles and images.roles.to_score(params.exclude_same_group)
    return EvalInput(
        images.images, images.labels, gallery.images, gallery.labels, batches, groups, params.split_seed, roles
    )
