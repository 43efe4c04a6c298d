"""Makes what there is to see of the experiment in --model_dir: the Projector's files, pictures, a report."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from pathlib import Path

from model.common import cli
from model.common.commands import tensorboard_command
from model.common.text import printable
from model.start import start


def main(options: argparse.Namespace) -> None:
    """Draws, writes, and says where."""
    trained = start(options.model_dir, options.data_dir, images=options.where_images_lie).trained(options.checkpoint)

    from model.pictures.visualize import visualize  # after TensorFlow has been started

    written = visualize(
        trained,
        split=options.split,
        num_images=options.num_images,
        output_dir=options.output_dir,
        animate=options.animate,
        use_tsne=not options.no_tsne,
    )
    print("Written:", *(printable(str(path)) for path in written), sep="\n  ")
    print(f"\nProjector and curves: {printable(tensorboard_command(options.output_dir or options.model_dir.parent))}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    cli.add_checkpoint_option(parser)
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which images to show")
    parser.add_argument(
        "--num_images",
        type=cli.whole_number(2, 100_000),
        default=10_000,
        help="show at most so many, a stratified sample",
    )
    parser.add_argument("--output_dir", type=Path, help="where to write, MODEL_DIR/eval if not given")
    parser.add_argument("--no_tsne", action="store_true", help="place the images by PCA, in a second, and not by t-SNE")
    parser.add_argument("--animate", action="store_true", help="also draw how they moved, checkpoint by checkpoint")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
