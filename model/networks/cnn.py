"""The convolutional network of this project's first days: blocks of 3x3 convolutions, written in plain Keras."""

import keras


def cnn(
    images: keras.KerasTensor,
    *,
    seed: int,
    num_channels: int,
    num_blocks: int,
    convolutions_per_block: int,
    use_batch_norm: bool,
    pooling: str,
) -> keras.KerasTensor:
    """Returns the features of images.

    `num_blocks` blocks, each of `convolutions_per_block` times 3x3 convolution, optional batch normalization and ReLU,
    then 2x2 max pooling; `num_channels` channels in the first block and twice as many in each further one. Pooling
    keeps the last row and column of odd sizes, so images of any size fit.

    Args:
        images: (B, H, W, C), in [0, 1].
        seed: Decides the initial weights.
        num_channels: Channels of the first block.
        num_blocks: Blocks; each halves the height and width.
        convolutions_per_block: Convolutions of a block, one after the other.
        use_batch_norm: Whether there is batch normalization between convolution and ReLU.
        pooling: "flatten", every number that the last block puts out, or "average", their mean in each channel.

    Returns:
        (B, F).

    Example:
        >>> blocks = dict(num_channels=32, num_blocks=2, convolutions_per_block=1, use_batch_norm=False)
        >>> features = cnn(keras.Input((28, 28, 1)), seed=230, pooling="flatten", **blocks)
        >>> features.shape  # two blocks leave 7 x 7 pixels of 64 channels
        (None, 3136)
    """
    layers = keras.layers
    outputs = images
    for block in range(1, num_blocks + 1):
        channels = num_channels * 2 ** (block - 1)
        for convolution in range(1, convolutions_per_block + 1):
            number = f"_{convolution}" if convolution > 1 else ""
            initializer = keras.initializers.GlorotUniform(seed=seed + block + 100 * (convolution - 1))
            name = f"block_{block}_conv{number}"
            outputs = layers.Conv2D(channels, 3, padding="same", kernel_initializer=initializer, name=name)(outputs)
            if use_batch_norm:
                outputs = layers.BatchNormalization(name=f"block_{block}_norm{number}")(outputs)
            outputs = layers.ReLU(name=f"block_{block}_relu{number}")(outputs)
        outputs = layers.MaxPool2D(2, padding="same", name=f"block_{block}_pool")(outputs)
    if pooling == "average":
        return layers.GlobalAveragePooling2D(dtype="float32", name="average_pool")(outputs)
    return layers.Flatten(name="flatten")(outputs)


def size_of_cnn(
    image_shape: tuple[int, int, int],
    *,
    num_channels: int,
    num_blocks: int,
    convolutions_per_block: int,
    use_batch_norm: bool,
    pooling: str,
) -> tuple[int, int, int]:
    """Returns the weights, the numbers that all layers put out for an image, and the features of such a network.

    Example:
        >>> blocks = dict(num_channels=2, num_blocks=1, convolutions_per_block=1, use_batch_norm=False)
        >>> size_of_cnn((4, 4, 1), pooling="average", **blocks)  # (9 + 1) * 2 weights; outputs 16 + 32 + 32 + 8 + 2
        (20, 90, 2)
    """
    height, width, channels = image_shape
    weights, outputs = 0, height * width * channels
    for block in range(num_blocks):
        of_block = num_channels * 2**block
        for _ in range(convolutions_per_block):
            weights += (9 * channels + 1 + 2 * use_batch_norm) * of_block
            outputs += (2 + use_batch_norm) * height * width * of_block  # convolution, normalization, ReLU
            channels = of_block
        height, width = -(-height // 2), -(-width // 2)
        outputs += height * width * channels
    features = channels if pooling == "average" else height * width * channels
    return weights, outputs + features, features
