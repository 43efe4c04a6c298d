"""What the processes of a run agree on: one learner at the start, and what the chief finds out on the way."""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.common.errors import PeerLost, one_line
from model.common.peers import Peers
from model.training.checkpoints import Checkpoint
from model.training.learner import Learner
from model.training.run_state import RunState

# What TensorFlow says in one process when another one is gone.
_BROKEN_COLLECTIVES = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def begin_alike(peers: Peers, learner: Learner, path: Path) -> None:
    """Gives all processes the learner of the chief: all that a checkpoint holds.

    It is sent, and not read from the folder: that need not be the same on all machines, or not at the same moment.

    Args:
        peers: The processes.
        learner: Of this process, whose variables were made by all at once.
        path: What to call a checkpoint that cannot be taken over.

    Raises:
        UserError: A process has another step or other weights nevertheless.
    """
    if peers.number == 1:
        return
    content = peers.share(_pack(learner.tensors()) if peers.is_chief else b"")
    if not peers.is_chief:
        learner.restore(Checkpoint(path, _unpack(content)))
    facts = {
        "the step": str(learner.state.global_step),
        "the digest of the weights": hashlib.sha256(_pack(learner.tensors())).hexdigest(),
    }
    peers.compare(facts, "start all processes again")


def state_of_chief(peers: Peers, state: RunState) -> RunState:
    """Returns the state of the run as the chief has it, as after an evaluation."""
    content = peers.share(json.dumps(dataclasses.asdict(state)).encode())
    return state if peers.is_chief else RunState(**json.loads(content))


def computed_by_chief(peers: Peers, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns what the chief computes, in every process: other processors may round in another way.

    Args:
        peers: The processes.
        compute: Returns int32 numbers.

    Returns:
        (N,) int32.
    """
    content = compute().astype(np.int32).tobytes() if peers.is_chief else b""
    return np.frombuffer(peers.share(content), np.int32)


@contextlib.contextmanager
def naming_the_lost(peers: Peers) -> Iterator[None]:
    """Lets a process that is lost be named, where all that TensorFlow says is that its collectives broke.

    Raises:
        PeerLost: None is lost, and yet they broke.
    """
    try:
        yield
    except _BROKEN_COLLECTIVES as error:
        if peers.number == 1:
            raise
        peers.wait_for_loss()  # which ends this process
        raise PeerLost(f"the processes could not reduce a step together: {one_line(error)}") from None


def _pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns tensors by name as bytes, the same for the same."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{name: tensors[name] for name in sorted(tensors)})
    return content.getvalue()


def _unpack(content: bytes) -> dict[str, np.ndarray]:
    """Returns what `_pack` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as tensors:
        return dict(tensors)
