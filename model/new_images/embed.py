"""The embeddings of new images, and those of what they are compared with, which are kept from one command to the next.

That are the training images or another gallery, and the images that tell how near strangers come.
"""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.common import draws, kept
from model.common.errors import UserError
from model.common.images import Images, subset
from model.new_images import convert
from model.new_images.answers import Comparison, Gallery, NewImages, Predictions, classify, compare
from model.new_images.questions import Question
from model.new_images.refusal import LookedUp, Refusal, Strangers, refuse, why_so_few_cannot
from model.new_images.training_images import TrainingImages, look_at
from model.runner import Trained

_log = logging.getLogger(__name__)

# Bytes of converted images that are in memory at a time; embeddings of strangers have at most as many numbers.
_BYTES_OF_A_BLOCK = 2**26
# Strangers at most, and test images that tell how often others are unknown.
_MOST_EMBEDDED = 10_000


def answer(question: Question, trained: Trained, choice: str | None) -> Comparison | Predictions:
    """Answers a question.

    Args:
        question: What is asked.
        trained: What embeds the images.
        choice: How its checkpoint was chosen, by `--checkpoint`.

    Raises:
        UserError: A file cannot be decoded, the checkpoint cannot be used or was not evaluated, or strangers cannot be
            refused as rarely as asked for.
    """
    if question.calibration is not None:
        question.calibration.check(trained.checkpoint.path, trained.checkpoint.digest, choice)
    seen = look_at(trained.experiment, question.known)
    images = embed_files(trained, question.files, seen)
    if question.calibration is not None:
        return compare(images, question.calibration)
    enrolled = question.enrolled
    if enrolled is None:
        everything = Gallery(trained.embed_gallery(), seen.summary.train_labels, seen.summary.class_names)
        gallery = everything.without(seen.summary.unseen)  # which are the strangers
    else:
        embeddings = embed_enrolled(trained, enrolled.path, enrolled.files, seen)
        everything = gallery = Gallery(embeddings, enrolled.labels, enrolled.class_names, enrolled.path, enrolled.files)
    refusal = _refuse(question, trained, gallery)
    return classify(images, everything if isinstance(refusal, str) else gallery, question.neighbors, refusal)


def _refuse(question: Question, trained: Trained, gallery: Gallery) -> Refusal | str:
    """Returns what makes an image unknown, or why every image gets a name."""
    rate = question.false_accept_rate
    if rate is None:
        return "--false_accept_rate off"
    of_training, num_unseen = gallery.path is None, len(trained.experiment.summary.unseen)
    refusal: Refusal | str | None = None
    if of_training or not question.must_refuse:
        refusal = why_so_few_cannot(num_unseen)
    if refusal is None:
        judges = look_up_strangers(trained, gallery) if of_training else embed_strangers(trained)
        refusal = refuse(judges, gallery.labels, rate, trained.params.split_seed)
    if not isinstance(refusal, str):
        return refusal
    if question.must_refuse:
        raise UserError(f"{trained.experiment.model_dir}: --false_accept_rate {rate:g}: {refusal}")
    offer = "" if of_training or num_unseen > 1 else "; asked for, it is tried out with the test classes"
    return f"--false_accept_rate {rate:g} {refusal}{offer}"


def embed_files(trained: Trained, files: Sequence[Path], training_images: TrainingImages) -> NewImages:
    """Converts image files to what the training images are, and embeds them.

    Args:
        trained: What embeds them.
        files: Image files, at least one.
        training_images: What they are made like.

    Raises:
        UserError: A file cannot be decoded, or the checkpoint cannot be used.
    """
    size = max(1, _BYTES_OF_A_BLOCK // math.prod(training_images.summary.image_shape))
    converted: list[convert.Converted] = []
    embeddings = []
    for start in range(0, len(files), size):
        block = _convert(trained, files[start : start + size], training_images)
        embeddings.append(trained.embed(np.stack([image.image for image in block])))
        converted += [dataclasses.replace(image, image=image.image[:0].copy()) for image in block]
    return NewImages(files, converted, np.concatenate(embeddings))


def _convert(trained: Trained, files: Sequence[Path], training_images: TrainingImages) -> list[convert.Converted]:
    shape, framing = training_images.summary.image_shape, training_images.framing
    converted = [
        convert.read(file, shape, framing, trained.params.image_bits, trained.params.image_fit) for file in files
    ]
    for file, image in zip(files, converted, strict=True):
        if image.is_blank:
            _log.warning("%s: shows nothing but background; its embedding means nothing.", file)
    return converted


def embed_enrolled(
    trained: Trained, gallery: Path, files: Sequence[Path], training_images: TrainingImages
) -> np.ndarray:
    """Returns the embeddings of a gallery, converted as new images are, from a file in `model_dir/eval` if it is there.

    An image of the gallery that is asked for has distance 0 to itself, whatever it took to convert it.

    Args:
        trained: What embeds them.
        gallery: Its name, which tells galleries apart.
        files: Its image files, at least one. That one was changed is noticed by its size and its times.
        training_images: What they are made like.

    Returns:
        (G, D) float32, in the order of `files`.

    Raises:
        UserError: Files cannot be decoded, or the checkpoint cannot be used.
    """
    name = f"gallery-{hashlib.sha256(str(gallery.resolve()).encode()).hexdigest()[:8]}"
    path = kept.path_in(trained.experiment.model_dir, name)
    statuses = [(str(file), file.stat()) for file in files]
    of_files = [(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in statuses]
    # The stamp is of the training images, which decide how others are converted.
    key = trained.key_of(trained.experiment.summary.stamp, json.dumps(of_files))
    known = kept.read_embeddings(path, key, trained.params.embedding_size, len(files))
    if known is not None:
        return known["embeddings"]
    convert.check_readable(files)
    _log.info("Embedding the %d images of %s; %s keeps the result.", len(files), gallery, path)
    embeddings = embed_files(trained, files, training_images).embeddings
    kept.write(path, {"key": np.array(key), "embeddings": embeddings})
    return embeddings


def embed_strangers(trained: Trained) -> Strangers:
    """Returns the embeddings of the classes that nobody learned from, or of the test images where there are none.

    They are kept in `model_dir/eval/strangers.npz`. Of very many images a part of each class is taken.

    Args:
        trained: What embeds them.

    Raises:
        UserError: The checkpoint cannot be used.
    """
    path = kept.path_in(trained.experiment.model_dir, "strangers")
    key = trained.key_of(trained.experiment.summary.stamp)
    known = kept.read_embeddings(path, key, trained.params.embedding_size)
    if known is not None:
        return Strangers(known["embeddings"], known["labels"], bool(known["are_unseen"]))
    partition = trained.experiment.partition
    _log.info("Embedding images that tell how near strangers come; %s keeps the result.", path)
    splits = partition.never_learned_from
    labels = np.concatenate([split.labels for split in splits])
    found = Strangers(*_embed_some(trained, [split.images for split in splits], labels), partition.has_unseen)
    kept.write(
        path,
        {
            "key": np.array(key),
            "embeddings": found.embeddings,
            "labels": found.labels,
            "are_unseen": np.array(found.are_unseen),
        },
    )
    return found


def look_up_strangers(trained: Trained, gallery: Gallery) -> LookedUp:
    """Returns how near strangers and test images of the gallery's classes come to training images.

    It is kept in `model_dir/eval/looked_up.npz`. Of very many images a part of each class is taken.

    Args:
        trained: What embeds them.
        gallery: The training images without those of the classes that nobody learned from; these are two at least.

    Raises:
        UserError: The checkpoint cannot be used.
    """
    path = kept.path_in(trained.experiment.model_dir, "looked_up")
    key = trained.key_of(trained.experiment.summary.stamp)
    known = kept.read(path, key)
    if known is not None:
        return LookedUp(known["labels"], known["own"], known["other"])
    strangers, test = embed_strangers(trained), trained.experiment.data.test
    is_enrolled = np.isin(test.labels, gallery.labels)
    _log.info("Embedding test images that tell how often others are unknown; %s keeps the result.", path)
    embeddings, labels = _embed_some(trained, [subset(test.images, is_enrolled)], test.labels[is_enrolled])
    found = LookedUp.of(
        gallery.embeddings,
        gallery.labels,
        np.concatenate([strangers.embeddings, embeddings]),
        np.concatenate([strangers.labels, labels]),
    )
    kept.write(path, {"key": np.array(key), "labels": found.labels, "own": found.own, "other": found.other})
    return found


def _embed_some(trained: Trained, parts: Sequence[Images], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings of images, (N, D) float32, and their labels; of very many a sample."""
    size = trained.params.embedding_size
    most = min(_MOST_EMBEDDED, _BYTES_OF_A_BLOCK // size)
    chosen = draws.sample_with_partners(labels, trained.params.split_seed, most)
    ends = np.cumsum([len(images) for images in parts])
    places = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    embedded = [
        trained.embed(subset(images, place - end + len(images)))
        for images, place, end in zip(parts, places, ends, strict=True)
        if len(place)
    ]
    return np.concatenate([np.zeros((0, size), np.float32), *embedded]), labels[chosen]
