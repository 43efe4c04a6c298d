"""Tries the parameters that search.json in --parent_dir varies, and compares them by the validation images."""

import argparse
import math
import shutil
from pathlib import Path

from model.common import cli
from model.scoring.protocol import HEADLINES
from model.studies import comparison, table
from model.studies.runs import pool_runs, read_run
from model.studies.search import Search, State


def main(options: argparse.Namespace) -> None:
    """Runs every trial that is not finished, then shows them all."""
    search = Search(options.parent_dir, options.seeds, options.data_dir)
    if options.dry_run:
        print(search.describe())
        return
    search.check_data()
    cli.start_log(options.parent_dir / "search.log")
    search.run(options.jobs)
    runs = [read_run(folder / "validation.json") for folder in sorted(search.finished_runs())]
    pools = pool_runs(runs, options.parent_dir)
    metrics = [search.metric, *(name for name in HEADLINES if name != search.metric)]
    rows = comparison.sort(comparison.tabulate(pools, metrics), search.metric, search.metric)
    described, notes = comparison.describe(pools, rows, metrics)
    for row in described:
        del row[comparison.DIFFERENCES]  # the name says it
    print(table.to_terminal(described, shutil.get_terminal_size().columns))
    print("\n".join(notes))
    best = next(pool for pool in pools if pool.name == rows[0]["experiment"])
    for state, what in (
        (State.FAILED, "broke down"), (State.PRUNED, "ended early"), (State.BEGUN, "stopped before the end"),
    ):  # fmt: skip
        names = [folder.name for folder, states in search.states().items() if state in states]
        if names:
            print(f"{len(names)} {what}: {'; '.join(names)}.")
    low, high = comparison.interval(best, search.metric)
    interval = "too few seeds for an interval" if math.isnan(low) else f"95 % interval {low:.4f} to {high:.4f}"
    print(f"Best: {best.name}, {search.metric} {rows[0][search.metric]:.4f}, {interval}.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument(
        "--parent_dir",
        type=Path,
        default=Path("experiments/learning_rate"),
        help="folder with params.json and search.json",
    )
    cli.add_data_option(parser)
    parser.add_argument("--jobs", type=cli.positive_int, default=1, help="trials at once")
    parser.add_argument("--seeds", type=cli.positive_int, default=1, help="runs of each trial, each with another seed")
    parser.add_argument("--dry_run", action="store_true", help="list the trials and what became of them, run nothing")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options, of_an_experiment=False)
