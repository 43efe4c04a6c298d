"""Tries the parameters that search.json in --parent_dir varies, and compares them by the validation images."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from pathlib import Path

from model.common import cli
from model.studies.search import Search


def main(options: argparse.Namespace) -> None:
    """Runs every trial that is not finished, then shows them all."""
    search = Search(options.parent_dir, options.seeds, options.data_dir, options.where_images_lie)
    if options.dry_run:
        print(search.describe())
        return
    search.check_data()
    cli.start_log(options.parent_dir / "search.log")
    search.run(options.jobs)
    print(search.describe_scores())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument(
        "--parent_dir",
        type=Path,
        default=Path("experiments/learning_rate"),
        help="folder with params.json and search.json",
    )
    cli.add_data_options(parser)
    parser.add_argument("--jobs", type=cli.whole_number(1), default=1, help="trials at once")
    parser.add_argument(
        "--seeds", type=cli.whole_number(1), default=1, help="runs of each trial, each with another seed"
    )
    parser.add_argument("--dry_run", action="store_true", help="list the trials and what became of them, run nothing")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options, of_an_experiment=False)
