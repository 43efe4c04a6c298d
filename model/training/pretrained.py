"""Weights that a network begins with: which file holds them, whether it is the right one, and how they are loaded.

A `.weights.h5` of Keras is read by position. One of another network mostly fails, but one in which a bit has flipped,
or in which layers of equal shapes have changed places, loads without a word. So a file has to have the SHA-256 that
`params.json` tells, and the layers in it the names of those that they are loaded into.

A run reads the file when it begins; afterwards its checkpoints hold all that is needed.
"""

import hashlib
import logging
import os
import re
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import h5py
import keras

from model.common.errors import UserError, one_line
from model.common.files import write_whole
from model.networks.entries import NETWORKS, WeightsFile
from model.params import Params
from model.training.network import build_features, names_of_layers

_log = logging.getLogger(__name__)

_NETWORK_SECONDS = 4.0  # within which the server has to answer, and each further part to come
_PART = 2**20  # bytes


def find(params: Params, place: Path) -> Path | None:
    """Returns the file of the weights that `params.weights` asks for, once its digest was found right.

    Args:
        params: The experiment.
        place: Its `params.json`, for messages.

    Returns:
        The file, None for random weights. Those of ImageNet are downloaded unless they are there.

    Raises:
        UserError: It is not there, is another file than it should be, or cannot be downloaded.
    """
    if params.weights is None:
        return None
    offered = NETWORKS[params.network].imagenet
    if params.weights == "imagenet" and offered is not None:
        return _of_imagenet(offered)
    path = Path(params.weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"{place}: 'weights' is {params.weights!r}, and there is no such file in {Path.cwd()}; name one by its "
            "whole path, or as seen from the folder in which the command is started"
        )
    digest = _digest(path, "sha256")
    if params.weights_sha256 is None:
        raise UserError(
            f"{place}: 'weights_sha256' is missing, by which a damaged or exchanged file is noticed; if {path} is the "
            f'right one, add "weights_sha256": "{digest}"'
        )
    if digest != params.weights_sha256:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, expected {params.weights_sha256} as 'weights_sha256' in {place} says; "
            "bring back the file, or change the key if it was exchanged on purpose"
        )
    return path


def load(network: keras.Model, params: Params, place: Path) -> None:
    """Gives all layers of a network but the last their weights from the file that `find` finds, if it is to have any.

    Args:
        network: As `build_network` makes it.
        params: The experiment.
        place: Its `params.json`, for messages.

    Raises:
        UserError: As `find`; or what is in the file are not weights of this network.
    """
    path = find(params, place)
    if path is None:
        return
    plain = build_features(params, network.input_shape[1:])
    try:
        with h5py.File(path, "r") as file:
            _check_names(file, plain)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of layers that the file has nothing for
            plain.load_weights(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, UserWarning) as error:
        raise UserError(
            f"{path}: no weights of the network {params.network} without its top: {one_line(error)}; take those of "
            "the model that include_top=False gives, or set another 'network'"
        ) from None
    for name, ours in names_of_layers(plain).items():
        if weights := plain.get_layer(name).get_weights():
            network.get_layer(ours).set_weights(weights)
    _log.info("The network begins with the weights of %s.", path)


def _check_names(file: h5py.File, plain: keras.Model) -> None:
    """Finds layers of other names in the places of those of a model; older files hold no names by place."""
    if "layers" not in file:
        return
    there: dict[str, list[str]] = {}
    for layer in plain.layers:
        there.setdefault(type(layer).__name__.lower(), []).append(_without_number(layer.name))
    for place, group in file["layers"].items():
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", place).groups()  # type: ignore[union-attr] # matches anything
        names = there.get(kind.replace("_", ""), [])
        found, index = group["vars"].attrs.get("name") if "vars" in group else None, int(number or 0)
        if isinstance(found, str) and len(group["vars"]):
            expected = names[index] if index < len(names) else None
            if expected is None or _without_number(found) != expected:
                raise ValueError(f"it holds the layer {found!r} in the place of {expected!r}")


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _of_imagenet(offered: WeightsFile) -> Path:
    """Returns Keras' own file, where Keras keeps it, and puts it there if need be."""
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    path = folder / offered.name
    if path.exists():
        if not _is_right(path, offered):
            raise UserError(
                f"{path}: damaged, or another version: its digest is not {offered.digest}; delete it, then it is "
                f"downloaded again from {offered.url}"
            )
        return path
    _log.info("Downloading %s.", offered.url)
    try:
        content = _download(offered.url)
    except (OSError, ValueError) as error:  # what urllib and sockets raise, timeouts among them
        raise UserError(
            f"{path}: not there, and cannot be downloaded ({one_line(error)}); where there is a network, download "
            f"{offered.url}, and put it into {folder}"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    if not _is_right(path, offered):
        path.unlink()
        raise UserError(f"{offered.url}: what came is not what was expected, by its digest {offered.digest}; try again")
    return path


def _download(url: str) -> bytes:
    """Returns what is at an address that begins with https; an OSError if the network is silent for some seconds."""
    parts = []
    with urllib.request.urlopen(url, timeout=_NETWORK_SECONDS) as answer:
        while part := answer.read(_PART):
            parts.append(part)
        expected = answer.headers.get("Content-Length")
    content = b"".join(parts)
    if expected is not None and len(content) != int(expected):
        raise OSError(f"{len(content)} of {expected} bytes came")
    return content


def _is_right(path: Path, offered: WeightsFile) -> bool:
    if not offered.digest:
        return True
    return _digest(path, "md5" if len(offered.digest) == 32 else "sha256") == offered.digest


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
