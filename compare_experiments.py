"""Compares the experiments in a folder: what differs, what they reach over their seeds, which one is better."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from pathlib import Path

from model.common import cli
from model.studies import comparison


def main(options: argparse.Namespace) -> None:
    """Prints a table and, where people read it, what there is to know about it."""
    pools = comparison.find_pools(options.folder, "validation.json" if options.validation else "metrics.json")
    against = None if options.against is None else comparison.choose(pools, options.folder, options.against)
    rows = comparison.tabulate(pools, options.metrics, against)
    rows = comparison.sort(rows, options.sort or options.metrics[0], options.metrics[0], options.reverse)
    print(comparison.show(pools, rows, options.metrics, options.format), end="")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("experiments"), help="where the experiments lie")
    parser.add_argument("--metrics", nargs="+", default=[*comparison.DEFAULT_METRICS], metavar="METRIC", help="columns")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="by which column, the best first; by the first metric if not given"
    )
    parser.add_argument("--reverse", action="store_true", help="the best last")
    parser.add_argument("--against", metavar="EXPERIMENT", help="compare all others with this one, seed by seed")
    parser.add_argument(
        "--validation", action="store_true", help="compare by validation.json, the scores of validation images"
    )
    parser.add_argument(
        "--format", choices=comparison.FORMATS, default="terminal", help="csv and json, for programs, do not round"
    )


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options, of_an_experiment=False)
