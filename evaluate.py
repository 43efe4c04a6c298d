"""Scores a checkpoint of the experiment in --model_dir on the test images."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse

from model.common import cli
from model.start import start


def main(options: argparse.Namespace) -> None:
    """Evaluates and reports."""
    trained = start(options.model_dir, options.data_dir, images=options.where_images_lie).trained(options.checkpoint)
    print(trained.report(trained.evaluate(options.baselines)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    cli.add_checkpoint_option(parser)
    parser.add_argument("--baselines", action="store_true", help="also score raw pixels, PCA and the untrained network")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
