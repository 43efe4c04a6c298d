"""What `--format` can name: how a network or its gallery is written, and by which program what was written is read.

A form of one's own is two functions and one entry in `FORMATS`. Nothing here needs TensorFlow: functions are fetched
when they are called.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.common.errors import UserError
from model.common.images import Images

# (images of a split, indices among them (n,)) -> their embeddings, (n, D) float32, by what was written.
Embed = Callable[[Images, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """A form in which a network, or what it says of the gallery, leaves.

    Attributes:
        title: What the README is headed with.
        write: Called with a `Trained` and an empty folder, which it fills.
        read: From that folder to what the program says that it is for.
        compared: Of which images embeddings are compared with the network's own.
        packages: What is needed beside requirements.txt: the name to import, and the one for pip.
    """

    title: str
    write: Callable[[Any, Path], None]
    read: Callable[[Path], Embed]
    compared: Literal["test", "train"] = "test"
    packages: Mapping[str, str] = field(default_factory=dict)

    def check_packages(self, name: str) -> None:
        """Makes sure that all packages are there.

        Args:
            name: What `FORMATS` calls this.

        Raises:
            UserError: Some are not.
        """
        missing = [pip for module, pip in self.packages.items() if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(
                f"--format {name}: needs {' and '.join(missing)}, which requirements.txt leaves out; install by: "
                f"pip install {' '.join(missing)}"
            )


def _networks() -> Any:
    from model.exports import networks  # which imports TensorFlow

    return networks


def _of_some(run: Callable[[np.ndarray], np.ndarray]) -> Embed:
    return lambda images, indices: run(images[indices])


def _write_gallery(trained: Any, folder: Path) -> None:
    from model.exports import gallery

    data = trained.experiment.data
    labels = [data.class_names[label] for label in data.train.labels.tolist()]
    gallery.write(folder, trained.embed(data.train.images), data.train.names, labels)


def _read_gallery(folder: Path) -> Embed:
    from model.exports import gallery

    embeddings = gallery.read(folder)
    return lambda images, indices: embeddings[indices]


FORMATS: dict[str, Format] = {
    "saved_model": Format(
        "SavedModel of TensorFlow",
        lambda trained, folder: _networks().write_saved_model(trained.export_saved_model, folder),
        lambda folder: _of_some(_networks().read_saved_model(folder)),
    ),
    "litert": Format(
        "LiteRT (TensorFlow Lite)",
        lambda trained, folder: _networks().write_litert(trained.serving_network(), folder),
        lambda folder: _of_some(_networks().read_litert(folder)),
        packages={"ai_edge_litert": "ai-edge-litert"},
    ),
    "onnx": Format(
        "ONNX",
        lambda trained, folder: _networks().write_onnx(trained.serving_network(), folder),
        lambda folder: _of_some(_networks().read_onnx(folder)),
        packages={"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"},
    ),
    "embeddings": Format("the gallery: embeddings of all training images", _write_gallery, _read_gallery, "train"),
}
