"""Compares the experiments in a folder: what differs, what they reach over their seeds, which one is better."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from collections.abc import Sequence
from pathlib import Path

from model.common import cli
from model.common.errors import UserError
from model.studies import comparison
from model.studies.runs import Pool, find_runs, pool_runs


def main(options: argparse.Namespace) -> None:
    """Prints a table and, where people read it, what there is to know about it."""
    runs = find_runs(options.folder, "validation.json" if options.validation else "metrics.json")
    pools = pool_runs(runs, options.folder)
    against = None if options.against is None else _find(pools, options.folder, options.against)
    rows = comparison.tabulate(pools, options.metrics, against)
    rows = comparison.sort(rows, options.sort or options.metrics[0], options.metrics[0], options.reverse)
    print(comparison.show(pools, rows, options.metrics, options.format), end="")


def _find(pools: Sequence[Pool], folder: Path, name: str) -> Pool:
    """Returns the experiment of this name, or with a run in the folder of this name."""
    for pool in pools:
        if pool.name == name or any(run.folder == folder / name for run in pool.runs):
            return pool
    known = ", ".join(pool.name for pool in pools)
    raise UserError(f"--against {name}: no such experiment; there are {known}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("experiments"), help="where the experiments lie")
    parser.add_argument("--metrics", nargs="+", default=[*comparison.DEFAULT_METRICS], metavar="METRIC", help="columns")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="by which column, the best first; by the first metric if not given"
    )
    parser.add_argument("--reverse", action="store_true", help="the best last")
    parser.add_argument("--against", metavar="EXPERIMENT", help="compare all others with this one, seed by seed")
    parser.add_argument("--validation", action="store_true", help="what a search measured")
    parser.add_argument("--format", choices=comparison.FORMATS, default="terminal")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options, of_an_experiment=False)
