"""Says which labels of the images of the experiment in --model_dir are probably wrong."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
import functools

from model.common import cli
from model.common.errors import UserError
from model.common.text import printable
from model.start import start
from model.studies import audit

# Where nobody says something else.
_FOLDS, _EXCLUDE_BELOW = 5, 0.5


def main(options: argparse.Namespace) -> None:
    """Trains the folds, judges all labels, and writes what came of it."""
    _check(options)
    num_folds = options.folds or _FOLDS
    exclude_below = _EXCLUDE_BELOW if options.exclude_below is None else options.exclude_below
    model_dir, images = options.model_dir, options.where_images_lie
    runner = start(model_dir, options.data_dir, images=images)
    data, params = runner.experiment.data, runner.experiment.params
    audit.check(model_dir, params)
    trained = runner.trained(options.checkpoint) if "test" in options.splits else None  # before hours of training
    audited = {}
    if "train" in options.splits:
        with audit.alone(model_dir, num_folds):
            folds = audit.prepare(model_dir, params, data.train.labels, num_folds, data.exclusion_list)
            audit.train(folds, options.data_dir, images)
        open_fold = functools.partial(runner.trained_beside, images=images)
        audited["train"] = audit.judge_held_out(folds, data.train, open_fold, options.neighbors)
    if trained is not None:
        audited["test"] = [audit.judge_by(trained, data.test, options.neighbors)]

    from model.pictures import contact_sheet  # which imports Pillow

    written = []
    for split, judged in audited.items():
        rows = audit.doubted_rows(judged, data.class_names, options.num_images)
        sheet = contact_sheet.draw_png(rows, _TITLE) if rows else None
        written += audit.write(model_dir, split, judged, data.class_names, sheet)
        print(f"{audit.describe(judged, split)}.")
    if "train" in audited and exclude_below != "off":
        written.append(audit.write_exclusions(model_dir, audited["train"], exclude_below, data.exclusion_list))
    print("Written:", *(printable(str(path)) for path in written), sep="\n  ")


# Above each contact sheet, in lines as wide as one row of it.
_TITLE = """Labels that are doubted, most suspicious first: label, what the neighbours say
instead, score (0 to 1). Beside each its three nearest images, with their distance."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    cli.add_checkpoint_option(parser)
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "test"),
        default=["train", "test"],
        help="whose labels: training images, by a network for each fold; test images, by the checkpoint",
    )
    parser.add_argument(
        "--folds",
        type=cli.whole_number(2, 100),
        metavar="N",
        help="deal the training images into so many folds, each judged by a network that learns from all others; "
        f"{_FOLDS} if not given",
    )
    parser.add_argument(
        "--neighbors", type=cli.whole_number(1, 100), default=10, metavar="K", help="neighbours that vote"
    )
    parser.add_argument(
        "--exclude_below",
        type=cli.fraction_or_off,
        metavar="SCORE",
        help="audit/exclude.txt lists training images with a lower score, for exclude_images in params.json; or off; "
        f"{_EXCLUDE_BELOW} if not given",
    )
    parser.add_argument(
        "--num_images", type=cli.whole_number(1, 1000), default=60, help="most images of a contact sheet"
    )


def _check(options: argparse.Namespace) -> None:
    of_a_split = {
        "train": {"--folds": options.folds, "--exclude_below": options.exclude_below},
        "test": {"--checkpoint": options.checkpoint},
    }
    for split, values in of_a_split.items():
        alone = [name for name, value in values.items() if value is not None]
        if alone and split not in options.splits:
            raise UserError(f"{' and '.join(alone)}: only with {split} in --splits; add it, or leave this out")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
