"""Exports the network of the experiment in --model_dir, or its gallery, for programs that know nothing of this one."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
from pathlib import Path

from model.common import cli
from model.common.text import printable
from model.exports import export as exports
from model.start import start


def main(options: argparse.Namespace) -> None:
    """Checks what is needed, writes, compares, and says where."""
    folder = exports.folder_for(options.model_dir, options.format, options.output_dir)
    trained = start(options.model_dir, options.data_dir, images=options.where_images_lie).trained(options.checkpoint)
    exported = exports.export(trained, options.format, folder)
    print(exported.report)
    print("Written:", *(printable(str(path)) for path in exported.files), sep="\n  ")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    cli.add_checkpoint_option(parser)
    parser.add_argument(
        "--format",
        choices=exports.FORMATS,
        required=True,
        help="saved_model, litert, onnx: the network; embeddings: all training images, embedded; docs/export.md",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where to write, MODEL_DIR/export/FORMAT if not given; an earlier export there is replaced",
    )


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
