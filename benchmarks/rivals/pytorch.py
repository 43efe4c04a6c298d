"""PyTorch with pytorch-metric-learning as a contender: as it comes, and as fast as a user can make it on a CPU.

All of MNIST is a tensor in memory, and the batches are those of this project, so that loading costs nothing. What can
be switched on:

    channels_last   the memory format that oneDNN's convolutions prefer
    bfloat16        autocast of the network, the loss in float32
    fused           Adam in one kernel
    cube            batch all as a loss of one's own over the B x B x B tensor, in place of pytorch-metric-learning's
    compile         `torch.compile` of the network, and of that loss
"""

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from pytorch_metric_learning import distances, losses
from torch import nn

from benchmarks.rivals import serving
from benchmarks.rivals.cases import Case, sides
from model.data import datasets
from model.data.dataset import Split
from model.data.input_fn import train_input_fn
from model.data.partition import divide
from model.params import Params
from model.scoring.classification import knn_correct
from model.scoring.labelled import LabelledEmbeddings

SWITCHES = ("channels_last", "bfloat16", "fused", "cube", "compile")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_network(params: Params) -> nn.Module:
    """Returns the network of an experiment with the network "cnn", for images of 28 x 28 x 1."""
    layers: list[nn.Module] = []
    channels = 1
    for block in range(params.num_blocks):
        of_block = params.num_channels * 2**block
        for _ in range(params.convolutions_per_block):
            layers.append(nn.Conv2d(channels, of_block, 3, padding=1))
            if params.use_batch_norm:
                layers.append(nn.BatchNorm2d(of_block, eps=1e-3, momentum=1 - params.bn_momentum))
            layers.append(nn.ReLU(inplace=True))
            channels = of_block
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    features = channels * sides(params)[-1] ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, params.embedding_size))


def affine(images: torch.Tensor) -> torch.Tensor:
    """Rotates, shears, zooms and shifts images (B, 1, H, W) as this project's augmentation "affine" does."""
    rotation, shear, zoom_x, zoom_y, shift_x, shift_y = 2 * torch.rand(6, len(images)) - 1
    angle = rotation * (10 / 180 * math.pi)
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = 1 + 0.1 * zoom_x, 1 + 0.1 * zoom_y
    top = torch.stack([cos * x, (0.1 * shear * cos - sin) * y, 0.16 * shift_x], 1)
    bottom = torch.stack([sin * x, (0.1 * shear * sin + cos) * y, 0.16 * shift_y], 1)
    grid = nn.functional.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def batch_all_over_the_cube(embeddings: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Batch all as its definition says it: the mean of the positive losses of all triplets."""
    norms = (embeddings * embeddings).sum(1)
    squared = norms[:, None] - 2 * embeddings @ embeddings.T + norms
    lengths = squared.clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    is_positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    is_triplet = is_positive[:, :, None] & ~same[:, None, :]
    each = torch.where(is_triplet, lengths[:, :, None] - lengths[:, None, :] + margin, 0.0).relu()
    return each.sum() / (each > 0).sum().clamp(min=1)


class Trainer:
    """Trains as a user of PyTorch would.

    Args:
        params: The experiment.
        switches: Some of `SWITCHES`.
    """

    def __init__(self, params: Params, switches: set[str]) -> None:
        torch.manual_seed(params.seed)
        self.params, self.switches, self.steps_made = params, switches, 0
        self.data = datasets.load(params.dataset)
        train_input = train_input_fn(divide(self.data, params), params)
        self.batches = train_input.batches
        self.steps_per_epoch = -(-len(train_input.images) // params.batch_size)
        self.max_steps = max_steps = train_input.steps_in(params.num_epochs)
        self.images = torch.tensor(np.asarray(train_input.images).transpose(0, 3, 1, 2).copy())
        self.labels = torch.tensor(train_input.labels)
        network = build_network(params)
        if "channels_last" in switches:
            network = network.to(memory_format=torch.channels_last)
        self.network = network
        self.forward = torch.compile(network) if "compile" in switches else network
        self.loss = self._loss()
        rate = params.learning_rate
        self.optimizer = torch.optim.Adam(network.parameters(), rate, eps=1e-7, fused="fused" in switches)
        warmup, cosine = params.warmup_steps, params.learning_rate_schedule == "cosine"

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = min((step - warmup) / max(max_steps - warmup, 1), 1.0)
            return 0.5 + 0.5 * math.cos(math.pi * done) if cosine else 1.0

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def _loss(self) -> Loss:
        margin = float(self.params.margin or 0.0)
        if "cube" not in self.switches:
            distance = distances.LpDistance(normalize_embeddings=False)
            ours: Loss = losses.TripletMarginLoss(margin=margin, distance=distance)
            return ours
        cube = torch.compile(batch_all_over_the_cube) if "compile" in self.switches else batch_all_over_the_cube
        return lambda embeddings, labels: cube(embeddings, labels, margin)

    def make_steps(self, number: int) -> None:
        """Makes some steps."""
        self.network.train()
        for _ in range(number):
            batch = torch.from_numpy(self.batches(self.steps_made).astype(np.int64))
            images = self.images[batch].float() / 255
            if self.params.augmentation == "affine":
                images = affine(images)
            embeddings = self._embed(images)
            loss = self.loss(embeddings, self.labels[batch])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.steps_made += 1

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        if "channels_last" in self.switches:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in self.switches):
            embeddings = self.forward(images)
        embeddings = embeddings.float()
        return nn.functional.normalize(embeddings) if self.params.normalize_embeddings else embeddings

    def accuracy(self) -> float:
        """Returns how many test images have the label of their nearest training image."""
        self.network.eval()
        return float(knn_correct(self._embedded(self.data.test), self._embedded(self.data.train)).mean())

    def _embedded(self, split: Split) -> LabelledEmbeddings:
        images = torch.tensor(np.asarray(split.images[:]).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            parts = [self._embed(some.float() / 255).numpy() for some in images.split(1000)]
        return LabelledEmbeddings(np.concatenate(parts), split.labels)


def main() -> None:
    """Serves blocks of steps, or trains to the end and prints the accuracy after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--switches", nargs="*", choices=SWITCHES, default=[])
    parser.add_argument("--block", type=int, help="serve blocks of so many steps")
    parser.add_argument("--seed", type=int, default=1, help="of a training to the end")
    options = parser.parse_args()
    params = Case(options.experiment, options.batch_size).params(seed=options.seed)
    trainer = Trainer(params, set(options.switches))
    seconds = 0.0
    if options.block:
        serving.serve(lambda: trainer.make_steps(options.block))
        return
    trainer.make_steps(1)  # compiles; the seconds are those of the steps behind it, as train.py counts them
    while trainer.steps_made < trainer.max_steps:
        made = trainer.steps_made
        number = min(trainer.steps_per_epoch - made % trainer.steps_per_epoch, trainer.max_steps - made)
        started = time.perf_counter()
        trainer.make_steps(number)
        seconds += time.perf_counter() - started
        print(json.dumps({"step": trainer.steps_made, "seconds": seconds, "accuracy": trainer.accuracy()}), flush=True)


if __name__ == "__main__":
    main()
