"""Scores a checkpoint of the experiment in --model_dir on the test images, or as published protocols ask."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from pathlib import Path

from model.common import cli
from model.common.errors import UserError
from model.start import start


def main(options: argparse.Namespace) -> None:
    """Evaluates and reports."""
    _check(options)

    from model.scoring import unseen_classes  # after the quick checks

    protocol = unseen_classes.choose(
        options.one_shot,
        options.pairs,
        options.episodes,
        num_episodes=options.num_episodes or unseen_classes.NUM_EPISODES,
        num_queries=options.num_queries or unseen_classes.NUM_QUERIES,
        within_parents=options.within_parents,
    )
    trained = start(options.model_dir, options.data_dir, images=options.where_images_lie).trained(options.checkpoint)
    if protocol is None:
        print(trained.report(trained.evaluate(options.baselines)))
    else:
        print(trained.measure(protocol(trained.experiment.partition, trained.params), options.baselines))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    cli.add_checkpoint_option(parser)
    parser.add_argument("--baselines", action="store_true", help="also score raw pixels, PCA and the untrained network")
    alone = parser.add_argument_group(
        "classes never seen", "one of the first three, which is then all that is measured; docs/unseen-classes.md"
    )
    alone.add_argument(
        "--one_shot", type=Path, metavar="FOLDER", help="one-shot classification in the runs of a folder"
    )
    alone.add_argument("--pairs", type=Path, metavar="FILE.csv", help="verification of the pairs that a file lists")
    alone.add_argument(
        "--episodes", nargs="+", metavar="NxK", help="episodes of N classes with K images of each: 5x1 20x1"
    )
    alone.add_argument("--num_episodes", type=cli.whole_number(2, 1_000_000), help="how many, 1,000 if not given")
    alone.add_argument(
        "--num_queries", type=cli.whole_number(1, 10_000), help="at most so many of a class, 15 if not given"
    )
    alone.add_argument("--within_parents", action="store_true", help="the classes of an episode are below one parent")


def _check(options: argparse.Namespace) -> None:
    protocols = {"--one_shot": options.one_shot, "--pairs": options.pairs, "--episodes": options.episodes}
    chosen = [name for name, value in protocols.items() if value is not None]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} do not go together; measure one after the other")
    of_episodes = {
        "--num_episodes": options.num_episodes,
        "--num_queries": options.num_queries,
        "--within_parents": options.within_parents,
    }
    alone = [name for name, value in of_episodes.items() if value]
    if alone and options.episodes is None:
        raise UserError(f"{' and '.join(alone)}: only with --episodes; add it, such as --episodes 5x1 20x1")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
