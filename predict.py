"""Asks the experiment in --model_dir who or what new images show, or with --pair whether two show the same."""

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

# Where nobody says something else.
_NEIGHBORS = 5


def main(options: argparse.Namespace) -> None:
    """Checks the question, converts and embeds the images, and answers."""
    _check(options)

    from model.new_images import questions  # after the quick checks

    model_dir, data_dir = options.model_dir, options.data_dir
    if options.pair:
        question = questions.of_a_pair(options.pair, model_dir, data_dir)
    else:
        question = questions.of_images(
            options.images, model_dir, options.neighbors or _NEIGHBORS, options.gallery, options.false_accept_rate
        )
    known = question.known.summary if question.known else None
    runner = start(model_dir, data_dir, known, images=options.where_images_lie)
    for note in question.notes:
        _log.info("%s.", note)
    trained = runner.trained(options.checkpoint)

    from model.new_images import embed  # after TensorFlow has been started

    answer = embed.answer(question, trained, options.checkpoint)
    if options.output:
        content = io.BytesIO()
        np.save(content, answer.images.embeddings)
        write_whole(options.output, content.getvalue())
        _log.info("Written: %s", options.output)
    if options.json:
        print(json.dumps({"experiment": str(model_dir), "step": trained.checkpoint.step, **answer.as_json()}, indent=2))
    else:
        print(answer.as_text())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("images", type=Path, nargs="*", help="image files, or folders of them, in order of names")
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("A", "B"), help="two files: do they show the same?")
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="FOLDER|CSV",
        help="look them up among the images of new classes instead of the training images: a folder of class folders, "
        "or a CSV file with the columns path and label; docs/unseen-classes.md",
    )
    parser.add_argument(
        "--false_accept_rate",
        type=cli.fraction_or_off,
        metavar="RATE|off",
        help="call images unknown (null with --json) whose nearest is too far, so that of images of strangers this "
        "part gets a name; off gives every image one; if not given, 0.01 where classes never trained on "
        "(holdout_classes) can promise it, else off; docs/unseen-classes.md",
    )
    parser.add_argument(
        "--neighbors",
        type=cli.whole_number(1, 100),
        help="how many of the nearest images vote; where some may be unknown the nearest decides, and these are shown; "
        f"{_NEIGHBORS} if not given",
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
    of_images = {
        "--gallery": options.gallery,
        "--false_accept_rate": options.false_accept_rate,
        "--neighbors": options.neighbors,
    }
    for name, value in of_images.items():
        if value is not None and options.pair:
            raise UserError(f"{name} does not go with --pair, which has a threshold of its own; leave one of them out")
    output = options.output
    if output and (output.suffix != ".npy" or output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"{output}: expected --output to be the name of a .npy file in a folder that is there")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
