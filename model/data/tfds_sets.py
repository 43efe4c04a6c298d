"""Image-classification sets of TensorFlow Datasets (TFDS), with short answers where TFDS has long ones.

Facts about TFDS 4.9.10. Making the builder of an image set contacts no host (its look-ups in Google's bucket
are switched off). `download_and_prepare` contacts the hosts of `builder.url_infos`, ten times each, and takes
205 s to notice that there is no network. It writes to a temporary folder and renames that at the end, so
half a preparation never has the final name. It remembers what it extracted by file name, so two sets
must not share their downloads. `features.json` and `dataset_info.json` of a prepared folder name the classes of
features, at any depth, also in JSON within JSON. TFDS imports the module of each, whichever it is, in
`FeatureConnector.cls_from_name` and nowhere else.
"""

import contextlib
import difflib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import DatasetBuilder

from model.common.errors import UserError, one_line
from model.data.decoding import Fit
from model.data.idx_files import FILES
from model.data.image_files import resize

# Classes of features that a prepared folder may name: those of TFDS itself.
_FEATURES = "tensorflow_datasets.core.features."

NETWORK_SECONDS = 4.0  # within which one of the download servers has to answer


@dataclass(frozen=True)
class OpenedSet:
    """A set that is prepared.

    Attributes:
        name: Its name in TFDS.
        shape: Height, width and channels of its images.
        size: How many there are.
        num_train: The size of the train split, which comes first (the test split follows or, where there is none, the
            validation split); None if there is nothing else.
        class_names: Of the labels 0, 1, ...
        files: Name, size and time of each file that they are read from.
        examples: Yields images (H, W, C), uint8, and their labels, from this one on, always in the same order.
    """

    name: str
    shape: tuple[int, int, int]
    size: int
    num_train: int | None
    class_names: Sequence[str]
    files: list[tuple[str, int, int]]
    examples: Callable[[int], Iterator[tuple[np.ndarray, int]]]

    def check_labels(self, labels: np.ndarray) -> None:
        """Makes sure that all images have labels.

        Raises:
            UserError: Some have none.
        """
        if labels.min(initial=0) < 0:
            raise UserError(f"data set {self.name!r}: some of its images have no label; take another")


def open_set(name: str, store: Path, image_size: int | None, fit: Fit = "stretch") -> OpenedSet:
    """Opens a set, which TFDS downloads and prepares in `store` unless it did so before.

    Args:
        name: its name in TFDS, such as `kmnist` or `emnist/letters`.
        store: a folder for this data set alone; the user's own files may lie beside it.
        image_size: side in pixels to which the images are resized, or None.
        fit: how they are, as `Decoding.image_fit`.

    Raises:
        UserError: no such set, not one of labelled images, no network, or a damaged preparation; also one that names
            a Python module to import, or files outside of its folder.
    """
    with _no_code_from(store):
        builder = _builder(name, store)
    _check_inside(builder, store)
    image_key, label_key = _feature_keys(name, builder, image_size)
    if not builder.data_path.exists():
        _prepare(name, store, builder)
    if not builder.is_prepared():
        raise _damaged(builder, "it lacks metadata")
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    if "train" not in sizes:
        raise UserError(f"data set {name!r}: has the splits {', '.join(sizes)}, expected train; take another")
    splits = ["train", *[split for split in ("test", "validation") if split in sizes][:1]]
    height, width, channels = builder.info.features[image_key].shape
    shape = (image_size or height, image_size or width, channels)

    def examples(first: int) -> Iterator[tuple[np.ndarray, int]]:
        for split in splits:
            if first < sizes[split]:
                for image, label in _examples(builder, split, image_key, label_key, first):
                    yield resize(image, shape[:2], fit), int(label)
            first = max(0, first - sizes[split])

    paths = [Path(path) for split in splits for path in builder.info.splits[split].filepaths]
    return OpenedSet(
        name,
        shape,
        sum(sizes[split] for split in splits),
        sizes["train"] if len(splits) == 2 else None,
        builder.info.features[label_key].names,
        [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()],
        examples,
    )


@contextlib.contextmanager
def _no_code_from(store: Path) -> Iterator[None]:
    """While the block runs, TFDS imports nothing that a prepared folder names."""
    connector = tfds.features.FeatureConnector
    before = vars(connector)["cls_from_name"]
    cls_from_name = connector.cls_from_name

    def only_of_tfds(class_name: str) -> type[tfds.features.FeatureConnector]:
        if not class_name.startswith(_FEATURES):
            raise UserError(
                f"{store}: a features.json or dataset_info.json in it names the Python class {class_name!r}, expected "
                f"one of {_FEATURES}*; nothing that lies with data is run; delete this folder, or prepare it anew"
            )
        return cls_from_name(class_name)

    connector.cls_from_name = staticmethod(only_of_tfds)
    try:
        yield
    finally:
        connector.cls_from_name = before


def _check_inside(builder: DatasetBuilder, store: Path) -> None:
    """Makes sure that all that will be read lies in the folder, wherever its files say that it does."""
    paths = [path for split in builder.info.splits.values() for path in split.filepaths]
    for path in (builder.data_path, *paths):
        if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(store)):  # noqa: PTH100, links may lead anywhere
            raise UserError(f"{store}: leads to {path}, outside of it; delete this folder, or prepare it anew")


def _builder(name: str, store: Path) -> DatasetBuilder:
    known = tfds.list_builders(with_community_datasets=False)
    base, _, config = name.partition("/")
    if base in known and config:
        known = [f"{base}/{config}" for config in tfds.builder_cls(base).builder_configs]
    try:
        return tfds.builder(name, data_dir=store)
    except UserError:
        raise
    except Exception as error:  # TFDS promises no type, and wraps what a data set's own code raises
        if name in known:
            raise UserError(
                f"data set {name!r}: TFDS cannot open it ({_of_which_kind(error)}); delete {store} "
                f"to begin anew, or take another set"
            ) from error
        close = difflib.get_close_matches(name, [*known, "digits"], cutoff=0.75)
        guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UserError(
            f"data set {name!r}: unknown{guess}; expected digits, a name of TFDS (mnist, fashion_mnist, "
            f"kmnist, emnist/letters, cifar10, ...), or your own files in {store.parent.absolute()}, where none lie, "
            "as data/README.md says"
        ) from error


def _feature_keys(name: str, builder: DatasetBuilder, image_size: int | None) -> tuple[str, str]:
    """The keys of an example's image and label, checked before anything is downloaded."""
    features = builder.info.features
    candidates: list[tuple[str, ...]] = [builder.info.supervised_keys or (), ("image", "label")]
    usable = [keys for keys in candidates if _are_image_and_label(features, keys)]
    if not usable:
        raise UserError(f"data set {name!r}: not a TFDS set of images with one class each; take another")
    image_key, label_key = usable[0]
    image = features[image_key]
    if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise UserError(
            f"data set {name!r}: has images of shape {image.shape}, {np.dtype(image.np_dtype)}, expected 1 "
            f"or 3 channels of uint8; take another"
        )
    if image_size is None and None in image.shape:
        raise UserError(f'data set {name!r}: images differ in size; set "image_size" in params.json')
    return image_key, label_key


def _are_image_and_label(features: Any, keys: Sequence[Any]) -> bool:
    if not isinstance(features, tfds.features.FeaturesDict) or len(keys) != 2:
        return False
    if any(key not in list(features) for key in keys):  # a key of TFDS may be a tuple or a dict of keys
        return False
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    return all(isinstance(features[key], kind) for key, kind in zip(keys, kinds, strict=True))


def _prepare(name: str, store: Path, builder: DatasetBuilder) -> None:
    if builder.name in ("mnist", "fashion_mnist", "kmnist", "emnist"):
        by_hand = f"put {', '.join(f'{file}.gz' for file in FILES.values())} into {store.parent.absolute()}"
    else:
        by_hand = f"put one folder of images per class into {store.parent.absolute()}"
    by_hand += ", or start without a download: python train.py --model_dir experiments/digits"

    hosts = {urlsplit(url).netloc: url for url in builder.url_infos or () if url.startswith("http")}
    if hosts and not _any_answers(hosts.values()):
        raise UserError(f"data set {name!r}: no network, {' and '.join(hosts)} did not answer; {by_hand}")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_dir=store / "downloads")
    except Exception as error:  # TFDS promises no type: network, disk, checksums, packages of the data set
        raise UserError(f"data set {name!r}: TFDS could not prepare it ({_of_which_kind(error)}); {by_hand}") from error


def _any_answers(urls: Iterable[str]) -> bool:
    """Whether one of the servers answers in time, through the proxies of the environment as TFDS asks it.

    In threads of its own, which nobody waits for: the look-up of a host's name knows no time limit.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask(url: str) -> None:
        try:
            answers.put(requests.head(url, timeout=NETWORK_SECONDS).status_code < 500)
        except requests.RequestException:
            answers.put(False)

    asked = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in asked:
        thread.start()
    deadline = time.monotonic() + NETWORK_SECONDS
    try:
        return any(answers.get(timeout=max(0.0, deadline - time.monotonic())) for _ in asked)
    except queue.Empty:
        return False


def _examples(
    builder: DatasetBuilder, split: str, image_key: str, label_key: str, first: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the images and labels of a split from one on, always in the same order."""
    config = tfds.ReadConfig(try_autocache=False)  # each image is read once
    batch_size = 1 if None in builder.info.features[image_key].shape else 256  # one by one takes three times as long
    try:
        examples = builder.as_dataset(split=split, read_config=config).skip(first)
        pairs = examples.map(lambda example: (example[image_key], example[label_key]))
        for images, labels in pairs.batch(batch_size).prefetch(1).as_numpy_iterator():
            yield from zip(images, labels, strict=True)
    except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
        raise _damaged(builder, _of_which_kind(error)) from error


def _of_which_kind(error: Exception) -> str:
    """Returns an error's type and what it says, which may be nothing."""
    return f"{type(error).__name__}: {one_line(error)}"


def _damaged(builder: DatasetBuilder, why: str) -> UserError:
    return UserError(f"{builder.data_path}: damaged, {why}; delete this folder, it is then prepared again")
