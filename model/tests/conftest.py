"""Starts TensorFlow as the command lines do, with two logical CPUs so that a strategy can be tested on them."""

from model import hardware

hardware.start_tensorflow()

import tensorflow as tf  # noqa: E402

_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
