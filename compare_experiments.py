"""Compares the experiments in a folder: what differs, what they reach over their seeds, which one is better."""

import argparse
import shutil
from pathlib import Path

from model.common import cli
from model.common.errors import UserError
from model.scoring.protocol import HEADLINES
from model.studies import comparison, table
from model.studies.runs import find_runs, pool_runs


def main(options: argparse.Namespace) -> None:
    """Prints a table and, where people read it, what there is to know about it."""
    runs = find_runs(options.folder, "validation.json" if options.validation else "metrics.json")
    pools = pool_runs(runs, options.folder)
    against = None
    if options.against is not None:
        folder = options.folder / options.against
        found = (
            pool for pool in pools if pool.name == options.against or any(run.folder == folder for run in pool.runs)
        )
        against = next(found, None)
        if against is None:
            known = ", ".join(pool.name for pool in pools)
            raise UserError(f"--against {options.against}: no such experiment; there are {known}")
    rows = comparison.tabulate(pools, options.metrics, against)
    rows = comparison.sort(rows, options.sort or options.metrics[0], options.metrics[0], options.reverse)
    if options.format in ("csv", "json"):
        print({"csv": table.to_csv, "json": table.to_json}[options.format](rows), end="")
        return
    described, notes = comparison.describe(pools, rows, options.metrics)
    if options.format == "markdown":
        print(table.to_markdown(described), *(f"{note}\n" for note in notes), sep="\n", end="")
    else:
        differences = [(row["experiment"], row.pop(comparison.DIFFERENCES)) for row in described]
        print(table.to_terminal(described, shutil.get_terminal_size().columns))
        print(*(f"{name} differs from the defaults in {what}." for name, what in differences if what), *notes, sep="\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("experiments"), help="where the experiments lie")
    parser.add_argument("--metrics", nargs="+", default=list(HEADLINES), metavar="METRIC", help="columns")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="by which column, the best first; by the first metric if not given"
    )
    parser.add_argument("--reverse", action="store_true", help="the best last")
    parser.add_argument("--against", metavar="EXPERIMENT", help="compare all others with this one, seed by seed")
    parser.add_argument("--validation", action="store_true", help="what a search measured")
    parser.add_argument("--format", choices=["terminal", "markdown", "csv", "json"], default="terminal")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options, of_an_experiment=False)
