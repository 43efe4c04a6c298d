"""How TensorFlow is told of the other machines: one strategy for all, without what TensorFlow would watch over them."""

import os
from typing import TYPE_CHECKING

from model.common.cluster import Cluster

if TYPE_CHECKING:
    import tensorflow as tf


def silence_tensorflow() -> None:
    """Keeps TensorFlow from telling in many lines what `Peers` tells in one; before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # nothing but what ends the process


def num_devices() -> int:
    """Returns how many devices of this machine train: all GPUs, or one CPU."""
    import tensorflow as tf

    return max(1, len(tf.config.list_physical_devices("GPU")))


def share_among(cluster: Cluster) -> "tf.distribute.Strategy":
    """Returns what spreads a training step over the devices of all machines: all GPUs of each, or one CPU.

    To be called by all processes at once, and before anything was computed. It waits until all are there.

    Args:
        cluster: The processes; each has as many devices.
    """
    import tensorflow as tf
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
    from tensorflow.python.eager import context

    # Where nothing is set, TensorFlow starts its own service that looks after the processes. While that waits, for an
    # hour where a process does not come, it holds all threads of Python, and it takes SIGTERM for itself.
    context.context().configure_coordination_service(service_type="")
    # The thread that looks after them instead holds all threads of Python, too, for half a minute if one is frozen.
    CollectiveAllReduceExtended._enable_check_health = False
    tf.get_logger().setLevel("ERROR")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
