"""The network in the forms that other programs run: written by Keras' exporters, read by these programs' own libraries.

Each takes uint8 images (N, H, W, C), N free, and gives float32 embeddings (N, D) under the name "embeddings". What is
written is a `ServingNetwork` of `model/training`.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# (N, H, W, C) uint8 -> (N, D) float32.
Run = Callable[[np.ndarray], np.ndarray]

# TensorFlow Serving takes a folder with a number for a version.
SAVED_MODEL, LITERT, ONNX = "1", "model.tflite", "model.onnx"


def write_saved_model(export: Callable[[Path], Path], folder: Path) -> None:
    """Writes a SavedModel by `Estimator.export_saved_model`; it also takes float32 images, of whole numbers."""
    export(folder).rename(folder / SAVED_MODEL)


def read_saved_model(folder: Path) -> Run:
    """Returns what TensorFlow computes by it."""
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    return lambda images: loaded.serve(tf.constant(images))["embeddings"].numpy()


def write_litert(network: keras.Model, folder: Path) -> None:
    """Writes a LiteRT model of its own operations alone: those of TensorFlow, which Keras allows, it does not run."""
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    path, signature = folder / LITERT, list(network.signature)
    network.export(path, format="litert", input_signature=signature, verbose=False, target_spec=builtins)


def read_litert(folder: Path) -> Run:
    """Returns what LiteRT computes by it."""
    from ai_edge_litert.interpreter import Interpreter  # optional

    run = Interpreter(str(folder / LITERT)).get_signature_runner()
    return lambda images: run(images=images)["embeddings"]


def write_onnx(network: keras.Model, folder: Path) -> None:
    """Writes an ONNX model."""
    network.export(folder / ONNX, format="onnx", input_signature=list(network.signature), verbose=False)


def read_onnx(folder: Path) -> Run:
    """Returns what ONNX Runtime computes by it, on the CPU."""
    import onnxruntime  # optional

    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["embeddings"], {"images": images})[0]
