"""What is trained side by side, and the arithmetic of it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from model.params import Params

ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    """A network and the size of its batches.

    Attributes:
        experiment: A folder of `experiments/`, with batch all as its loss.
        batch_size: Images of a batch, which are P x K where those of the experiment are.
    """

    experiment: str
    batch_size: int

    @property
    def arguments(self) -> list[str]:
        """It as a command line."""
        return ["--experiment", self.experiment, "--batch_size", str(self.batch_size)]

    def params(self, **changes: Any) -> Params:
        """Returns the parameters of the experiment with batches of this size.

        Args:
            changes: Others that differ.
        """
        content = json.loads((ROOT / "experiments" / self.experiment / "params.json").read_text())
        content.pop("$schema", None)
        content["batch_size"] = self.batch_size
        if "num_classes_per_batch" in content:
            classes = max(p for p in range(2, 11) if self.batch_size % p == 0)
            content |= {"num_classes_per_batch": classes, "num_images_per_class": self.batch_size // classes}
        params = Params(**content | changes)
        if params.triplet_strategy != "batch_all":
            raise ValueError(f"Expected an experiment with batch_all. Received: {self.experiment}")
        return params


def sides(params: Params, side: int = 28) -> list[int]:
    """Returns the height of what each block of the network sees, and last that of what it flattens."""
    heights = [side]
    for _ in range(params.num_blocks):
        heights.append(-(-heights[-1] // 2))
    return heights


def operations_of_a_step(params: Params) -> float:
    """Returns the multiplications and additions of convolutions and the dense layer in a step, forward and back.

    Forward, the gradient of the weights and that of the input are as much each; the first layer needs no gradient of
    its input. All else is as nothing beside it.
    """
    heights, channels, first, total = sides(params), 1, True, 0
    for block in range(params.num_blocks):
        of_block = params.num_channels * 2**block
        for _ in range(params.convolutions_per_block):
            forward = 2 * 9 * channels * of_block * heights[block] ** 2
            total += (2 if first else 3) * forward
            channels, first = of_block, False
    total += 3 * 2 * channels * heights[-1] ** 2 * params.embedding_size
    return float(total * params.batch_size)
