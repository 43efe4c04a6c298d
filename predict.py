"""Asks the experiment in --model_dir what new images show, or with --pair whether two of them show the same."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
import io
import json
import logging
from pathlib import Path

import numpy as np

from model.common import cli
from model.common.errors import UserError
from model.common.files import write_whole
from model.start import start

_log = logging.getLogger("model.predict")


def main(options: argparse.Namespace) -> None:
    """Checks the question, converts and embeds the images, and answers."""
    _check(options)

    from model.new_images import answers, convert, training_images  # after the quick checks

    files = convert.find_images(options.pair or options.images)
    calibration = answers.read_calibration(options.model_dir, options.data_dir) if options.pair else None
    known = training_images.read(options.model_dir)
    runner = start(
        options.model_dir, options.data_dir, known.summary if known else None, images=options.where_images_lie
    )
    trained = runner.trained(options.checkpoint)

    from model.new_images import embed  # after TensorFlow has been started

    if calibration is not None:
        calibration.check(trained.checkpoint.path, trained.checkpoint.digest, options.checkpoint)
    seen = training_images.look_at(trained.experiment, known)
    images = embed.embed_files(trained, files, seen)
    answer: answers.Comparison | answers.Predictions
    if calibration is not None:
        answer = answers.compare(images, calibration)
    else:
        labels, class_names = seen.summary.train_labels, seen.summary.class_names
        gallery = embed.embed_gallery(trained)
        answer = answers.classify(images, gallery, labels, class_names, options.neighbors)
    if options.output:
        content = io.BytesIO()
        np.save(content, images.embeddings)
        write_whole(options.output, content.getvalue())
        _log.info("Written: %s", options.output)
    if options.json:
        print(
            json.dumps(
                {"experiment": str(options.model_dir), "step": trained.checkpoint.step, **answer.as_json()}, indent=2
            )
        )
    else:
        print(answer.as_text())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("images", type=Path, nargs="*", help="image files, or folders of them, in order of names")
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("A", "B"), help="two files: do they show the same?")
    parser.add_argument(
        "--neighbors", type=cli.whole_number(1, 100), default=5, help="how many of the nearest training images vote"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--output", type=Path, help="also write the embeddings, (N, D) float32, to this .npy file")
    cli.add_checkpoint_option(parser)


def _check(options: argparse.Namespace) -> None:
    if bool(options.images) == bool(options.pair):
        raise UserError("expected either images or --pair A B; see python predict.py --help")
    for path in options.pair or ():
        if path.is_dir():
            raise UserError(f"{path}: a folder; --pair expects two image files")
    output = options.output
    if output and (output.suffix != ".npy" or output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"{output}: expected --output to be the name of a .npy file in a folder that is there")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
