"""What the cores can do: the highest rate of plain matrix products and convolutions, by TensorFlow or PyTorch."""

import time
from collections.abc import Callable

_SECONDS = 1.0

# Channels, rows and images of a convolution of 3 x 3, as networks for small images have them; the fastest counts.
_CONVOLUTIONS = ((32, 28, 64), (64, 14, 256), (128, 14, 64), (256, 7, 256))
_SIZES = (1024, 2048, 4096)


def limits() -> dict[str, tuple[float, float]]:
    """Returns, by precision, operations a second of the best matrix product and of the best convolution."""
    return {precision: (_products(precision), _convolutions(precision)) for precision in ("float32", "bfloat16")}


def _products(precision: str) -> float:
    import tensorflow as tf
    import torch

    best = 0.0
    for size in _SIZES:
        left = tf.cast(tf.random.normal((size, size)), precision)
        product = tf.function(tf.matmul)
        best = max(best, 2 * size**3 * _rate(lambda: product(left, left)))  # noqa: B023
        tensor = torch.randn(size, size).to(getattr(torch, precision))
        best = max(best, 2 * size**3 * _rate(lambda: tensor @ tensor))  # noqa: B023
    return best


def _convolutions(precision: str) -> float:
    import tensorflow as tf
    import torch

    best = 0.0
    for channels, side, number in _CONVOLUTIONS:
        operations = 2 * 9 * channels**2 * side**2 * number
        images = tf.cast(tf.random.normal((number, side, side, channels)), precision)
        filters = tf.cast(tf.random.normal((3, 3, channels, channels)), precision)
        convolution = tf.function(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"))
        best = max(best, operations * _rate(lambda: convolution(images, filters)))  # noqa: B023
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(getattr(torch, precision))
        layer = layer.to(memory_format=torch.channels_last)
        inputs = torch.randn(number, channels, side, side).to(getattr(torch, precision))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            best = max(best, operations * _rate(lambda: layer(inputs)))  # noqa: B023
    return best


def _rate(call: Callable[[], object]) -> float:
    """Returns calls a second, of the fastest of some."""
    call()
    fastest, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - started)
    return 1 / fastest
